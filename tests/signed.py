"""Requests that ComputeHorde's SDK has signed, and all that can be changed of what is signed.

`unit/signed_requests.json` was recorded with keys that were thrown away: requests of all kinds, as they are on the
wire. Those whose name begins with `without use_gpu` leave that field out, as ComputeHorde's facilitator may: its
default there is true. They were made with compute-horde 0.0.27 (its `V2JobRequest`) and compute-horde-sdk 0.0.19 (its
signer) on Python 3.11; the others with that SDK alone. This is how; `fields` is what a request of that shape has:

    from compute_horde.fv_protocol.facilitator_requests import V2JobRequest
    from compute_horde_core.signature import BittensorWalletSigner

    request = V2JobRequest(**fields)
    request.signature = BittensorWalletSigner(keypair).sign(request.get_signed_payload())
    wire = request.model_dump(mode="json", exclude_unset=True)
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Wire = dict[str, Any]
Place = tuple[str | int, ...]

RECORDED: dict[str, Wire] = json.loads((Path(__file__).parent / "unit" / "signed_requests.json").read_text())

UNSIGNED = {"type", "message_type", "signature", "uuid", "job_namespace", "system_output"}
KIND = {"volume_type", "output_upload_type"}
SWAPPED = [("inline", "zip_url"), ("zip_and_http_post", "zip_and_http_put"), ("single_file_post", "single_file_put")]
OTHER_KIND = {kind: other for pair in SWAPPED for kind, other in (pair, pair[::-1])}
LONERS = {"single_file", "huggingface_volume", "multi_volume", "multi_upload"}  # no other kind has all their fields
TEXTS = {"env", "form_fields", "signed_headers"}
INSTEAD_OF_NULL: dict[str | int, Any] = {
    "volume": {"volume_type": "inline", "contents": ""},
    "output_upload": {"output_upload_type": "zip_and_http_put", "url": ""},
    "streaming_details": {"public_key": ""},
    **{name: {} for name in TEXTS},
}


def replaced(message: Wire, place: Place, value: object) -> Wire:
    changed = copy.deepcopy(message)
    *way, name = place
    at(changed, tuple(way))[name] = value
    return changed


def at(message: Wire, place: Place) -> Any:
    value: Any = message
    for name in place:
        value = value[name]
    return value


def signed_places(value: object, place: Place = ()) -> Iterator[Place]:
    """Return the places of all that is signed, and can be changed."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        if name not in UNSIGNED:
            if not isinstance(item, dict) or not isinstance(name, int):
                yield (*place, name)
            yield from signed_places(item, (*place, name))


def other(value: Any, name: str | int) -> Any:
    """Return what may stand instead of a value, and differs from it."""
    if name == "executor_class":
        return "always_on.test" if value != "always_on.test" else "always_on.gpu-24gb"
    if name in KIND:
        return OTHER_KIND[value]
    if value is None:
        return INSTEAD_OF_NULL.get(name, "more")
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return value + (value[-1:] or ["more"])
    if isinstance(value, dict):
        return {**value, "more": ""} if name in TEXTS else None
    return value + (1 if isinstance(value, int) else " ")


PLACES = [
    (name, place)
    for name, message in RECORDED.items()
    for place in signed_places(message)
    if place[-1] not in KIND or at(message, place) not in LONERS
]
"""All that is signed, by the name of the request and the place in it."""

FREE = [
    (name, place)
    for name, place in PLACES
    if type(at(RECORDED[name], place)) in {int, str} and place[-1] not in {*KIND, "executor_class"}
]
"""Those of them where any text, or any number, may stand."""
