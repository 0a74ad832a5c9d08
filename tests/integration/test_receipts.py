"""Receipts: taken from the wire with their signatures, and never for longer than a job can last."""

from __future__ import annotations

import datetime as dt
import json
import logging
import threading
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, OperationalError, connection
from django.utils import timezone
from hypothesis import assume, given
from hypothesis import strategies as st

from receipts import ongoing, receipts, service, signatures
from receipts.models import JobAcceptedReceipt, JobStartedReceipt
from receipts.schemas import AnyReceipt, JobStarted, read
from receipts.types import BadReceiptError
from routing.sockets.messages import Accepted, Started
from routing.upkeep.journal import replay
from tests.clock import HOUR, SECOND
from tests.factories import job_request
from tests.jobs import note, of, routed
from tests.ledgers import CLASS, fill_ledger
from tests.receipts import GOLDEN, OTHER, Wire, signed, started
from tests.rows import RECEIPTS, receipt
from tests.threads import side_by_side

pytestmark = pytest.mark.django_db(transaction=True)

NOW = dt.datetime(2026, 11, 26, 12, tzinfo=dt.UTC)
YEAR = 366 * 24 * 3600


def counts() -> list[int]:
    return [model._default_manager.count() for model in RECEIPTS.values()]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def changed(wire: Wire, **fields: Any) -> Wire:
    return {**wire, "payload": {**wire["payload"], **fields}}


def test_receipts_of_compute_horde_s_library_are_taken_and_their_signatures_kept() -> None:
    for wire in GOLDEN:
        receipts().record(wire, now=NOW)
    assert counts() == [1, 1, 1]
    for model, wire in zip(RECEIPTS.values(), GOLDEN, strict=False):
        row = model._default_manager.get()
        assert json.loads(row.signed) == wire["payload"]
        assert row.validator_signature == wire["validator_signature"]
        assert row.miner_signature == wire["miner_signature"]
        assert str(row.job_uuid) == wire["payload"]["job_uuid"]
    assert JobStartedReceipt.objects.get().ttl == 300


@pytest.mark.parametrize("wire", GOLDEN, ids=lambda wire: wire["payload"]["receipt_type"])
def test_their_signatures_hold_and_no_others(wire: Wire) -> None:
    assert signatures.can_verify()
    assert signatures.is_signed(read(wire))
    for forged in (
        changed(wire, timestamp="2026-11-26T12:00:01.123456Z"),
        {**wire, "miner_signature": wire["validator_signature"]},
        {**wire, "validator_signature": wire["miner_signature"]},
        changed(wire, validator_hotkey=OTHER.ss58_address),
        changed(wire, miner_hotkey="anna"),
    ):
        assert not signatures.is_signed(read(forged))
    row = read(wire).model_copy(update={"signed": None})
    assert not signatures.is_signed(row)


