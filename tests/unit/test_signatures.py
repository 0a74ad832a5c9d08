"""A request's own signature: what ComputeHorde's SDK has signed is taken, in time and unchanged, and nothing else."""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
import sys
from typing import get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError
from pytest_django import Settings

from routing.access import signatures
from routing.access.signatures import SignatureRefused, check
from routing.requests import OutputUpload, V2JobRequest, Volume, first_problem
from tests.signed import FREE, PLACES, RECORDED, Place, Wire, at, other, replaced

PLAIN, MANY = RECORDED["plain"], RECORDED["many volumes and uploads"]
KEYS = sorted({message["signature"]["signatory"] for message in RECORDED.values()})
STRANGER = "5FUJCuGtQPonu8B9JKH4BwsKzEdtyBTpyvbBk2beNZ4iX8sk"


@pytest.fixture(autouse=True)
def facilitators(settings: Settings) -> None:
    settings.ROUTING_FACILITATOR_PUBLIC_KEYS, settings.ROUTING_SIGNATURE_MAX_AGE = KEYS, 300.0


def read(message: Wire) -> V2JobRequest:
    return V2JobRequest.model_validate_json(json.dumps(message))


def signed_at(message: Wire) -> dt.datetime:
    """Return when a message was signed, in whole microseconds, as clocks have them."""
    microseconds = message["signature"]["timestamp_ns"] // 1000
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=microseconds)


def assert_taken(message: Wire, now: dt.datetime | None = None) -> None:
    request = read(message)
    assert check(request, now or signed_at(message)) is request.signature


def assert_refused(message: Wire, *mentioned: str, now: dt.datetime | None = None) -> None:
    with pytest.raises(SignatureRefused) as refusal:
        check(read(message), now or signed_at(message))
    assert len(str(refusal.value)) < 200
    for text in mentioned:
        assert text in str(refusal.value)


def with_signature(message: Wire, **fields: object) -> Wire:
    return {**message, "signature": {**message["signature"], **fields}}


def test_the_hash_is_the_one_of_compute_horde_s_own_example() -> None:
    payload = json.dumps({"b": 2, "array": [1, 2, 3], "dict": {"subdict:": {"null": None}}}, sort_keys=True).encode()
    digest = signatures.digest(payload, 1718845323456788992)
    assert digest == base64.b85decode(
        "Dk7mtj^WM^#_n_!-C@$EHF*O@>;mdK%XS?515>IhxRvgxdT<nq$ImMmQ)jr-hpUSs#o+GQRX~t<q0-~1"
    )
    signature = base64.b85decode("1SaAcLt*GG`2RG*@xmapXZ14m*Y`@b1MP(hAfEnwXkO5Os<30drw{`X`15JFP4GWR96T7p>rUmYA#=8Z")
    assert signatures.public_key(STRANGER).verify(digest, signature)


@pytest.mark.parametrize("name", RECORDED)
def test_what_the_sdk_has_signed_is_taken(name: str) -> None:
    assert_taken(RECORDED[name])


WITHOUT_USE_GPU = [name for name, message in RECORDED.items() if "use_gpu" not in message]


@pytest.mark.parametrize("name", WITHOUT_USE_GPU)
def test_use_gpu_is_signed_as_true_where_it_is_left_out(name: str) -> None:
    assert_taken({**RECORDED[name], "use_gpu": True})
    assert_refused({**RECORDED[name], "use_gpu": False}, "does not match the job")


def test_requests_of_five_shapes_leave_use_gpu_out() -> None:
    shapes = {frozenset(RECORDED[name]) - {"signature", "uuid"} for name in WITHOUT_USE_GPU}
    assert len(shapes) == len(WITHOUT_USE_GPU) - 1 == 4  # one volume and many are fields of the same name
    assert {"streaming_details", "volume", "output_upload", "artifacts_dir"} < frozenset().union(*shapes)


def test_the_recorded_requests_are_of_all_kinds() -> None:
    assert set(PLAIN) == set(V2JobRequest.model_fields)
    assert any(message.get("streaming_details") for message in RECORDED.values())
    for field, kinds in (("volume", Volume), ("output_upload", OutputUpload)):
        used = {type(getattr(read(message), field)) for message in RECORDED.values()}
        assert used - {type(None)} == set(get_args(get_args(kinds)[0]))


