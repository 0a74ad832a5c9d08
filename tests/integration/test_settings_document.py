"""The dynamic settings from a document: what it may say, what is stored of it, and what a bad one changes (nothing)."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from constance import config
from constance.models import Constance
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from allowance import clock
from allowance.follow.limits import limits_text, parse_limits
from allowance.follow.running import attempt
from allowance.models import Account, SourceReport
from allowance.types import BadInputError
from routing import routing
from routing.decision import in_force
from routing.dynamic import EXECUTOR_LIMITS, MINIMUM_WEI, UNUSED_BLOCKS, WINDOW_HOURS
from routing.upkeep import document, fetching
from routing.upkeep.document import EVERY, DocumentError, DocumentLoop, document_loop
from routing.upkeep.fetching import fetch
from routing.upkeep.following import executor_limits
from tests.chains import VALIDATOR, Chain
from tests.clock import NOW
from tests.complaints import assert_only_complaint
from tests.factories import job_request
from tests.ledgers import CLASS, FIRST_BLOCK, NEWEST, fill_ledger

pytestmark = pytest.mark.django_db(transaction=True)

PLACE = "/etc/router/settings.json"


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda *_, **__: NOW)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def apply(document: object) -> document.Changes:
    return DocumentLoop(PLACE).apply(document if isinstance(document, bytes) else json.dumps(document).encode())


def item(value: object, since: str | None = None) -> dict[str, object]:
    return {"value": value, **({"effective_from": since} if since else {})}


def entry(*items: dict[str, object]) -> dict[str, object]:
    return {"description": "What it is.", "items": [*items]}


@pytest.mark.usefixtures("pinned")
def test_values_are_stored_as_the_admin_would_and_told_old_and_new(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    values = {
        MINIMUM_WEI: 2**256 - 1,
        WINDOW_HOURS: 12,
        UNUSED_BLOCKS: 15,
        EXECUTOR_LIMITS: {"always_on.llm.a6000": 2, "always_on.new": 0},
        "DYNAMIC_BURN_RATE": 0.9,
    }
    loop = DocumentLoop(PLACE)
    loop.apply(json.dumps(values).encode())
    assert in_force.policy() == in_force.make_policy(2**256 - 1, 12.0, 15)
    assert executor_limits() == {"always_on.llm.a6000": 2, "always_on.new": 0}
    assert f"{UNUSED_BLOCKS} changed from 0 to 15, as {PLACE} says" in caplog.text
    assert f"{MINIMUM_WEI} changed from 0 to {2**256 - 1}" in caplog.text
    assert f"These settings of {PLACE} are not used: 'DYNAMIC_BURN_RATE'" in caplog.text
    assert loop.detail == {
        "changed": {
            EXECUTOR_LIMITS: ["", "always_on.llm.a6000=2,always_on.new=0"],
            MINIMUM_WEI: ["0", str(2**256 - 1)],
            UNUSED_BLOCKS: ["0", "15"],
            WINDOW_HOURS: ["24.0", "12.0"],
        },
        "changed_at": NOW.isoformat(),
        "ignored": ["'DYNAMIC_BURN_RATE'"],
    }
    caplog.clear()
    loop.apply(json.dumps(values).encode())
    assert not caplog.records


def test_a_document_that_changes_nothing_writes_nothing() -> None:
    values = {MINIMUM_WEI: "0.01 TAO", WINDOW_HOURS: 24, UNUSED_BLOCKS: 7}
    assert apply(values).keys() == {MINIMUM_WEI, UNUSED_BLOCKS}
    with CaptureQueriesContext(connection) as captured:
        assert apply(values) == {}
    assert {query["sql"].split()[0] for query in captured} == {"SELECT"}


def test_a_pick_sees_the_change() -> None:
    fill_ledger("anna")
    assert routing().pick(job_request(12)).allowance_blocks == [FIRST_BLOCK]
    apply({UNUSED_BLOCKS: FIRST_BLOCK + 5 - (NEWEST - 722)})
    assert routing().pick(job_request(12)).allowance_blocks == [FIRST_BLOCK + 5]


@pytest.mark.usefixtures("pinned")
@pytest.mark.parametrize(
    ("items", "blocks"),
    [
        ([item(1)], 1),
        ([item(1), item(2)], 2),
        ([item(1), item(2, NOW.isoformat())], 2),
        ([item(1), item(2, NOW.isoformat().replace("2026", "9026"))], 1),
        ([item(3, "2020-01-01T00:00:00Z"), item(1, "2021-01-01T00:00:00+02:00")], 1),
        ([item(1, "9026-01-01T00:00:00Z")], 5),
        ([], 5),
    ],
)
def test_of_computehorde_s_items_the_last_one_in_force_counts(items: list[dict[str, object]], blocks: int) -> None:
    config.DYNAMIC_ROUTING_UNUSED_BLOCKS = 5
    apply({UNUSED_BLOCKS: entry(*items)})
    assert in_force.policy().unused_blocks == blocks


def test_a_value_is_not_changed_by_a_document_without_it() -> None:
    config.DYNAMIC_ROUTING_UNUSED_BLOCKS = 5
    assert apply({WINDOW_HOURS: 1}).keys() == {WINDOW_HOURS}
    assert in_force.policy() == in_force.make_policy(0, 1.0, 5)


BAD_VALUES: dict[str, list[Any]] = {
    MINIMUM_WEI: [-1, 1.5, 2**256, True, None, [], "10.000", {"a": 1}],
    UNUSED_BLOCKS: [-1, 723, 1.5, False, "", [1]],
    WINDOW_HOURS: [-1, 9000, True, float("nan"), float("inf")],
    EXECUTOR_LIMITS: [1, "a", "a=-1", {"a": 1.5}, {"a": {}}],
}


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe\x00", "can't be used"),
        (b"[" * 200_000, "nested too deeply"),
        (b"9" * 5000, "can't be used"),
        ([1], "it is not a JSON object"),
        *(({name: value}, f"{name} is") for name, values in BAD_VALUES.items() for value in values),
        ({UNUSED_BLOCKS: {"items": 1}}, f"{UNUSED_BLOCKS}.items: Input should be a valid list"),
        ({UNUSED_BLOCKS: {"items": [{}]}}, f"{UNUSED_BLOCKS}.items.0.value: Field required"),
        ({UNUSED_BLOCKS: entry(item(1, "2026-01-01T00:00:00"))}, "timezone"),
        ({UNUSED_BLOCKS: entry(item(1, "soon"))}, f"{UNUSED_BLOCKS}.items.0.effective_from"),
    ],
    ids=repr,
)
def test_a_bad_document_changes_nothing(bad: object, problem: str) -> None:
    good = {MINIMUM_WEI: 5, UNUSED_BLOCKS: 5, WINDOW_HOURS: 5, EXECUTOR_LIMITS: "always_on.test=5"}
    with pytest.raises(DocumentError) as error:
        apply({**good, **bad} if isinstance(bad, dict) else bad)
    assert problem in str(error.value)
    assert PLACE in str(error.value)
    assert in_force.policy() == in_force.make_policy(0, 24.0)
    assert not Constance.objects.exists()


def test_a_value_that_constance_does_not_store_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constance catches errors of the database, and goes on as if it had stored the value."""
    monkeypatch.setattr(type(config._backend), "set", lambda *_: None)
    with pytest.raises(RuntimeError, match=f"Constance did not store {UNUSED_BLOCKS}"):
        apply({UNUSED_BLOCKS: 7})


