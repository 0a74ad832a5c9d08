"""The wire message that requests a job. Its fields are the same as in ComputeHorde."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID, uuid4

from pydantic import Base64Bytes, BaseModel, ConfigDict, FailFast, Field, ValidationError

from allowance.interface import BadInputError, ExecutorClass

MAX_MESSAGE_LENGTH = 2**20
"""Maximum length of a message, in bytes. A longer message is refused before it is parsed. A job without files has a few
kB."""


def first_problem(error: ValidationError) -> str:
    """Return one sentence on the first error in a message: its place, the problem and the wrong value."""
    problems = error.errors(include_url=False, include_context=False)
    first = problems[0]
    where = ".".join(f"{part:.80}" if isinstance(part, str) else str(part) for part in first["loc"])
    value = f", not {first['input']!r:.80}" if where and first["type"] not in {"missing", "extra_forbidden"} else ""
    more = f" (further problems: {len(problems) - 1})" if len(problems) > 1 else ""
    return f"{where}: {first['msg']:.400}{value}{more}" if where else f"{first['msg']:.400}{more}"


class Signature(BaseModel):
    """A signature in base64, with its signatory, its time (UNIX time in nanoseconds) and the part that it covers."""

    model_config = ConfigDict(extra="forbid")

    signature_type: str = ""
    signatory: str = ""
    timestamp_ns: Annotated[int, Field(ge=0, lt=2**63)] = 0
    signature: Base64Bytes
    signature_scope: Literal["SignedFields", "FullRequest"] = "SignedFields"


class InlineVolume(BaseModel):
    volume_type: Literal["inline"] = "inline"
    contents: str
    relative_path: str | None = None


class ZipUrlVolume(BaseModel):
    volume_type: Literal["zip_url"] = "zip_url"
    contents: str
    relative_path: str | None = None


class SingleFileVolume(BaseModel):
    volume_type: Literal["single_file"] = "single_file"
    url: str
    relative_path: str


class HuggingfaceVolume(BaseModel):
    volume_type: Literal["huggingface_volume"] = "huggingface_volume"
    repo_id: str
    repo_type: str | None = None
    revision: str | None = None
    relative_path: str | None = None
    allow_patterns: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    token: str | None = None


PlainVolume = Annotated[
    InlineVolume | ZipUrlVolume | SingleFileVolume | HuggingfaceVolume, Field(discriminator="volume_type")
]


class MultiVolume(BaseModel):
    volume_type: Literal["multi_volume"] = "multi_volume"
    volumes: Annotated[list[PlainVolume], FailFast()]
    relative_path: str | None = None


Volume = Annotated[
    InlineVolume | ZipUrlVolume | SingleFileVolume | HuggingfaceVolume | MultiVolume,
    Field(discriminator="volume_type"),
]


class ZipAndHttpPostUpload(BaseModel):
    output_upload_type: Literal["zip_and_http_post"] = "zip_and_http_post"
    url: str
    form_fields: dict[str, str] | None = None


class ZipAndHttpPutUpload(BaseModel):
    output_upload_type: Literal["zip_and_http_put"] = "zip_and_http_put"
    url: str


class SingleFilePostUpload(BaseModel):
    output_upload_type: Literal["single_file_post"] = "single_file_post"
    url: str
    form_fields: dict[str, str] | None = None
    relative_path: str
    signed_headers: dict[str, str] | None = None


class SingleFilePutUpload(BaseModel):
    output_upload_type: Literal["single_file_put"] = "single_file_put"
    url: str
    relative_path: str
    signed_headers: dict[str, str] | None = None


SingleFileUpload = Annotated[SingleFilePostUpload | SingleFilePutUpload, Field(discriminator="output_upload_type")]
SystemOutput = Annotated[ZipAndHttpPostUpload | ZipAndHttpPutUpload, Field(discriminator="output_upload_type")]


class MultiUpload(BaseModel):
    output_upload_type: Literal["multi_upload"] = "multi_upload"
    uploads: Annotated[list[SingleFileUpload], FailFast()]
    system_output: SystemOutput | None = None


OutputUpload = Annotated[
    ZipAndHttpPostUpload | ZipAndHttpPutUpload | SingleFilePostUpload | SingleFilePutUpload | MultiUpload,
    Field(discriminator="output_upload_type"),
]


class StreamingDetails(BaseModel):
    public_key: str
    executor_ip: str | None = None


class V2JobRequest(BaseModel):
    """A user's job, as the facilitator sends it to a validator. Time limits are whole seconds.

    The router checks the uuid and the limits, not this model. A message with a bad uuid or limit is therefore
    well-formed, and its refusal names the job.
    """

    model_config = ConfigDict(extra="forbid")

    type: Literal["job.new"] = "job.new"
    message_type: Literal["V2JobRequest"] = "V2JobRequest"
    signature: Signature | None = None
    uuid: str
    job_namespace: str | None = None
    executor_class: ExecutorClass
    docker_image: str
    args: Annotated[list[str], FailFast()]
    env: dict[str, str]
    use_gpu: bool = True  # without effect, but it is signed, so its default matters
    volume: Volume | None = None
    output_upload: OutputUpload | None = None
    artifacts_dir: str | None = None
    on_trusted_miner: bool = False
    download_time_limit: int
    execution_time_limit: int
    upload_time_limit: int
    streaming_start_time_limit: int
    streaming_details: StreamingDetails | None = None


def read_request(content: object) -> V2JobRequest:
    """Return the request in a message that was parsed from JSON. Raises BadInputError with one sentence."""
    try:
        return V2JobRequest.model_validate(content)
    except ValidationError as error:
        raise BadInputError(first_problem(error)) from None


def plain_request(executor_class: str, seconds: int, uuid: UUID | None = None) -> V2JobRequest:
    """Return a request for a job that may take `seconds` in total, with all other fields empty. Draw a uuid if None.

    Raises pydantic's ValidationError for an unknown class.
    """
    what = {"uuid": str(uuid or uuid4()), "executor_class": executor_class, "docker_image": "", "args": [], "env": {}}
    limits = {f"{part}_time_limit": 0 for part in ("download", "upload", "streaming_start")}
    return V2JobRequest.model_validate({**what, **limits, "execution_time_limit": seconds})