@pytest.mark.parametrize(("name", "place"), PLACES, ids=str)
def test_a_change_of_anything_that_is_signed_is_refused(name: str, place: Place) -> None:
    value = at(RECORDED[name], place)
    assert_refused(replaced(RECORDED[name], place, other(value, place[-1])), "does not match the job")


@given(st.sampled_from(FREE), st.text(), st.integers())
def test_whatever_stands_instead_of_something_signed_is_refused(
    where: tuple[str, Place], word: str, number: int
) -> None:
    name, place = where
    value = at(RECORDED[name], place)
    changed = number if isinstance(value, int) else word
    assume(changed != value)
    assert_refused(replaced(RECORDED[name], place, changed), "does not match the job")


@pytest.mark.parametrize(
    ("name", "place"), [(name, place) for name, place in PLACES if place[-1] in {"args", "volumes", "uploads"}], ids=str
)
def test_one_less_of_a_list_and_another_order_of_it_are_refused(name: str, place: Place) -> None:
    values = at(RECORDED[name], place)
    for changed in (values[:-1], values[::-1]):
        if changed != values:
            assert_refused(replaced(RECORDED[name], place, changed), "does not match the job")


def test_another_order_of_the_environment_is_refused() -> None:
    message = RECORDED["text of all kinds"]
    assert_refused({**message, "env": dict(reversed(message["env"].items()))}, "does not match the job")


@pytest.mark.parametrize(
    "field",
    [
        {"uuid": "00000000-0000-4000-8000-999999999999"},
        {"job_namespace": "SN1.1.0"},
        {"output_upload": {**MANY["output_upload"], "system_output": None}},
    ],
    ids=lambda field: next(iter(field)),
)
def test_the_uuid_the_namespace_and_the_system_output_are_not_signed(field: Wire) -> None:
    assert_taken({**MANY, **field})


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("nanoseconds", [-1, 1])
def test_another_time_than_the_signed_one_is_refused(name: str, nanoseconds: int) -> None:
    time = RECORDED[name]["signature"]["timestamp_ns"] + nanoseconds
    assert_refused(with_signature(RECORDED[name], timestamp_ns=time), "does not match the job")


def test_a_signature_with_any_bit_changed_is_refused() -> None:
    signature = base64.b64decode(PLAIN["signature"]["signature"])
    for place in range(8 * len(signature)):
        changed = (int.from_bytes(signature) ^ 1 << place).to_bytes(len(signature))
        assert_refused(with_signature(PLAIN, signature=base64.b64encode(changed).decode()), "does not match the job")


@pytest.mark.parametrize("size", [0, 1, 32, 63, 65, 128, 10_000])
def test_a_signature_of_another_length_is_refused(size: int) -> None:
    signature = (base64.b64decode(PLAIN["signature"]["signature"]) * 200)[:size]
    assert_refused(with_signature(PLAIN, signature=base64.b64encode(signature).decode()), "does not match the job")


def test_a_missing_signature_is_refused() -> None:
    assert_refused({**PLAIN, "signature": None}, "accepts only signed jobs", now=signed_at(PLAIN))


@pytest.mark.parametrize(
    ("field", "values", "answer"),
    [
        ("signature_type", ["", "Bittensor", "ed25519" * 10_000], "must have the type bittensor"),
        ("signature_scope", ["FullRequest"], "must have the scope SignedFields"),
        ("signatory", ["", STRANGER, KEYS[0].lower(), KEYS[0] + " ", "k" * 10_000], "accepts no signature of"),
    ],
)
def test_another_type_or_scope_or_signatory_is_refused(field: str, values: list[str], answer: str) -> None:
    for value in values:
        assert_refused(with_signature(PLAIN, **{field: value}), answer, value[:70])


def test_a_message_of_before_there_were_scopes_is_taken() -> None:
    signature = {name: value for name, value in PLAIN["signature"].items() if name != "signature_scope"}
    assert_taken({**PLAIN, "signature": signature})


