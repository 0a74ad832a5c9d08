"""What is taken of the receipts that a miner serves, and why the rest is refused."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from bittensor_core import Keypair
from django.db import DataError, connection, models
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt, Receipt
from receipts.schemas import AnyReceipt
from receipts.transfer import intake
from receipts.transfer.intake import Intake, Refused, read_line
from receipts.transfer.pages import LONGEST_LINE
from receipts.types import MAX_TTL
from receipts.voiding import void_receipt
from tests.clock import DAY, MINUTE, NOW, SECOND, TICK
from tests.receipts import GOLDEN, MINER, OTHER, VALIDATOR, Wire, signed, started
from tests.rows import RECEIPTS

pytestmark = pytest.mark.django_db(transaction=True)

OWN, COLLUDING = (Keypair.create_from_uri(f"//{name}") for name in ("Olga", "Carl"))
PERMITTED = {keypair.ss58_address for keypair in (VALIDATOR, OWN, COLLUDING)}


def routing_none(jobs: Collection[UUID]) -> Collection[UUID]:
    return ()


def intake_of(
    routed: Callable[[Collection[UUID]], Collection[UUID]] = routing_none, validators: Collection[str] = PERMITTED
) -> Intake:
    return Intake(own=OWN.ss58_address, validators=lambda: validators, routed=routed)


def take(
    *wires: Wire | bytes, miner: Keypair = MINER, by: Intake | None = None, now: dt.datetime = NOW
) -> tuple[int, Counter[str]]:
    lines = [wire if isinstance(wire, bytes) else json.dumps(wire).encode() for wire in wires]
    taken, refused = (by or intake_of()).take(miner.ss58_address, lines, now=now)
    return taken, Counter({reason.value: count for reason, count in refused.items()})


def finished(at: dt.datetime = NOW, *, miner: Keypair = MINER, validator: Keypair = VALIDATOR, **fields: Any) -> Wire:
    payload = {
        "receipt_type": "JobFinishedReceipt",
        "job_uuid": str(uuid4()),
        "miner_hotkey": miner.ss58_address,
        "validator_hotkey": validator.ss58_address,
        "timestamp": at.isoformat(),
        "time_started": at.isoformat(),
        "time_took_us": 5_000_000,
        "score_str": "12.000000",
        "block_numbers": [1000, 1001],
        **fields,
    }
    return signed(payload, miner, validator)


def accepted(at: dt.datetime = NOW, **fields: Any) -> Wire:
    payload = started(at)["payload"] | {"receipt_type": "JobAcceptedReceipt", "time_accepted": at.isoformat(), **fields}
    del payload["executor_class"], payload["is_organic"]
    return signed(payload)


def stored() -> list[int]:
    return [model._default_manager.count() for model in RECEIPTS.values()]


def test_receipts_of_compute_horde_s_library_are_taken() -> None:
    """The golden page has the started receipt twice."""
    payload = GOLDEN[0]["payload"]
    page = intake_of(validators={payload["validator_hotkey"]})
    lines = [json.dumps(wire).encode() for wire in GOLDEN]
    at = dt.datetime.fromisoformat(payload["timestamp"])
    assert page.take(payload["miner_hotkey"], lines, now=at) == (3, Counter())
    assert stored() == [1, 1, 1]
    assert page.take(payload["miner_hotkey"], lines, now=at) == (0, Counter())
    for model, wire in zip(RECEIPTS.values(), GOLDEN, strict=False):
        row = model._default_manager.get()
        assert row.signed == json.dumps(wire["payload"], sort_keys=True)
        assert row.validator_signature == wire["validator_signature"]


def test_the_signed_text_is_the_payload_with_sorted_keys() -> None:
    """A miner may write the fields in any order, with any spaces. Both sides signed one text."""
    wire = started(NOW)
    line = json.dumps(
        {**wire, "payload": dict(reversed(wire["payload"].items()))}, indent=None, separators=(" , ", " : ")
    )
    assert take(line.encode()) == (1, Counter())


def corrupted(wire: Wire, *names: str) -> Wire:
    return {**wire, **{name: wire[name][:-1] + ("0" if wire[name][-1] != "0" else "1") for name in names}}


def changed(wire: Wire, **fields: Any) -> Wire:
    return {**wire, "payload": {**wire["payload"], **fields}}


FORGED: dict[str, Wire] = {
    "another signature of the miner": corrupted(started(NOW), "miner_signature"),
    "another signature of the validator": corrupted(started(NOW), "validator_signature"),
    "a validator's signature of the miner's key": started(
        NOW, validator=OTHER, validator_hotkey=VALIDATOR.ss58_address
    ),
    "a miner's signature of the validator's key": started(NOW, miner=VALIDATOR, miner_hotkey=MINER.ss58_address),
    "another ttl than was signed": changed(started(NOW), ttl=0),
    "another job than was signed": changed(started(NOW), job_uuid=str(uuid4())),
    "a finished receipt with the signatures of the started one": {
        **finished(),
        **{name: started(NOW)[name] for name in ("miner_signature", "validator_signature")},
    },
    "signatures swapped": (wire := started(NOW))
    | {"miner_signature": wire["validator_signature"], "validator_signature": wire["miner_signature"]},
}


@pytest.mark.parametrize("wire", FORGED.values(), ids=FORGED.keys())
def test_a_forged_receipt_is_refused(wire: Wire) -> None:
    assert take(wire) == (0, Counter(unsigned=1))
    assert stored() == [0, 0, 0]


REFUSED: dict[str, tuple[Wire | bytes, Refused]] = {
    "an empty line": (b"", Refused.NOT_JSON),
    "half a line": (json.dumps(started(NOW)).encode()[:-9], Refused.NOT_JSON),
    "bytes that are no text": (b"\xff\xfe{}", Refused.NOT_JSON),
    "deep nesting": (b"[" * 100_000, Refused.NOT_JSON),
    "deep nesting in a payload": (b'{"payload":' + b'{"a":' * 10_000, Refused.NOT_JSON),
    "a number of many digits": (b"9" * 5_000, Refused.NOT_JSON),
    "a line that is too long": (b'{"a": "' + b"a" * LONGEST_LINE + b'"}', Refused.BAD),
    "null": (b"null", Refused.BAD),
    "a list": (b"[]", Refused.BAD),
    "no payload": ({"payload": None}, Refused.BAD),
    "no signatures": ({"payload": started(NOW)["payload"]}, Refused.BAD),
    "a signature that is none": ({**started(NOW), "miner_signature": "0x"}, Refused.BAD),
    "an unknown type": (started(NOW, receipt_type="JobPaidReceipt"), Refused.BAD),
    "an unknown field": (started(NOW, more=1), Refused.BAD),
    "a uuid without dashes": (started(NOW, job_uuid=uuid4().hex), Refused.BAD),
    "a uuid in capitals": (started(NOW, job_uuid=str(uuid4()).upper().replace("0", "A")), Refused.BAD),
    "a uuid in braces": (started(NOW, job_uuid=f"{{{uuid4()}}}"), Refused.BAD),
    "a ttl of more than 30 days": (started(NOW, ttl=30 * 86_400 + 1), Refused.BAD),
    "a ttl below 0": (started(NOW, ttl=-1), Refused.BAD),
    "a ttl that is no number": (started(NOW, ttl=True), Refused.BAD),
    "a ttl of NaN": (started(NOW, ttl=float("nan")), Refused.BAD),
    "a time without a zone": (started(NOW.replace(tzinfo=None)), Refused.BAD),
    "the year 1999": (started(dt.datetime(1999, 12, 31, tzinfo=dt.UTC)), Refused.BAD),
    "the year 2101": (finished(time_started="2101-01-01T00:00:00Z"), Refused.BAD),
    "accepted in the year 2101": (accepted(time_accepted="2101-01-01T00:00:00Z"), Refused.BAD),
    "a score in words": (finished(score_str="high"), Refused.BAD),
    "a score of 1e9": (finished(score_str="1e9"), Refused.BAD),
    "a score with a newline": (finished(score_str="1\n"), Refused.BAD),
    "a score in other digits": (finished(score_str="\u0661"), Refused.BAD),
    "a score of 65 characters": (finished(score_str="1" * 65), Refused.BAD),
    "a block above 2**32": (finished(block_numbers=[2**32 + 1]), Refused.BAD),
    "a block below 0": (finished(block_numbers=[-1]), Refused.BAD),
    "too many blocks": (finished(block_numbers=[1] * 10_001), Refused.BAD),
    "a job of more than a year": (finished(time_took_us=367 * 86_400 * 10**6), Refused.BAD),
    "a class with a space": (started(NOW, executor_class="always on"), Refused.BAD),
    "a hotkey with NUL": (started(NOW, validator_hotkey="5\0"), Refused.BAD),
    "half a character": (started(NOW, validator_hotkey="\ud800"), Refused.BAD),
    "another miner's": (started(NOW, miner=OTHER), Refused.OTHER_MINER),
    "a hotkey without a permit": (started(NOW, validator=OTHER), Refused.NO_VALIDATOR),
    "the miner as its own validator": (started(NOW, validator=MINER), Refused.NO_VALIDATOR),
    "ahead of the clock": (started(NOW + MINUTE + TICK), Refused.AHEAD),
    "three days old": (started(NOW - 2 * DAY - TICK), Refused.OLD),
}


@pytest.mark.parametrize(("wire", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_count_is_refused_and_the_rest_is_taken(wire: Wire | bytes, reason: Refused) -> None:
    assert take(started(NOW), wire, started(NOW)) == (2, Counter({reason.value: 1}))
    assert stored() == [2, 0, 0]


EDGES: dict[str, Wire] = {
    "as far ahead as is allowed": started(NOW + MINUTE),
    "as old as is allowed": started(NOW - 2 * DAY),
    "another time zone": started(NOW.astimezone(dt.timezone(dt.timedelta(hours=5)))),
    "the highest block": finished(block_numbers=[2**32, 0]),
    "all blocks": finished(block_numbers=[2**32] * 10_000),
    "the longest score": finished(score_str="1" * 64),
    "the longest job": finished(time_took_us=365 * 86_400 * 10**6),
    "accepted": accepted(),
}


@pytest.mark.parametrize("wire", EDGES.values(), ids=EDGES.keys())
def test_what_is_just_within_its_bounds_is_taken(wire: Wire) -> None:
    assert take(wire) == (1, Counter())


def test_a_ttl_is_clipped() -> None:
    assert take(started(NOW, ttl=30 * 86_400)) == (1, Counter())
    row = JobStartedReceipt.objects.get()
    assert row.ttl == MAX_TTL
    assert json.loads(row.signed)["ttl"] == 30 * 86_400


def test_about_a_job_that_this_site_routed_only_its_own_validator_is_believed() -> None:
    ours, theirs = uuid4(), uuid4()
    asked: list[Collection[UUID]] = []

    def routed(jobs: Collection[UUID]) -> Collection[UUID]:
        asked.append(jobs)
        return {ours} & set(jobs)

    page = intake_of(routed)
    forged = finished(job_uuid=str(ours), validator=COLLUDING)
    assert take(forged, finished(job_uuid=str(theirs)), by=page) == (1, Counter(ours_by_another=1))
    assert take(finished(job_uuid=str(ours), validator=OWN), by=page) == (1, Counter())
    assert asked == [{ours, theirs}, {ours}]


def test_a_job_of_another_validator_is_not_ended_by_a_third_one() -> None:
    job = str(uuid4())
    assert take(started(NOW, miner=OTHER, job_uuid=job), miner=OTHER) == (1, Counter())
    assert take(finished(job_uuid=job, validator=COLLUDING)) == (0, Counter(other_validator=1))
    assert take(finished(job_uuid=job, validator=COLLUDING, miner=OTHER), miner=OTHER) == (
        0,
        Counter(other_validator=1),
    )
    assert take(finished(job_uuid=job, miner=OTHER), miner=OTHER) == (1, Counter())


def test_the_first_validator_on_a_page_is_believed() -> None:
    job = str(uuid4())
    assert take(started(NOW, job_uuid=job), finished(job_uuid=job, validator=COLLUDING)) == (
        1,
        Counter(other_validator=1),
    )
    assert stored() == [1, 0, 0]


def test_a_forged_receipt_claims_no_job() -> None:
    job = str(uuid4())
    forged = corrupted(started(NOW, job_uuid=job, validator=COLLUDING), "validator_signature")
    assert take(forged, started(NOW, job_uuid=job)) == (1, Counter(unsigned=1))


def test_our_own_validator_is_believed_about_every_job() -> None:
    job = str(uuid4())
    assert take(started(NOW, job_uuid=job, validator=COLLUDING)) == (1, Counter())
    assert take(finished(job_uuid=job, validator=OWN)) == (1, Counter())
    assert take(accepted(job_uuid=job, validator_hotkey=COLLUDING.ss58_address)) == (0, Counter(other_validator=1))


def test_a_voided_receipt_claims_no_job_and_is_not_stored_again() -> None:
    job = str(uuid4())
    first = started(NOW, job_uuid=job, validator=COLLUDING)
    assert take(first) == (1, Counter())
    void_receipt(JobStartedReceipt.objects.get(), by="Vera", reason="forged", now=NOW)
    assert take(first, finished(job_uuid=job)) == (1, Counter())
    assert stored() == [1, 0, 1]


def test_a_receipt_that_is_stored_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    wires = [started(NOW), accepted(), finished()]
    assert take(*wires, *wires) == (3, Counter())

    def verify(receipt: object) -> bool:
        raise AssertionError

    monkeypatch.setattr(intake, "is_signed", verify)
    assert take(*wires) == (0, Counter())


def test_what_the_database_refuses_does_not_affect_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL refuses values that SQLite takes, and the whole statement with them."""
    bad = str(uuid4())
    insert = models.QuerySet.bulk_create

    def bulk_create(rows: models.QuerySet[Receipt], objects: Sequence[Receipt], **options: Any) -> object:
        if any(str(row.job_uuid) == bad for row in objects):
            raise DataError("out of range")
        return insert(rows, objects, **options)

    monkeypatch.setattr(models.QuerySet, "bulk_create", bulk_create)
    assert take(started(NOW), finished(job_uuid=bad), finished(), accepted()) == (3, Counter(not_stored=1))
    assert stored() == [1, 1, 1]