BAD: dict[str, object] = {
    "nothing": {},
    "no mapping": [1],
    "no receipt": None,
    "no payload": {"validator_signature": "0x" + "0" * 128, "miner_signature": "0x" + "0" * 128},
    "an unknown type": changed(GOLDEN[0], receipt_type="JobPaidReceipt"),
    "no type": {**GOLDEN[0], "payload": {}},
    "a type that is no text": changed(GOLDEN[0], receipt_type=["JobStartedReceipt"]),
    "an unknown field": changed(GOLDEN[0], priority=1),
    "a field of ours": changed(GOLDEN[0], signed="x"),
    "a bad uuid": changed(GOLDEN[0], job_uuid="x"),
    "a ttl below 0": changed(GOLDEN[0], ttl=-1),
    "a ttl that is no whole number": changed(GOLDEN[0], ttl=1.5),
    "a time without a zone": changed(GOLDEN[0], timestamp="2026-11-26T12:00:00"),
    "what JSON can't say": changed(GOLDEN[0], timestamp=NOW),
    "a short signature": {**GOLDEN[0], "miner_signature": "0x00"},
    "no signature": {"payload": GOLDEN[0]["payload"], "validator_signature": GOLDEN[0]["validator_signature"]},
    "too many blocks": changed(GOLDEN[2], block_numbers=[1] * 10_001),
    "a score of 65 characters": changed(GOLDEN[2], score_str="1" * 65),
    "one from the future": changed(GOLDEN[0], timestamp="2026-11-26T12:01:00.000001Z"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_receipt_is_refused_in_a_sentence_and_not_stored(name: str) -> None:
    bad: Any = BAD[name]
    with pytest.raises(BadReceiptError) as refusal:
        receipts().record(bad, now=NOW)
    assert isinstance(refusal.value, ValueError)
    assert len(str(refusal.value)) < 500
    assert "http" not in str(refusal.value)
    assert counts() == [0, 0, 0]


def test_many_are_stored_but_for_bad_ones_which_are_told() -> None:
    bad: list[Any] = [*BAD.values()]
    refused = receipts().record_many([*bad, *GOLDEN], now=NOW)
    assert [refusal.index for refusal in refused] == list(range(len(bad)))
    assert all(refusal.reason for refusal in refused)
    named = {name: str(refusal.job_uuid) for name, refusal in zip(BAD, refused, strict=True)}
    assert named["one from the future"] == GOLDEN[0]["payload"]["job_uuid"]
    assert named["a bad uuid"] == named["nothing"] == named["no mapping"] == "None"
    assert counts() == [1, 1, 1]
    assert receipts().record_many(GOLDEN, now=NOW) == []
    assert receipts().record_many([]) == []
    assert counts() == [1, 1, 1]


@pytest.mark.parametrize("change", [{"valid_until": NOW + YEAR * SECOND}, {"timestamp": NOW - 2 * HOUR}], ids=str)
def test_a_row_that_was_changed_past_the_checks_keeps_nobody_busy_for_longer(change: dict[str, dt.datetime]) -> None:
    receipts().record(JobStarted(**SIDES, executor_class=CLASS, ttl=3700), now=NOW)
    JobStartedReceipt.objects.update(**change)
    since = JobStartedReceipt.objects.get().timestamp
    busy = [receipts().get_busy_executor_count(CLASS, since + ttl * SECOND) for ttl in (3700, 3701)]
    assert busy == [{"anna": 1}, {}]
    assert ongoing.ends(CLASS, ["anna"], since)[("anna", SIDES["job_uuid"])] == since + 3700 * SECOND


def deep(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


NOTHING: dict[str, Any] = {}
SIDES: dict[str, Any] = {"job_uuid": UUID(int=7), "miner_hotkey": "anna", "validator_hotkey": "v", "timestamp": NOW}


@pytest.mark.parametrize(
    "bad",
    [
        changed(GOLDEN[0], ttl=10**5000),
        changed(GOLDEN[0], job_uuid=deep(50_000)),
        JobStarted.model_construct(**SIDES, executor_class=CLASS, ttl=-1),
        JobStarted.model_construct(**NOTHING),
    ],
    ids=["a long number", "a deep uuid", "unchecked", "empty"],
)
def test_whatever_is_wrong_with_one_the_others_are_stored(bad: Any) -> None:
    (refused,) = receipts().record_many([bad, *GOLDEN], now=NOW)
    assert refused.index == 0
    assert refused.reason
    assert counts() == [1, 1, 1]


@pytest.mark.parametrize("most", [-1, 1.5, float("nan"), None, "9", True])
def test_seconds_that_no_job_can_last_are_refused(most: Any) -> None:
    with pytest.raises(BadReceiptError, match="most must be a whole number"):
        receipts().record(GOLDEN[0], most=most, now=NOW)
    assert counts() == [0, 0, 0]


def record_in_opposite_orders() -> list[object]:
    """Let two threads record the same receipts, one of them backwards; return what was raised."""
    same = [receipt(JobStarted, at=NOW) for _ in range(100)]
    ready = threading.Barrier(2)

    def record(some: list[AnyReceipt]) -> None:
        ready.wait()
        receipts().record_many(some, now=NOW)

    raised = side_by_side(lambda: record(same), lambda: record(same[::-1]))
    assert all(error is None or isinstance(error, OperationalError) for error in raised)
    return [error for error in raised if error is not None]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time")
def test_callers_that_record_the_same_do_not_wait_for_each_other_in_a_circle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "BATCH", 1)  # each row is inserted by itself
    assert [record_in_opposite_orders() for _ in range(10)] == [[]] * 10


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time")
def test_control_in_the_order_of_the_callers_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "BATCH", 1)
    monkeypatch.setattr(service, "attrgetter", lambda _: lambda _: 0)
    assert any(record_in_opposite_orders() for _ in range(50))


def test_a_receipt_may_be_a_minute_ahead() -> None:
    receipts().record(changed(GOLDEN[0], timestamp="2026-11-26T12:01:00Z"), now=NOW)
    assert counts() == [1, 0, 0]


def test_a_long_ttl_is_clipped_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    long = [started(NOW, ttl=ttl) for ttl in (3700, 3701, YEAR, 2**60)]
    assert receipts().record_many(long, now=NOW) == []
    assert set(JobStartedReceipt.objects.values_list("ttl", flat=True)) == {3700}
    (warning,) = warnings(caplog)
    assert "3 of 4" in warning
    assert max(JobStartedReceipt.objects.values_list("valid_until", flat=True)) == NOW + 3700 * SECOND
    assert max(json.loads(receipt.signed)["ttl"] for receipt in JobStartedReceipt.objects.all()) == 2**60


@pytest.mark.parametrize(("most", "kept"), [(130, 130), (3700, 3700), (10**6, 3700)])
def test_who_knows_the_job_bounds_its_receipt_further(most: int, kept: int, caplog: pytest.LogCaptureFixture) -> None:
    receipts().record(started(NOW, ttl=YEAR), most=most, now=NOW)
    assert JobStartedReceipt.objects.get().ttl == kept
    assert len(warnings(caplog)) == 1


def test_the_database_takes_no_longer_one_either() -> None:
    with pytest.raises(IntegrityError):
        JobStartedReceipt.objects.create(**SIDES, executor_class=CLASS, ttl=3701)
    with pytest.raises(IntegrityError):
        JobAcceptedReceipt.objects.create(**SIDES, time_accepted=NOW, ttl=3701)


def test_a_journal_is_clipped_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    sides = {"miner_hotkey": "anna", "validator_hotkey": "v", "timestamp": NOW.isoformat()}
    lines = []
    for _ in range(3):
        job = {"job_uuid": str(uuid4()), **sides, "ttl": YEAR}
        lines.append({"event": "job_started", **job, "executor_class": CLASS})
        lines.append({"event": "job_accepted", **job, "time_accepted": NOW.isoformat()})
    assert len(list(replay((json.dumps(line).encode() for line in lines), batch=2))) == 6
    assert {*JobStartedReceipt.objects.values_list("ttl", flat=True)} == {3700}
    assert {*JobAcceptedReceipt.objects.values_list("ttl", flat=True)} == {3700}
    (warning,) = warnings(caplog)
    assert "6 receipts" in warning


@pytest.mark.parametrize("kind", [Started, Accepted])
def test_a_socket_refuses_more_than_the_job_can_last(kind: Any) -> None:
    fill_ledger("anna")
    offer = routed(job_request(30))
    with pytest.raises(ValueError, match="130 s"):
        note(of(offer, kind, ttl=131))
    with pytest.raises(ValueError, match="60 s ahead"):
        note(of(offer, kind, timestamp=timezone.now() + HOUR))
    assert counts() == [0, 0, 0]
    note(of(offer, kind, ttl=130))
    assert sum(counts()) == 1


async def test_the_twins_do_the_same_in_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    first = GOLDEN[0]["payload"]
    validate = read

    def noted(receipt: Any) -> Any:
        threads.append(threading.current_thread().name)
        return validate(receipt)

    monkeypatch.setattr("receipts.service.read", noted)
    await receipts().arecord(GOLDEN[0], now=NOW)
    assert [refusal.index for refusal in await receipts().arecord_many([{}, *GOLDEN], now=NOW)] == [0]
    with pytest.raises(ValueError, match="payload"):
        await receipts().arecord({})
    at = dt.datetime.fromisoformat(first["timestamp"])
    assert await receipts().aget_busy_executor_count(CLASS, at) == {}  # it is finished
    assert await receipts().aget_busy_executor_count(CLASS, at - HOUR) == {}
    assert {name.partition("_")[0] for name in threads} == {"allowance"}


def test_instances_are_taken_as_they_are() -> None:
    made = [receipt(kind, at=NOW) for kind in RECEIPTS]
    assert receipts().record_many(made, now=NOW) == []
    assert counts() == [1, 1, 1]
    assert {model._default_manager.get().signed for model in RECEIPTS.values()} == {""}
    assert not any(signatures.is_signed(receipt) for receipt in made)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=5,
)


@given(st.sampled_from(GOLDEN), st.data(), JSON)
def test_whatever_stands_instead_of_something_signed_is_refused(wire: Wire, data: st.DataObject, value: Any) -> None:
    field = data.draw(st.sampled_from([*wire["payload"], "more"]))
    assume(json.dumps(value) != json.dumps(wire["payload"].get(field)))
    try:
        receipt = read(changed(wire, **{field: value}))
    except BadReceiptError:
        return
    assert not signatures.is_signed(receipt)


def test_a_receipt_is_signed_as_sorted_json_whatever_the_order_of_its_fields() -> None:
    wire = GOLDEN[0]
    assert signatures.is_signed(read({**wire, "payload": dict(sorted(wire["payload"].items(), reverse=True))}))
    assert signatures.is_signed(read(signed(started(NOW)["payload"])))
