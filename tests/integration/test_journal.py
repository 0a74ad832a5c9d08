"""Reading a journal: from wherever it comes; and what is wrong with it is told by its line."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
import sys
import zlib
from codecs import BOM_UTF8
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction

from allowance.models import Block
from routing.upkeep.journal import MAX_BLANK, MAX_LINE
from tests.factories import run_command, stored
from tests.ledgers import CLASS
from tests.programs import Finished
from tests.rows import AXON, FAILED

NOW = dt.datetime(2026, 1, 3, 12, tzinfo=dt.UTC)
JOB = str(UUID(int=1))
pytestmark = [pytest.mark.django_db, pytest.mark.time_machine(NOW, tick=False)]
BLOCK: dict[str, Any] = {"event": "block", "number": 1, "timestamp": "2026-01-01T00:00:12Z", "stake_share": 0.5}
MANIFESTS: dict[str, Any] = {"event": "manifests", "block": 1, "axons": {}, "executors": {}}
OF_JOB = {"job_uuid": JOB, "executor_class": CLASS, "timestamp": "2026-01-01T00:00:12Z"}
INCIDENT = {"event": "incident", "type": FAILED, "hotkey": "hot-1", **OF_JOB}
STARTED = {"event": "job_started", "miner_hotkey": "hot-1", "validator_hotkey": "us", "ttl": 60, **OF_JOB}
VOID = {"voided_at": "2026-01-01T06:00:00Z", "voided_by": "boss", "void_reason": "no fault of its"}
RESERVATION = {
    "event": "reservation",
    "id": 5,
    "miner": "hot-1",
    "executor_class": CLASS,
    "blocks": [1],
    "created_at": "2026-01-01T00:00:12Z",
    "expires_at": "2026-01-01T00:10:12Z",
    "state": "held",
}


def line(event: dict[str, Any], /, **fields: Any) -> bytes:
    return json.dumps({**event, **fields}).encode()


def without(event: dict[str, Any], name: str) -> bytes:
    return json.dumps({k: v for k, v in event.items() if k != name}).encode()


def some_blocks(count: int) -> bytes:
    times = (NOW - dt.timedelta(seconds=12 * i) for i in reversed(range(count)))
    return b"".join(line(BLOCK, number=i, timestamp=t.isoformat()) + b"\n" for i, t in enumerate(times, start=1))


def recorded_blocks() -> list[int]:
    return list(Block.objects.order_by("pk").values_list("pk", flat=True))


def replay(folder: Path, content: bytes, *options: str, name: str = "journal.jsonl") -> Finished:
    (folder / name).write_bytes(content)
    return run_command("replay_journal", folder / name, *options)


def feed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Make `content` what is on standard input."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(content))))


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        pytest.param(b"{no json", "JSON", id="no JSON"),
        pytest.param(line(BLOCK)[:-9], "JSON", id="JSON that breaks off"),
        pytest.param(b"[" * 10_000, "JSON", id="brackets without end"),
        pytest.param(b"[1, 2]", "object", id="a list"),
        pytest.param(b'"block"', "object", id="a text"),
        pytest.param(b"null", "object", id="null"),
        pytest.param(b'{"event": "collateral", "hotkey": "h\xff", "wei": "1"}', "JSON", id="invalid UTF-8"),
        pytest.param(line(BLOCK, event="party"), "party", id="an unknown event"),
        pytest.param(without(BLOCK, "event"), "event", id="no event"),
        pytest.param(without(BLOCK, "timestamp"), "timestamp", id="a missing field"),
        pytest.param(line(BLOCK, colour="red"), "colour", id="an extra field"),
        pytest.param(line(BLOCK, number="2"), "number", id="a number in a text"),
        pytest.param(line(BLOCK, number=2.0), "number", id="a number with a point"),
        pytest.param(line(BLOCK, stake_share="0.5"), "stake_share", id="a share in a text"),
        pytest.param(
            b'{"event": "block", "number": 2, "timestamp": "2026-01-02T00:00Z", "stake_share": NaN}',
            "stake",
            id="a share that is no number",
        ),
        pytest.param(line(BLOCK, hotkeys="hot-1"), "hotkeys", id="a text for a list"),
        pytest.param(line(BLOCK, number=2, hotkeys=["h" * 49]), "hotkey", id="a long hotkey among the neurons"),
        pytest.param(line(BLOCK, number=2, timestamp="2026-01-02T00:00:00"), "timestamp", id="a naive timestamp"),
        pytest.param(line(BLOCK, number=2, timestamp="2025-12-31T00:00:00Z"), "Block 2", id="a block out of order"),
        pytest.param(line(BLOCK, number=2**32), str(2**32), id="a huge block number"),
        pytest.param(
            line(MANIFESTS, axons={"hot-1": AXON}, executors={"hot-1": {CLASS: -1}}), "-1", id="a negative count"
        ),
        pytest.param(
            line(MANIFESTS, axons={"hot-1": AXON}, executors={"hot-1": {"gpu": 1}}), "gpu", id="an unknown class"
        ),
        pytest.param(line(MANIFESTS, axons={"hot-1": {}}), "hot-1", id="an axon without an address"),
        pytest.param(line(MANIFESTS, executors={"hot-1": {}}), "hot-1", id="a manifest without an axon"),
        pytest.param(b'{"event": "collateral", "hotkey": "hot-1", "wei": 5}', "wei", id="Wei as a number"),
        pytest.param(b'{"event": "collateral", "hotkey": "", "wei": "5"}', "hotkey", id="an empty hotkey"),
        pytest.param(line(INCIDENT, hotkey="hot\0key"), "hotkey", id="a hotkey with a NUL"),
        pytest.param(line(INCIDENT, job_uuid="job"), "job_uuid", id="a bad uuid"),
        pytest.param(line(INCIDENT, type="LATE"), "LATE", id="an unknown incident"),
        pytest.param(line(INCIDENT, voided_at=VOID["voided_at"]), "void_reason, or none", id="a void without a name"),
        pytest.param(line(INCIDENT, **{**VOID, "voided_at": None}), "void_reason, or none", id="a void without a time"),
        pytest.param(
            line(INCIDENT, **{**VOID, "void_reason": None}), "void_reason, or none", id="a void without a reason"
        ),
        pytest.param(line(INCIDENT, **{**VOID, "void_reason": ""}), "a reason", id="a void with an empty reason"),
        pytest.param(line(INCIDENT, **{**VOID, "voided_by": " "}), "a name", id="a void by nobody"),
        pytest.param(line(INCIDENT, **{**VOID, "voided_by": "b" * 151}), "a name", id="a void by a long name"),
        pytest.param(line(INCIDENT, **{**VOID, "voided_at": "2026-01-01T06:00:00"}), "voided_at", id="a naive void"),
        pytest.param(line(STARTED, ttl=-1), "ttl", id="a negative ttl"),
        pytest.param(line(STARTED, miner_hotkey="hot\0key"), "miner_hotkey", id="a receipt's hotkey with a NUL"),
        pytest.param(line(STARTED, timestamp="2026-01-01T00:00:00"), "timestamp", id="a receipt's naive timestamp"),
        pytest.param(line(RESERVATION), "hot-1", id="a reservation without its account"),
        pytest.param(line(RESERVATION, state="spent"), "ended_at", id="an end without a time"),
        pytest.param(line(RESERVATION, expires_at=RESERVATION["created_at"]), "expires_at", id="no time to hold"),
        pytest.param(line(RESERVATION, state="lost"), "state", id="an unknown state"),
        pytest.param(line(RESERVATION, id=2**53), "id", id="a huge reservation id"),
        pytest.param(line(RESERVATION, blocks=[-1]), "blocks", id="a negative block"),
        pytest.param(b" " * MAX_LINE + line(BLOCK, number=8), "longer", id="a line without an end"),
    ],
)
def test_a_bad_line_is_told_with_its_number_and_ends_the_replay(bad: bytes, named: str, tmp_path: Path) -> None:
    good = line(BLOCK)
    with transaction.atomic():
        replay(tmp_path, good)
        expected = stored()
        transaction.set_rollback(True)
    ended = replay(tmp_path, b"\n".join([good, b"", bad, line(BLOCK, number=9, timestamp="2026-01-03T00:00:00Z")]))
    assert ended.code == 2
    assert ended.err.startswith("Line 3: ")
    assert named in ended.err
    assert ended.out == "Replayed 1 entries: 1 block.\n"
    assert stored() == expected


def test_a_bad_line_is_told_in_json_too(tmp_path: Path) -> None:
    ended = replay(tmp_path, line(BLOCK) + b"\n{", "--format", "json")
    report = json.loads(ended.out)
    assert (ended.code, report["recorded"], report["error"]["line"]) == (2, {"block": 1}, 2)
    assert report["error"]["problem"] in ended.err


def test_a_good_journal_is_told_in_json(tmp_path: Path) -> None:
    content = line(BLOCK) + b"\n\n" + line(INCIDENT) + b"\n" + line(STARTED)
    ended = replay(tmp_path, content, "--format", "json")
    assert ended == (0, ended.out, "")
    assert json.loads(ended.out) == {"recorded": {"block": 1, "incident": 1, "job_started": 1}, "error": None}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("way", ["file", "stdin"])
def test_a_journal_may_be_a_file_or_standard_input_plain_or_compressed(
    way: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = gzip.compress(some_blocks(3)) if packed else some_blocks(3)
    feed(monkeypatch, content)
    ended = run_command("replay_journal", "-") if way == "stdin" else replay(tmp_path, content)
    assert ended == (0, "Replayed 3 entries: 3 block.\n", "")
    assert recorded_blocks() == [1, 2, 3]


@pytest.mark.parametrize("content", [b"", b"\n \n", gzip.compress(b"")], ids=["empty", "blank", "packed"])
def test_an_empty_journal_is_fine(content: bytes, tmp_path: Path) -> None:
    assert replay(tmp_path, content) == (0, "Replayed 0 entries.\n", "")


@pytest.mark.parametrize("way", ["file", "stdin"])
def test_a_truncated_gzip_is_reported_with_its_line(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(some_blocks(250))
    cut = packed[: len(packed) * 3 // 4]
    whole = zlib.decompressobj(wbits=31).decompress(cut).count(b"\n")
    feed(monkeypatch, cut)
    ended = run_command("replay_journal", "-") if way == "stdin" else replay(tmp_path, cut, name="journal.jsonl.gz")
    assert ended.code == 2
    assert ended.err.startswith(f"Line {whole + 1}: the compressed file is damaged")
    assert recorded_blocks() == list(range(1, whole + 1))


def test_a_gzip_with_a_wrong_checksum_is_reported_behind_its_last_line(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(some_blocks(150)))
    packed[-8] ^= 0xFF
    ended = replay(tmp_path, bytes(packed))
    assert ended.code == 2
    assert ended.err.startswith("Line 151: the compressed file is damaged")
    assert recorded_blocks() == list(range(1, 151))


@pytest.mark.parametrize("start", [2, 12, 200, 500], ids=lambda start: f"from byte {start}")
def test_a_corrupted_gzip_is_reported_and_the_lines_before_are_stored(start: int, tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(some_blocks(150)))
    packed[start : start + 60] = b"\xff" * 60
    ended = replay(tmp_path, bytes(packed), "--format", "json")
    assert ended.code == 2
    assert len(recorded_blocks()) == json.loads(ended.out)["error"]["line"] - 1


@pytest.mark.parametrize("blank", [b"\n", b" " * 1000 + b"\n", b"\r\n"], ids=["empty", "spaces", "Windows"])
def test_blank_lines_have_a_bound_and_what_stands_before_them_is_stored(blank: bytes, tmp_path: Path) -> None:
    """A .gz of 300 MB of them is 300 kB."""
    few = blank * (MAX_BLANK // len(blank) // 3)
    ended = replay(tmp_path, gzip.compress(few + line(BLOCK) + b"\n" + few + line(MANIFESTS) + b"\n" + few))
    assert (ended.code, ended.err) == (0, "")
    told = line(BLOCK, number=2) + b"\n"
    for packed in (few + told + few * 300, few + (told + few) * 300):
        ended = replay(tmp_path, gzip.compress(packed))
        assert ended.code == 2
        assert f"too many blank lines: {MAX_BLANK} bytes more than the other lines" in ended.err
    number = (MAX_BLANK + len(told)) // len(blank) + 2
    assert replay(tmp_path, gzip.compress(few + told + few * 300)).err.startswith(f"Line {number}: ")
    assert recorded_blocks() == [1, 2]


@pytest.mark.parametrize("packed", [False, True])
def test_a_byte_order_mark_is_no_part_of_the_first_line(packed: bool, tmp_path: Path) -> None:
    text = BOM_UTF8 + line(BLOCK) + b"\n"
    assert replay(tmp_path, gzip.compress(text) if packed else text).code == 0
    assert replay(tmp_path, BOM_UTF8).code == 0
    assert recorded_blocks() == [1]
    assert replay(tmp_path, line(BLOCK) + b"\n" + text).err.startswith("Line 2: ")


@pytest.mark.parametrize("name", ["nowhere.jsonl", "."], ids=["missing", "a folder"])
def test_a_file_that_can_t_be_read_is_named(name: str, tmp_path: Path) -> None:
    ended = run_command("replay_journal", tmp_path / name)
    assert (ended.code, ended.out) == (2, "")
    assert str(tmp_path / name) in ended.err