def test_without_the_library_nothing_passes_for_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bittensor_core", None)  # importing it fails
    with pytest.raises(ImportError):
        take(started(NOW))
    assert stored() == [0, 0, 0]


def test_nothing_is_read_of_the_database_for_what_is_no_receipt(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        assert take(b"x", started(NOW, miner=OTHER)) == (0, Counter(not_json=1, other_miner=1))


def test_a_batch_takes_the_same_number_of_queries() -> None:
    numbers = []
    for size in (1, 40):
        wires = [started(NOW) for _ in range(size)]
        with CaptureQueriesContext(connection) as queries:
            assert take(*wires) == (size, Counter())
        numbers.append(len(queries))
    assert numbers[0] == numbers[1] < 10


def test_all_receipts_of_a_job_end_it() -> None:
    job = str(uuid4())
    wires = [started(NOW, job_uuid=job), accepted(job_uuid=job), finished(NOW + SECOND, job_uuid=job)]
    assert take(*wires) == (3, Counter())
    for model in (JobStartedReceipt, JobAcceptedReceipt, JobFinishedReceipt):
        assert model._default_manager.get(job_uuid=job).miner_hotkey == MINER.ss58_address


PIECES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=10,
)


@given(st.binary() | PIECES.map(lambda value: json.dumps(value).encode()))
def test_no_line_raises_an_error(line: bytes) -> None:
    assert read_line(line) in {Refused.NOT_JSON, Refused.BAD}


@given(st.sampled_from(GOLDEN), st.data())
def test_no_value_in_a_receipt_raises_an_error(wire: Wire, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(wire["payload"])))
    line = json.dumps(changed(wire, **{name: data.draw(PIECES)})).encode()
    assert isinstance(read_line(line), Refused | AnyReceipt)