def test_one_facilitator_can_t_sign_for_another() -> None:
    others = set(KEYS) - {PLAIN["signature"]["signatory"]}
    assert others
    for another in others:
        assert_refused(with_signature(PLAIN, signatory=another), another, "does not match the job")


@pytest.mark.parametrize("key", ["", "5", "k" * 48, STRANGER[:-1] + "j"])
def test_a_facilitator_that_is_no_address_signs_nothing(key: str, settings: Settings) -> None:
    settings.ROUTING_FACILITATOR_PUBLIC_KEYS = [key]
    assert_refused(with_signature(PLAIN, signatory=key))


def test_a_bare_string_of_keys_lets_nobody_in(settings: Settings) -> None:
    settings.ROUTING_FACILITATOR_PUBLIC_KEYS = PLAIN["signature"]["signatory"]
    assert_refused(PLAIN, "accepts no signature of")
    assert_refused(with_signature(PLAIN, signatory=""))


@pytest.mark.parametrize("max_age", [0.000001, 1, 300.0])
def test_a_signature_holds_up_to_its_age_and_from_as_long_before(max_age: float, settings: Settings) -> None:
    settings.ROUTING_SIGNATURE_MAX_AGE = max_age
    assert PLAIN["signature"]["timestamp_ns"] % 1000 == 0
    edge, tick = dt.timedelta(seconds=max_age), dt.timedelta(microseconds=1)
    assert_taken(PLAIN, now=signed_at(PLAIN) + edge)
    assert_taken(PLAIN, now=signed_at(PLAIN) - edge)
    assert_refused(PLAIN, "old", f"{max_age:g} s", now=signed_at(PLAIN) + edge + tick)
    assert_refused(PLAIN, "ahead", f"{max_age:g} s", now=signed_at(PLAIN) - edge - tick)


def test_the_age_is_counted_in_nanoseconds() -> None:
    assert MANY["signature"]["timestamp_ns"] % 1000 > 0
    edge = dt.timedelta(seconds=300)
    assert_taken(MANY, now=signed_at(MANY) + edge)
    assert_refused(MANY, "ahead", now=signed_at(MANY) - edge)


@pytest.mark.parametrize("max_age", [math.nan, -1.0])
def test_an_age_that_is_none_lets_nothing_in(max_age: float, settings: Settings) -> None:
    settings.ROUTING_SIGNATURE_MAX_AGE = max_age
    assert_refused(PLAIN)


@pytest.mark.parametrize("time", [-1, 2**63, 2**64, 10**400, 1e400, None, "soon", 0.5])
def test_a_time_that_is_none_is_no_message(time: object) -> None:
    with pytest.raises(ValidationError) as refusal:
        read(with_signature(PLAIN, timestamp_ns=time))
    assert first_problem(refusal.value).startswith("signature.timestamp_ns: ")


def test_a_request_that_no_message_can_be_is_refused() -> None:
    request = read(PLAIN).model_copy(update={"docker_image": "\ud800"})
    with pytest.raises(SignatureRefused):
        check(request, signed_at(PLAIN))


@pytest.mark.parametrize("nobody", [[], (), None])
@pytest.mark.parametrize("signature", [None, {**PLAIN["signature"], "signatory": "anybody", "signature": ""}])
def test_without_facilitators_nobody_looks_at_a_signature_and_nothing_is_imported(
    nobody: object, signature: object, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bittensor_core", None)  # importing it fails
    settings.ROUTING_FACILITATOR_PUBLIC_KEYS = nobody
    assert check(read({**PLAIN, "signature": signature}), signed_at(PLAIN)) is None


def test_without_the_settings_nobody_looks_at_a_signature(settings: Settings) -> None:
    del settings.ROUTING_FACILITATOR_PUBLIC_KEYS
    assert check(read({**PLAIN, "signature": None}), signed_at(PLAIN)) is None


def test_without_the_library_nothing_passes_for_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bittensor_core", None)
    with pytest.raises(ImportError):
        check(read(PLAIN), signed_at(PLAIN))