def test_all_values_are_stored_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = type(config._backend)
    store = backend.set

    def fail_at_last(self: Any, key: str, value: object) -> None:
        if key == UNUSED_BLOCKS:
            raise RuntimeError("the disk is full")
        store(self, key, value)

    monkeypatch.setattr(backend, "set", fail_at_last)
    with pytest.raises(RuntimeError, match="the disk is full"):
        apply({MINIMUM_WEI: 5, UNUSED_BLOCKS: 7})
    assert in_force.policy() == in_force.make_policy(0, 24.0)


Answers = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def served(answers: Answers) -> Iterator[str]:
    """Serve on loopback, and yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def answer(handler: BaseHTTPRequestHandler, body: bytes = b"", code: int = 200, **headers: str) -> None:
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def step(location: str) -> tuple[float, str]:
    """Make a step as the follower does. Return the wait and the error."""
    return async_to_sync(attempt)(DocumentLoop(location))


@pytest.mark.usefixtures("pinned")
def test_the_follower_reads_a_url_every_five_minutes_and_reports() -> None:
    with served(lambda it: answer(it, json.dumps({UNUSED_BLOCKS: 7}).encode())) as place:
        assert step(f"{place}/settings.json?token=secret") == (EVERY, "")
    report = SourceReport.objects.get()
    assert (report.name, report.adapter) == ("settings", f"{place}/settings.json")
    assert report.good_at == NOW
    assert report.detail["changed"] == {UNUSED_BLOCKS: ["0", "7"]}
    assert report.detail["calls"]["read"][:2] == [1, 0]
    assert in_force.policy().unused_blocks == 7


def test_the_follower_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    wait, error = step(str(path))
    assert wait == DocumentError.wait
    assert "No such file or directory" in error
    assert SourceReport.objects.get().failures == 1
    path.write_text(json.dumps({UNUSED_BLOCKS: 7}))
    assert step(str(path)) == (EVERY, "")
    assert in_force.policy().unused_blocks == 7
    path.write_text("{}")
    assert step(str(path)) == (EVERY, "")
    path.write_bytes(b" " * (fetching.LARGEST + 1))
    assert "it is larger than 1048576 bytes." in step(str(path))[1]
    assert in_force.policy().unused_blocks == 7


def redirecting(to: str) -> Answers:
    def redirect(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/first":
            answer(handler, code=302, Location=to)
        else:
            answer(handler, b"{}")

    return redirect


def test_a_redirect_stays_on_its_host() -> None:
    with served(redirecting("/second")) as place:
        assert fetch(f"{place}/first") == b"{}"
    with served(lambda it: answer(it, b"{}")) as other:
        with served(redirecting(f"{other}/?token=secret")) as place:
            assert f"it redirects to {other}/." in step(f"{place}/first")[1]
        with served(redirecting("file:///etc/passwd")) as place:
            assert "is not allowed" in step(f"{place}/first")[1]


def speak_nonsense(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"nonsense\r\n\r\n")


def test_what_a_server_does_wrong_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(lambda it: answer(it, code=404)) as place:
        assert "HTTP Error 404: Not Found." in step(place)[1]
    assert "Connection refused" in step(place)[1]
    with served(speak_nonsense) as place:
        assert "can't be used" in step(place)[1]
    with served(lambda it: answer(it, b" " * (fetching.LARGEST + 1))) as place:
        assert "it is larger than" in step(place)[1]
    ended = Event()

    def wait(_handler: BaseHTTPRequestHandler) -> None:
        ended.wait(60)

    monkeypatch.setattr(document, "DEADLINE", 0.05)
    with served(wait) as place:
        assert "The call read had no answer within 0.05 s." in step(place)[1]
        ended.set()


def test_an_endless_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(range(0, 1000, 5))
    monkeypatch.setattr(fetching.time, "monotonic", lambda: next(moments))  # type: ignore[attr-defined]

    class Endless:
        def read1(self, _size: int) -> bytes:
            return b"x"

    with pytest.raises(TimeoutError, match="it takes too long to read"):
        fetching._read(Endless(), fetching.DEADLINE)


def test_there_is_no_loop_unless_a_document_is_named(settings: Settings) -> None:
    assert document_loop() is None
    settings.ROUTING_DYNAMIC_FROM = PLACE
    loop = document_loop()
    assert loop
    assert loop.location == PLACE


@pytest.mark.parametrize("place", ["ftp://host/x", "file:///etc/x", "https:///x", "https://me:secret@host/x"])
def test_a_location_that_can_t_be_read_is_named(place: str, settings: Settings) -> None:
    settings.ROUTING_DYNAMIC_FROM = place
    assert_only_complaint("routing.E040", "ROUTING_DYNAMIC_FROM", "host" if "host" in place else "x")
    with pytest.raises(ImproperlyConfigured) as error:
        document_loop()
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("", {}),
        (" ", {}),
        ("{}", {}),
        ("always_on.llm.a6000=2", {"always_on.llm.a6000": 2}),
        (" always_on.test = 1 , always_on.gpu-24gb=0 ", {"always_on.test": 1, "always_on.gpu-24gb": 0}),
        (
            '{"always_on.test": 1, "spin_up-4min.gpu-24gb": 100000}',
            {"always_on.test": 1, "spin_up-4min.gpu-24gb": 100_000},
        ),
    ],
)
def test_limits_are_read_as_computehorde_writes_them_or_as_json(text: str, limits: dict[str, int]) -> None:
    assert parse_limits(text) == limits
    assert parse_limits(limits_text(limits)) == limits


@pytest.mark.parametrize(
    "text",
    ["a", "a=", "=1", "a=1,", "a=x", "a=-1", "a=1.5", "a=100001", "a=1,a=2", "a b=1", '{"a": "1"}', '{"a": true}', "{"],
)
def test_bad_limits_are_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="Write them as"):
        parse_limits(text)


def test_limits_are_those_of_the_settings_until_an_operator_sets_others(settings: Settings) -> None:
    settings.MANIFEST_LIMITS = {"always_on.test": 3}
    assert executor_limits() == {"always_on.test": 3}
    call_command("constance", "set", EXECUTOR_LIMITS, '{"always_on.test": 4}')
    assert config.DYNAMIC_MINER_MAX_EXECUTORS_PER_CLASS == "always_on.test=4"
    assert executor_limits() == {"always_on.test": 4}
    call_command("constance", "set", EXECUTOR_LIMITS, "")
    assert executor_limits() == {"always_on.test": 3}


class Boasting(Chain):
    """A chain whose newest block is new, and whose miner declares nine executors."""

    def __init__(self) -> None:
        head = 3
        super().__init__(head, begins=timezone.now() - dt.timedelta(seconds=12 * head), executors={"alice": {CLASS: 9}})


@pytest.mark.parametrize("limit", [9, 4, 0])
def test_the_follower_uses_the_document_and_its_limits(limit: int, settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({UNUSED_BLOCKS: 7, EXECUTOR_LIMITS: f"{CLASS}={limit}"}))
    settings.ROUTING_DYNAMIC_FROM = str(path)
    settings.CHAIN_SOURCE, settings.VALIDATOR_HOTKEY = f"{__name__}.Boasting", VALIDATOR
    call_command("follow_chain", "--once", "--only", "settings", stdout=StringIO())
    assert in_force.policy().unused_blocks == 7
    assert not Account.objects.exists()
    call_command("follow_chain", "--once", "--only", "blocks,manifests", stdout=StringIO())
    assert {row.miner_id: row.executors for row in Account.objects.filter(executors__gt=0)}.get("alice", 0) == limit
