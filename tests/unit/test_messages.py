"""The messages of the sockets: what is taken for one, what is refused, and that every reason for it comes up."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any
from uuid import UUID

import pytest
from django import db
from django.utils import timezone
from pydantic import ValidationError

from allowance.models import ReservationState
from allowance.types import BadInputError, JobTooLong, LockTimeout, NotEnoughAllowanceException
from routing.access.signatures import SignatureRefused
from routing.decision.model import Candidates, Decision, Gate, Job, Policy
from routing.requests import V2JobRequest
from routing.sockets import answers, jobs, statements
from routing.sockets.messages import (
    INCOMING,
    INCOMING_MODELS,
    OUTGOING_MODELS,
    QUESTIONS,
    TYPES,
    Acknowledged,
    Failed,
    Happened,
    Message,
    MinerAddress,
    Reason,
    Refused,
    Rejected,
    Routed,
    schema,
    type_of,
)
from routing.types import (
    AllMinersBusy,
    JobAlreadyOver,
    JobTaken,
    JobUnknown,
    NotEnoughCollateralException,
    RouteReleased,
)
from tests.factories import raising
from tests.jobs import ME
from tests.sockets import JSON, job

JOB = "6a7dbfd5-5b0c-4bd4-8d0c-0b4b0d2c8a4f"
NOON = "2026-01-01T12:00:00Z"
ROUTE: JSON = {"uuid": JOB, "allowance_reservation_id": 17}
SIGNED: JSON = {**ROUTE, "validator_hotkey": "us", "timestamp": NOON}
GOOD: dict[str, JSON] = {
    "job.new": {**job(), "type": "job.new", "volume": None, "signature": None},
    "job.retry": {**ROUTE, "type": "job.retry"},
    "job.started": {**SIGNED, "type": "job.started", "ttl": 60},
    "job.accepted": {**SIGNED, "type": "job.accepted", "time_accepted": NOON, "ttl": 60},
    "job.finished": {
        **SIGNED,
        "type": "job.finished",
        "time_started": NOON,
        "time_took_us": 1_500_000,
        "score_str": "0.5",
    },
    "job.failed": {**ROUTE, "type": "job.failed", "incident": "MINER_HORDE_FAILED"},
    "job.rejected_by_miner": {**ROUTE, "type": "job.rejected_by_miner", "receipts": [{"payload": {}}]},
}
MODELS = {model.model_fields["type"].default: model for model in INCOMING_MODELS}
FIELDS = [(kind, name) for kind, model in MODELS.items() for name in model.model_fields if name != "type"]

MINER = MinerAddress(address="10.0.0.1", ip_version=4, port=9000, hotkey_ss58="anna")
SENT: list[Message] = [
    Routed(
        uuid=UUID(JOB),
        miner=MINER,
        allowance_blocks=[1000],
        allowance_reservation_id=17,
        expires_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    ),
    Routed(uuid=UUID(JOB), miner=MINER, allowance_blocks=None, allowance_reservation_id=None, expires_at=None),
    *[
        Rejected(uuid=JOB, reason=reason, sentence="No.", counts=dict.fromkeys(Gate, 1), retry_after_seconds=0.1)
        for reason in Reason
    ],
    Rejected(uuid=None, reason=Reason.BAD_MESSAGE, sentence="No."),
    *[
        Acknowledged(uuid=UUID(JOB), of="job.started", allowance_reservation_id=17, reservation=state)
        for state in (*ReservationState, None)
    ],
    Happened(uuid=UUID(JOB), of="job.routed", miner="anna", allowance_reservation_id=17, reservation="held"),
    Happened(uuid=UUID(JOB), of="job.rejected", reason=Reason.ALL_MINERS_BUSY),
    answers.RATE_LIMITED,
]

DECISION = Decision(
    Job(JOB, "always_on.test", 60), timezone.now(), 1000, Policy(1, dt.timedelta(hours=1)), Candidates.of(), None
)
LACK = NotEnoughAllowanceException(
    required_allowance=60,
    highest_available_allowance=0,
    highest_available_allowance_ss58=None,
    highest_unspent_allowance=0,
    highest_unspent_allowance_ss58=None,
)
RAISED: dict[Reason, Exception] = {
    Reason.BAD_MESSAGE: BadInputError("A time limit must be 0 s or more, not -1."),
    Reason.BAD_SIGNATURE: SignatureRefused("This router accepts only signed jobs."),
    Reason.JOB_TOO_LONG: JobTooLong(3601),
    Reason.NOT_ENOUGH_ALLOWANCE: LACK,
    Reason.NOT_ENOUGH_COLLATERAL: NotEnoughCollateralException("No miner.", reasons={}, causes=()),
    Reason.ALL_MINERS_BUSY: AllMinersBusy("No miner.", reasons={}, causes=()),
    Reason.LOCK_TIMEOUT: LockTimeout(),
    Reason.JOB_ALREADY_OVER: JobAlreadyOver(UUID(JOB)),
    Reason.JOB_TAKEN: JobTaken(UUID(JOB)),
    Reason.JOB_UNKNOWN: JobUnknown(UUID(JOB), 17),
    Reason.ROUTE_RELEASED: RouteReleased(UUID(JOB), 17, 18),
    Reason.UNAVAILABLE: db.OperationalError("the password of router is secret"),
}


def read(message: JSON) -> Any:
    return INCOMING.validate_json(json.dumps(message))


def problems(message: JSON) -> list[tuple[str, ...]]:
    """Return where a message is wrong, below its type."""
    with pytest.raises(ValidationError) as refusal:
        read(message)
    return [tuple(map(str, error["loc"][1:])) for error in refusal.value.errors()]


@pytest.mark.parametrize("kind", MODELS)
def test_a_good_message_is_read_as_what_its_type_says(kind: str) -> None:
    message = read(GOOD[kind])
    assert type(message) is MODELS[kind]
    said = json.loads(message.model_dump_json())
    assert {name: said[name] for name in GOOD[kind]} == GOOD[kind]


@pytest.mark.parametrize("kind", MODELS)
def test_an_unknown_field_is_refused(kind: str) -> None:
    assert problems({**GOOD[kind], "priority": 1}) == [("priority",)]


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_a_value_of_another_kind_is_refused(kind: str, name: str) -> None:
    assert {place[0] for place in problems({**GOOD[kind], name: {"x": 1}})} == {name}


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_a_field_without_a_default_can_t_be_left_out(kind: str, name: str) -> None:
    rest = {key: value for key, value in GOOD[kind].items() if key != name}
    if MODELS[kind].model_fields[name].is_required():
        assert problems(rest) == [(name,)]
    else:
        assert type(read(rest)) is MODELS[kind]


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("job.retry", "uuid", "not-a-uuid"),
        *[("job.failed", "allowance_reservation_id", value) for value in ("17", True, 1.5, 0, -1, 2**53, 2**63)],
        ("job.failed", "incident", "MINER_JOB_REJECTED"),  # that is said with job.rejected_by_miner
        *[("job.started", "ttl", value) for value in ("60", 1.5, -1, 3701)],
        *[("job.started", "timestamp", value) for value in (0, "2026-01-01T12:00:00", "3000-01-01T00:00:00Z")],
        *[("job.started", "validator_hotkey", value) for value in ("", "a b", "5" * 49)],
        ("job.rejected_by_miner", "receipts", {}),
        *[("job.finished", "time_took_us", value) for value in ("1", -1, 2**63)],
        *[("job.finished", "score_str", value) for value in (0.5, "\0", "5" * 65)],
    ],
)
def test_a_value_out_of_bounds_is_refused(kind: str, name: str, value: object) -> None:
    assert {place[0] for place in problems({**GOOD[kind], name: value})} == {name}


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "job.new"])
def test_a_fixed_route_is_named_by_null(kind: str) -> None:
    assert read({**GOOD[kind], "allowance_reservation_id": None}).allowance_reservation_id is None


def test_a_message_without_a_type_is_a_job() -> None:
    assert type(read(job())) is V2JobRequest
    assert type_of({}) == "job.new"
    assert set(problems(ROUTE)) >= {("docker_image",), ("allowance_reservation_id",)}


@pytest.mark.parametrize("kind", ["job.routed", "", None, 5, ["job.new"], {}])
def test_a_message_of_another_type_is_told_which_there_are(kind: object) -> None:
    refused = answers.read(json.dumps({**job(), "type": kind}))
    assert isinstance(refused, Refused)
    assert (refused.of, refused.reason) == (None, Reason.BAD_MESSAGE)
    assert all(known in refused.sentence for known in TYPES)


def test_no_two_messages_have_the_same_type() -> None:
    sent = [model.model_fields["type"].default for model in OUTGOING_MODELS]
    assert len({*TYPES, *sent}) == len(TYPES) + len(sent)
    assert tuple(MODELS) == TYPES


@pytest.mark.parametrize("message", SENT, ids=lambda message: str(message)[:60])
def test_what_is_sent_has_all_its_fields_and_can_be_read(message: Message) -> None:
    text = message.model_dump_json()
    assert type(message).model_validate_json(text) == message
    described = schema()["$defs"][type(message).__name__]
    assert (list(json.loads(text)), described["additionalProperties"]) == (list(described["properties"]), False)


def test_every_message_that_is_sent_is_looked_at() -> None:
    assert {type(message) for message in SENT} == set(OUTGOING_MODELS)


def test_the_schema_has_all_messages_and_reasons() -> None:
    described = schema()["$defs"]
    assert {model.__name__ for model in (*INCOMING_MODELS, *OUTGOING_MODELS)} <= set(described)
    assert described["Reason"]["enum"] == list(Reason)


@pytest.mark.parametrize("reason", RAISED)
def test_every_foreseen_error_has_its_reason(reason: Reason, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "route", raising(RAISED[reason]))
    monkeypatch.setattr(statements, "note", raising(RAISED[reason]))
    rejected = answers.to_question(V2JobRequest(**job(uuid=JOB)), ME).message
    refused = answers.to_statement(Failed(**ROUTE), ME)
    assert isinstance(rejected, Rejected)
    assert isinstance(refused, Refused)
    assert (rejected.uuid, rejected.reason) == (refused.uuid, refused.reason) == (JOB, reason)
    assert refused.of == "job.failed"
    assert "secret" not in rejected.sentence + refused.sentence


def test_every_reason_comes_up() -> None:
    at_the_door = {answers.RATE_LIMITED.reason, answers.overloaded(Failed(**ROUTE)).reason}
    at_the_door |= {Reason.REFUSED_TOO_OFTEN}
    assert {*RAISED, *at_the_door} == set(Reason)
    assert {type(error) for error in RAISED.values()} >= set(answers.REASONS)


@pytest.mark.parametrize("kind", MODELS)
def test_a_question_is_rejected_and_anything_else_is_an_error(kind: str) -> None:
    refused = answers.overloaded(read(GOOD[kind]))
    assert type(refused) is (Rejected if kind in QUESTIONS else Refused)
    assert (refused.uuid, refused.reason) == (GOOD[kind]["uuid"], Reason.OVERLOADED)
