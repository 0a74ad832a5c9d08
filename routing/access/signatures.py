"""Verification that a facilitator in the settings has signed a request, in the way of ComputeHorde."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from typing import TYPE_CHECKING

from pydantic_core import to_json

from allowance.interface import BadInputError, clock
from routing.conf import conf
from routing.requests import MultiUpload, MultiVolume, Signature, V2JobRequest

if TYPE_CHECKING:
    from bittensor_core import Keypair


EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class SignatureRefused(BadInputError):
    """A request's signature is not accepted. The text says why."""


def check(request: V2JobRequest, now: dt.datetime | None = None) -> Signature | None:
    """Verify and return the signature of a request. Return None if the site has no facilitator's keys.

    The uuid is not signed, so a signature is valid for the job under any uuid. The database ensures that a signature
    routes one job only: no two rows of UsedSignature have the same signatory and time. Raises SignatureRefused.
    """
    keys = frozenset(
        conf.ROUTING_FACILITATOR_PUBLIC_KEYS or ()
    )  # a plain string gives single letters, which match no key
    if not keys:
        return None
    signature = request.signature
    if signature is None:
        raise SignatureRefused("This router accepts only signed jobs. Send the job with a facilitator's signature.")
    if signature.signature_type != "bittensor":
        raise SignatureRefused(f"A signature must have the type bittensor, not {signature.signature_type!r:.80}.")
    if signature.signature_scope != "SignedFields":
        raise SignatureRefused(f"A signature must have the scope SignedFields, not {signature.signature_scope}.")
    if signature.signatory not in keys:
        raise SignatureRefused(
            f"This router accepts no signature of {signature.signatory!r:.80}. Sign with a facilitator's key."
        )
    _insist_on_the_time(signature, now or clock.now())
    if not _is_genuine(request, signature):
        raise SignatureRefused(
            f"The signature of {signature.signatory} does not match the job. Sign the job that you send."
        )
    return signature


def to_unix_ns(when: dt.datetime) -> int:
    """Return a time as signatures have it: nanoseconds since 1970."""
    return (when - EPOCH) // dt.timedelta(microseconds=1) * 1000


def signed_payload(request: V2JobRequest) -> bytes:
    """Return what the signature of a request covers: JSON text, encoded again as a JSON string.

    The signature does not cover the uuid, the namespace, the relative_path of a multi_volume and the system output of a
    multi_upload.
    """
    volume, upload = request.volume, request.output_upload
    volumes = volume.volumes if isinstance(volume, MultiVolume) else [volume] if volume else []
    uploads = upload.uploads if isinstance(upload, MultiUpload) else [upload] if upload else []
    fields = {
        "executor_class": request.executor_class,
        "docker_image": request.docker_image,
        "args": request.args,
        "env": request.env,
        "use_gpu": request.use_gpu,
        "artifacts_dir": request.artifacts_dir or "",
        "on_trusted_miner": request.on_trusted_miner,
        "download_time_limit": request.download_time_limit,
        "execution_time_limit": request.execution_time_limit,
        "upload_time_limit": request.upload_time_limit,
        "streaming_start_time_limit": request.streaming_start_time_limit,
        "streaming_details": request.streaming_details,
        "volumes": volumes,
        "uploads": uploads,
    }
    return json.dumps(to_json(fields).decode()).encode()


def digest(payload: bytes, timestamp_ns: int) -> bytes:
    """Return the 64 bytes that are signed for a payload at a UNIX time in nanoseconds."""
    return hashlib.blake2b(timestamp_ns.to_bytes(8, "big") + payload).digest()


def public_key(address: str) -> Keypair:
    """Return the key that verifies the signatures of an ss58 address.

    Raises BadInputError if the address is invalid, and ImportError without the extra `signatures`.
    """
    from bittensor_core import Keypair  # noqa: PLC0415 (an extra: needed only if the settings have keys)

    try:
        return Keypair(ss58_address=address)
    except ValueError as error:
        raise BadInputError(f"{address!r:.80} is not an ss58 address.") from error


def _insist_on_the_time(signature: Signature, now: dt.datetime) -> None:
    longest = conf.ROUTING_SIGNATURE_MAX_AGE
    age_ns = to_unix_ns(now) - signature.timestamp_ns
    if not abs(age_ns) <= longest * 1e9:  # not `>`, so that a setting of NaN refuses every age
        seconds = f"{abs(age_ns) / 1e9:g} s"
        if age_ns > 0:
            raise SignatureRefused(f"The signature is {seconds} old, more than {longest:g} s. Sign the job again.")
        raise SignatureRefused(
            f"The signature's time is {seconds} ahead, more than {longest:g} s. "
            "Correct the signer's clock, and sign the job again."
        )


def _is_genuine(request: V2JobRequest, signature: Signature) -> bool:
    try:
        signed = digest(signed_payload(request), signature.timestamp_ns)
        genuine: bool = public_key(signature.signatory).verify(signed, signature.signature)
    except ValueError:  # an invalid address, not 64 bytes, or text that UTF-8 can't encode
        return False
    return genuine
