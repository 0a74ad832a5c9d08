"""The wire message: its fields, and that what is sent is what is read."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from pydantic import ValidationError

from allowance.types import ExecutorClass
from routing.requests import V2JobRequest

REQUIRED: dict[str, Any] = {
    "uuid": "6a7dbfd5-5b0c-4bd4-8d0c-0b4b0d2c8a4f",
    "executor_class": "always_on.gpu-24gb",
    "docker_image": "alpine",
    "args": ["--fast", ""],
    "env": {"HOME": "/root"},
    "download_time_limit": 1,
    "execution_time_limit": 2,
    "upload_time_limit": 3,
    "streaming_start_time_limit": 4,
}
OPTIONAL: dict[str, Any] = {
    "type": "job.new",
    "message_type": "V2JobRequest",
    "signature": None,
    "job_namespace": None,
    "volume": None,
    "output_upload": None,
    "use_gpu": True,
    "artifacts_dir": None,
    "on_trusted_miner": False,
    "streaming_details": None,
}
FORM = {"key": "value"}
ADDRESS = "https://example.org/file"
VOLUMES: list[dict[str, Any]] = [
    {"volume_type": "inline", "contents": "UEsDBA==", "relative_path": "in"},
    {"volume_type": "zip_url", "contents": ADDRESS, "relative_path": None},
    {"volume_type": "single_file", "url": ADDRESS, "relative_path": "weights"},
    {
        "volume_type": "huggingface_volume",
        "repo_id": "org/model",
        "repo_type": "model",
        "revision": "main",
        "relative_path": "model",
        "allow_patterns": ["*.json", "*.txt"],
        "token": "t",
    },
]
UPLOADS: list[dict[str, Any]] = [
    {"output_upload_type": "zip_and_http_post", "url": ADDRESS, "form_fields": FORM},
    {"output_upload_type": "zip_and_http_put", "url": ADDRESS},
]
FILE_UPLOADS: list[dict[str, Any]] = [
    {
        "output_upload_type": "single_file_post",
        "url": ADDRESS,
        "relative_path": "out",
        "form_fields": FORM,
        "signed_headers": None,
    },
    {"output_upload_type": "single_file_put", "url": ADDRESS, "relative_path": "out", "signed_headers": FORM},
]
MANY_VOLUMES = {"volume_type": "multi_volume", "volumes": VOLUMES, "relative_path": None}
MANY_UPLOADS = [
    {"output_upload_type": "multi_upload", "uploads": FILE_UPLOADS, "system_output": system}
    for system in (None, *UPLOADS)
]


def read(**fields: Any) -> V2JobRequest:
    return V2JobRequest.model_validate_json(json.dumps({**REQUIRED, **fields}))


def sent(request: V2JobRequest) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(request.model_dump_json())
    return message


def assert_refused(content: str | bytes, *place: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        V2JobRequest.model_validate_json(content)
    assert [error["loc"] for error in refusal.value.errors()] == [place]


def test_the_fields_are_compute_horde_s() -> None:
    assert set(V2JobRequest.model_fields) == {*REQUIRED, *OPTIONAL}
    assert {name for name, field in V2JobRequest.model_fields.items() if field.is_required()} == set(REQUIRED)


def test_what_is_left_out_has_its_default() -> None:
    assert sent(read()) == {**REQUIRED, **OPTIONAL}


@pytest.mark.parametrize("name", REQUIRED)
def test_a_required_field_can_t_be_left_out(name: str) -> None:
    assert_refused(json.dumps({k: v for k, v in REQUIRED.items() if k != name}), name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("priority", 1),
        ("type", "job.old"),
        ("message_type", "V1JobRequest"),
        ("executor_class", "always_on.gpu-80gb"),
        ("executor_class", "always_on__gpu_24gb"),
        ("uuid", 5),
        ("env", {"HOME": 5}),
        ("execution_time_limit", "soon"),
        ("execution_time_limit", 1.5),
        ("volume", {"volume_type": "floppy"}),
        ("output_upload", {"url": ADDRESS}),
    ],
)
def test_an_unknown_field_or_a_value_of_another_kind_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError) as refusal:
        read(**{name: value})
    assert {error["loc"][0] for error in refusal.value.errors()} == {name}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe"])
def test_what_is_no_object_is_refused(content: bytes) -> None:
    assert_refused(content)


@pytest.mark.parametrize("volume", [*VOLUMES, MANY_VOLUMES], ids=lambda volume: volume["volume_type"])
def test_every_kind_of_volume_comes_back_as_it_was_sent(volume: dict[str, Any]) -> None:
    request = read(volume=volume)
    assert sent(request)["volume"] == volume
    assert V2JobRequest.model_validate_json(request.model_dump_json()) == request


@pytest.mark.parametrize("upload", [*UPLOADS, *FILE_UPLOADS, *MANY_UPLOADS], ids=lambda u: u["output_upload_type"])
def test_every_kind_of_upload_comes_back_as_it_was_sent(upload: dict[str, Any]) -> None:
    request = read(output_upload=upload)
    assert sent(request)["output_upload"] == upload
    assert V2JobRequest.model_validate_json(request.model_dump_json()) == request


def test_a_volume_of_volumes_takes_no_further_level() -> None:
    with pytest.raises(ValidationError):
        read(volume={"volume_type": "multi_volume", "volumes": [MANY_VOLUMES]})


@pytest.mark.parametrize("size", [0, 1, 64, 200])
def test_a_signature_is_base64_on_the_wire_and_bytes_inside(size: int) -> None:
    raw = bytes(i % 256 for i in range(255, 255 + size))
    encoded = base64.b64encode(raw).decode()
    signature = {
        "signature_type": "bittensor",
        "signatory": "5Abc",
        "timestamp_ns": 2**63 - 1,
        "signature": encoded,
        "signature_scope": "FullRequest",
    }
    request = read(signature=signature)
    assert request.signature is not None
    assert request.signature.signature == raw
    assert sent(request)["signature"] == signature


@pytest.mark.parametrize(
    ("name", "value"),
    [("signature", "abc"), ("signature_scope", "Everything"), ("timestamp_ns", -1), ("timestamp_ns", 2**63)],
)
def test_a_signature_that_is_no_base64_or_of_no_known_scope_or_time_is_refused(name: str, value: object) -> None:
    signature = {"signature": "", name: value}
    assert_refused(json.dumps({**REQUIRED, "signature": signature}), "signature", name)


def test_a_signature_has_its_defaults() -> None:
    assert sent(read(signature={"signature": ""}))["signature"] == {
        "signature_type": "",
        "signatory": "",
        "timestamp_ns": 0,
        "signature": "",
        "signature_scope": "SignedFields",
    }


def test_details_of_streaming_come_back_as_they_were_sent() -> None:
    details = {"public_key": "-----BEGIN CERTIFICATE-----", "executor_ip": "10.0.0.1"}
    assert sent(read(streaming_details=details))["streaming_details"] == details


def test_executor_classes_are_the_network_s_and_named_by_their_values() -> None:
    assert {member.name: member.value for member in ExecutorClass} == {
        value.replace("-", "_").replace(".", "__"): value
        for value in (
            "spin_up-4min.gpu-24gb",
            "always_on.gpu-24gb",
            "always_on.llm.a6000",
            "always_on.test",
            "always_on.cpu.8c.16gb",
        )
    }
