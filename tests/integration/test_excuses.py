"""A miner that rejects a job because all its executors are busy is excused, if signed receipts say so."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Callable
from itertools import count
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from bittensor_core import Keypair
from time_machine import TimeMachineFixture

from receipts import receipts
from receipts.models import JobStartedReceipt
from receipts.ongoing import end
from receipts.schemas import AnyReceipt, read
from receipts.voiding import void_receipt
from routing.log.report import happenings
from routing.models import MinerIncident, Rejection
from routing.sockets import answers, rejections
from routing.sockets.jobs import Offer
from routing.sockets.messages import Acknowledged, Failed, Refused, Rejected, RejectedByMiner, Started
from tests.clock import NOW, SECOND, noon
from tests.factories import job_request
from tests.jobs import ME, acknowledged, note, of, routed
from tests.ledgers import NEWEST, fill_ledger
from tests.receipts import GOLDEN, MINER, OTHER, VALIDATOR, Wire, signed, started
from tests.rows import declare, mint
from tests.threads import side_by_side

pytestmark = [noon, pytest.mark.usefixtures("ledger_clean_at_the_end")]

GONE = Keypair.create_from_uri("//Gone")
STRANGER = Keypair.create_from_uri("//Stranger")
EXECUTORS = 2


@pytest.fixture
def clock(db: None, time_machine: TimeMachineFixture) -> TimeMachineFixture:
    fill_ledger(MINER.ss58_address, executors=EXECUTORS)
    neurons = [key.ss58_address for key in (MINER, VALIDATOR, OTHER)]
    mint(NEWEST + 1, NOW - 10 * SECOND, hotkeys=[*neurons, GONE.ss58_address])
    mint(NEWEST + 2, hotkeys=neurons)
    return time_machine


@pytest.fixture
def offer(clock: object) -> Offer:
    return routed(job_request(30))


def reject(offer: Offer, *shown: Wire) -> Acknowledged:
    """Say that the miner rejected the job, and insist that the answer tells what is on record."""
    answer = acknowledged(of(offer, RejectedByMiner, receipts=list(shown)))
    assert answer.incident is (not answer.excused)
    assert MinerIncident.objects.filter(job_uuid=offer.uuid).exists() is answer.incident
    assert answer.reservation == "released"
    return answer


def busy(at: dt.datetime = NOW - SECOND, **fields: Any) -> list[Wire]:
    return [started(at, **fields) for _ in range(EXECUTORS)]


def finished(shown: list[Wire]) -> list[Wire]:
    """Record that the last of the jobs is over."""
    sides = {name: shown[-1]["payload"][name] for name in ("job_uuid", "miner_hotkey", "validator_hotkey", "timestamp")}
    work = {"time_started": sides["timestamp"], "time_took_us": 1, "score_str": "1"}
    receipts().record(signed({**sides, **work, "receipt_type": "JobFinishedReceipt"}), now=NOW)
    return shown


def voided(shown: list[Wire]) -> list[Wire]:
    """Record the last of the receipts, and void it."""
    receipts().record(shown[-1], now=NOW)
    void_receipt(JobStartedReceipt.objects.get(), by="boss", reason="forged", now=NOW)
    return shown


def ended(shown: list[Wire]) -> list[Wire]:
    """Record the last of the receipts, and end it."""
    receipts().record(shown[-1], now=NOW)
    end(JobStartedReceipt.objects.get().job_uuid, MINER.ss58_address, NOW - 5 * SECOND)
    return shown


def given_up(shown: list[Wire]) -> list[Wire]:
    """Return the receipts, the last one of a job whose route was released before its start was told."""
    other = routed(job_request(3), now=NOW - 10 * SECOND)
    note(of(other, Failed), now=NOW - 5 * SECOND)
    return [*shown[:-1], started(NOW - 8 * SECOND, job_uuid=str(other.uuid))]


SHOWN = {
    "null": "[null]",
    **{text: text for text in ("null", "{}", "0", "false", '""', "5", '{"a": []}')},
    "a list": "[[]]",
    "many": f"[{', '.join(['{}'] * 6000)}]",
    "half a pair": '["\\ud800"]',
    "a long number": f"[1{'0' * 5000}]",
    "deep": f"[{'[' * 500}{']' * 500}]",
    "deeper": f"[{'[' * 100_000}{']' * 100_000}]",
    "a million": f"[{'[],' * 349_000}1]",
    "objects": "[{}1{}]".format('{"a":' * 20_000, "}" * 20_000),
}


@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN)
def test_nothing_that_a_miner_shows_refuses_what_is_said_of_it(shown: str, offer: Offer) -> None:
    """Else a miner could keep its incident away, and its blocks held."""
    said = of(offer, RejectedByMiner).model_dump(mode="json")
    text = json.dumps({**said, "receipts": "SHOWN"}).replace('"SHOWN"', shown)
    message = answers.read(text)
    assert isinstance(message, RejectedByMiner)
    answer = acknowledged(message)
    assert (answer.incident, answer.reservation) == (True, "released")


LONG = '"' + '\\"' * 500_000
"""A string that does not end. To search it for its end once more at each quote would take hours."""

TOO_MANY = json.dumps({"type": "job.new", "args": [[] for _ in range(300_000)]})
NONE = (LONG, TOO_MANY, '{"type": "job.failed", "uuid": "\\ud800"}', "[" * 100_000, '{"type": "job.new"}', "{")


@pytest.mark.parametrize("text", NONE)
def test_other_messages_that_are_none_are_refused(text: str) -> None:
    assert isinstance(answers.read(text), Refused | Rejected)


def test_a_miner_of_many_executors_is_excused() -> None:
    fill_ledger(MINER.ss58_address, executors=300)
    mint(NEWEST + 1, hotkeys=[key.ss58_address for key in (MINER, VALIDATOR)])
    assert reject(routed(job_request(30)), *[started(NOW - SECOND) for _ in range(300)]).excused


def test_no_more_receipts_are_looked_at_than_may_matter(offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = count()

    def read_one(value: Any) -> AnyReceipt:
        next(looked_at)
        return read(value)

    monkeypatch.setattr(rejections, "read", read_one)
    junk: list[Any] = [1] * 100_000
    answer = reject(offer, *busy(), *junk)
    assert (answer.excused, next(looked_at)) == (True, EXECUTORS + rejections.MOST_UNFIT)
    assert answer.sentence
    assert "99000 beyond the first 1002" in answer.sentence


def test_receipts_for_all_executors_excuse(offer: Offer) -> None:
    answer = reject(offer, *busy())
    assert answer.excused is True
    assert answer.sentence == "The receipts prove 2 ongoing jobs. The miner had 2 executors."
    assert "excused" in happenings(offer.uuid)[0].sentence
    rejection = Rejection.objects.get()
    assert (rejection.excused, rejection.executors, len(rejection.jobs)) == (True, EXECUTORS, EXECUTORS)


def test_without_receipts_a_rejection_costs_as_ever(offer: Offer) -> None:
    answer = reject(offer)
    assert (answer.excused, answer.incident, answer.sentence) == (False, True, None)


def test_more_than_enough_is_fine_and_bad_ones_beside_do_no_harm(offer: Offer) -> None:
    good = busy()
    answer = reject(offer, {}, *GOLDEN, *good, started(NOW), good[0])
    assert answer.excused
    assert answer.sentence
    for flaw in ("1 not a receipt", "4 of another", "1 of a job that is counted already"):
        assert flaw in answer.sentence.replace("2 of another miner, 2 of another kind", "4 of another")


NOTHING: list[Any] = [None, [], "a", 5]

SPOILT: dict[str, tuple[str, Callable[[Offer], list[Wire]]]] = {
    "too few": ("prove 1 ongoing job. The miner had 2 executors.", lambda _: busy()[:1]),
    "one twice": ("is counted already", lambda _: busy()[:1] * 2),
    "another of the same job": (
        "is counted already",
        lambda _: [started(NOW - i * SECOND, job_uuid=str(UUID(int=5))) for i in (1, 2)],
    ),
    "another miner's": ("of another miner", lambda _: busy(miner=OTHER)),
    "another class": ("of another class", lambda _: busy(executor_class="always_on.test")),
    "this very job": (
        "of the rejected job",
        lambda offer: [*busy()[:1], started(NOW - SECOND, job_uuid=str(offer.uuid))],
    ),
    "begun later": ("not valid at the time", lambda _: busy(NOW + SECOND)),
    "ended before": ("not valid at the time", lambda _: busy(NOW - 303 * SECOND)),
    "for a year": ("not valid at the time", lambda _: busy(NOW - 3703 * SECOND, ttl=366 * 86400)),
    "by the miner itself": ("not from a registered validator", lambda _: busy(validator=MINER)),
    "of a job that had finished": ("that was not ongoing", lambda _: finished(busy())),
    "voided": ("that was not ongoing", lambda _: voided(busy())),
    "ended": ("that was not ongoing", lambda _: ended(busy(NOW - 9 * SECOND))),
    "of a route that was released": ("that was not ongoing", lambda _: given_up(busy())),
    "by a neuron that had left": ("not from a registered validator", lambda _: busy(validator=GONE)),
    "by a stranger": ("not from a registered validator", lambda _: busy(validator=STRANGER)),
    "signed by another": (
        "not signed by both",
        lambda _: busy(validator=OTHER, validator_hotkey=VALIDATOR.ss58_address),
    ),
    "not signed by the miner": (
        "not signed by both",
        lambda _: [{**wire, "miner_signature": wire["validator_signature"]} for wire in busy()],
    ),
    "changed since": (
        "not signed by both",
        lambda _: [{**wire, "payload": {**wire["payload"], "ttl": 301}} for wire in busy()],
    ),
    "nothing at all": ("4 not a receipt", lambda _: NOTHING),
    "no receipts": ("2 not a receipt", lambda _: [{}, {"payload": [], "miner_signature": 5}]),
}


@pytest.mark.parametrize("name", SPOILT)
def test_receipts_that_do_not_count_excuse_nobody(name: str, offer: Offer) -> None:
    flaw, shown = SPOILT[name]
    answer = reject(offer, *shown(offer))
    assert answer.excused is False
    assert answer.sentence
    assert flaw in answer.sentence


@pytest.mark.parametrize(("seconds", "excused"), [(0, True), (302, True), (303, False)])
def test_a_receipt_counts_up_to_two_seconds_after_its_end(seconds: int, excused: bool, offer: Offer) -> None:
    assert reject(offer, *busy(NOW - seconds * SECOND)).excused is excused


@pytest.mark.parametrize("told", [True, False], ids=["started", "not started"])
def test_a_job_that_came_back_to_the_miner_counts(told: bool, clock: TimeMachineFixture) -> None:
    """The release of its first route did not end its second one."""
    request = job_request(30)
    first = routed(request)
    if told:
        note(of(first, Started))
    note(of(first, Failed))
    clock.shift(5)
    again = routed(request)
    assert again.route.miner == first.route.miner
    offer = routed(job_request(30))
    clock.shift(5)
    assert reject(offer, *busy()[:1], started(NOW, job_uuid=str(first.uuid))).excused


@pytest.mark.parametrize("stored", [True, False], ids=["stored as expired", "stored as held"])
def test_a_job_whose_hold_has_expired_does_not_count(stored: bool, clock: TimeMachineFixture) -> None:
    """Its start was not reported, and the miner shows a receipt with a longer ttl."""
    first = routed(job_request(30))
    clock.shift(131)
    if stored:
        note(of(first, Failed))
    shown = started(NOW, job_uuid=str(first.uuid), ttl=3000)
    assert not reject(routed(job_request(30)), *busy(NOW + 130 * SECOND)[:1], shown).excused


def test_a_job_that_was_released_a_moment_ago_does_not_count(clock: TimeMachineFixture) -> None:
    """The router knows the moment, so there is no leeway."""
    first = routed(job_request(30))
    note(of(first, Started))
    note(of(first, Failed))
    assert not reject(routed(job_request(30)), *busy()[:1], started(NOW, job_uuid=str(first.uuid))).excused


def test_it_counts_when_the_miner_was_asked(offer: Offer, clock: TimeMachineFixture) -> None:
    """Others may have been faster between the route and the offer, of which the started receipt tells the time."""
    clock.shift(20)
    note(of(offer, Started))
    assert reject(offer, *busy(NOW + 15 * SECOND)).excused


def test_a_statement_said_again_has_the_same_answer(clock: TimeMachineFixture) -> None:
    for first, then in ((busy(), []), ([], busy()), (busy(), busy()), (busy()[:1], busy())):
        offer = routed(job_request(3))
        answer = reject(offer, *first)
        clock.shift(5)
        assert reject(offer, *first) == answer
        assert reject(offer, *then) == answer


def test_of_two_statements_at_once_one_decides(offer: Offer) -> None:
    start = Barrier(2)

    def say(shown: list[Wire]) -> object:
        start.wait()
        return answers.to_statement(of(offer, RejectedByMiner, receipts=shown), ME)

    one, other = side_by_side(lambda: say(busy()), lambda: say([]))
    assert one == other == reject(offer)


def test_it_stays_so_when_the_ledger_and_the_receipts_change(offer: Offer, clock: TimeMachineFixture) -> None:
    shown = busy()
    answer = reject(offer, *shown)
    clock.shift(600)
    declare({MINER.ss58_address: 9}, NEWEST + 2)
    receipts().record(started(NOW + 600 * SECOND, job_uuid=str(offer.uuid)))
    assert reject(offer, *shown) == answer


def test_a_miner_counts_with_the_executors_of_that_time(offer: Offer) -> None:
    """A manifest that comes after the job was offered changes nothing."""
    mint(NEWEST + 3, NOW + 12 * SECOND)
    declare({MINER.ss58_address: 0}, NEWEST + 3)
    assert not reject(offer, *busy()[:1]).excused


def test_a_miner_without_executors_must_show_a_receipt() -> None:
    fill_ledger(MINER.ss58_address, executors=1)
    mint(NEWEST + 1, hotkeys=[key.ss58_address for key in (MINER, VALIDATOR)])
    offer = routed(job_request(12))
    declare({MINER.ss58_address: 0}, NEWEST + 1)
    assert not reject(offer, {}).excused


def test_without_the_extra_nothing_is_excused_and_the_answer_says_so(
    offer: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bittensor_core", None)
    answer = reject(offer, *busy())
    assert not answer.excused
    assert answer.sentence
    assert "can't verify receipts" in answer.sentence


def test_a_fixed_route_has_no_executors_to_account_for(clock: object) -> None:
    offer = routed(job_request(30, on_trusted_miner=True))
    answer = acknowledged(of(offer, RejectedByMiner, receipts=busy()))
    assert (answer.excused, answer.incident) == (False, True)
    assert "does not know how many executors" in (answer.sentence or "")


def test_a_failure_has_no_excuse(offer: Offer) -> None:
    reject(offer, *busy())
    answer = acknowledged(of(offer, Failed))
    assert (answer.incident, answer.excused, answer.sentence) == (True, None, None)
    assert MinerIncident.objects.get().type == "MINER_JOB_FAILED"


def test_what_is_shown_is_not_stored_as_a_receipt(offer: Offer) -> None:
    reject(offer, *busy())
    assert not JobStartedReceipt.objects.exists()
