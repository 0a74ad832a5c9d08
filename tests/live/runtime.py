"""A runtime of the chain: it encodes values with its real metadata, as the chain does."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import bittensor_core as core

from tests.live.fixtures import metadata

SS58_FORMAT = 42


class Runtime:
    """The types of a runtime by its spec version. `columns` are those of its selective metagraph, by their index."""

    def __init__(self, spec: int) -> None:
        self.spec = spec
        self.opaque = metadata(spec)
        self._core = core.Runtime(_opened(self.opaque), spec, 1, SS58_FORMAT)
        self._types = {kind["id"]: kind["type"] for kind in json.loads(self._core.registry_json())["types"]}
        [metagraph] = [kind for kind in self._types.values() if kind.get("path", [""])[-1] == "SelectiveMetagraph"]
        self.columns: list[str] = [field["name"] for field in metagraph["def"]["composite"]["fields"]]

    def key(self, pallet: str, item: str, *keys: object) -> str:
        """Return the storage key of an item, as hexadecimal text."""
        return "0x" + bytes(self._core.storage_key(pallet, item, list(keys))).hex()

    def stored(self, pallet: str, item: str, value: object) -> str:
        """Return what the chain stores for a value of an item, as hexadecimal text."""
        entry = self._core.storage_entry(pallet, item)
        return "0x" + bytes(self._core.encode(entry.value_type, value)).hex()

    def arguments(self, api: str, method: str, data: bytes) -> list[Any]:
        """Return the decoded arguments of a runtime call. Raises LookupError if the runtime has no such method."""
        kinds = [kind for _, kind in self._core.runtime_api_map()[api][method]["inputs"]]
        decoded = self._core.decode(f"({', '.join(kinds)})", data, True) if len(kinds) > 1 else None
        return list(decoded) if decoded is not None else [self._core.decode(kinds[0], data, True)]

    def result(self, api: str, method: str, given: object) -> str:
        """Return the result of a runtime call as hexadecimal text.

        `given` are the fields that matter: of a structure, or of each structure of a list. All other fields are zero.
        """
        kind = int(self._core.runtime_api_map()[api][method]["output"].removeprefix("scale_info::"))
        return "0x" + bytes(self._core.encode(f"scale_info::{kind}", self._completed(kind, given))).hex()

    def _completed(self, kind: int, given: Any) -> Any:
        """Return `given` with zeros for the fields of its type that it lacks."""
        [(form, body)] = self._types[kind]["def"].items()
        if form == "sequence":
            return [self._completed(body["type"], one) for one in given]
        if self._is_option(kind):
            return self._completed(_inner(body), given)
        if form == "composite" and isinstance(given, dict):
            fields = {field["name"]: field["type"] for field in body["fields"]}
            return {
                name: self._completed(inner, given[name]) if name in given else self._zero(inner)
                for name, inner in fields.items()
            }
        return given

    def _zero(self, kind: int) -> Any:
        """Return the simplest value of a type."""
        [(form, body)] = self._types[kind]["def"].items()
        path = self._types[kind].get("path") or [""]
        match form:
            case "primitive":
                return {"bool": False, "str": ""}.get(body, 0)
            case "compact":
                return 0
            case "sequence":
                return []
            case "array":
                return [self._zero(body["type"])] * body["len"]
            case "tuple":
                return tuple(self._zero(inner) for inner in body)
            case "composite" if path[-1] == "AccountId32":
                return core.ss58_encode(bytes(32), SS58_FORMAT)
            case "composite":
                fields = body.get("fields", [])
                if len(fields) == 1 and fields[0].get("name") is None:
                    return self._zero(fields[0]["type"])
                return {field["name"]: self._zero(field["type"]) for field in fields}
            case _:
                return None if self._is_option(kind) else body["variants"][0]["name"]

    def _is_option(self, kind: int) -> bool:
        return bool(self._types[kind].get("path") == ["Option"])


def _inner(body: dict[str, Any]) -> int:
    """Return the type in an option."""
    [some] = [variant for variant in body["variants"] if variant["name"] == "Some"]
    kind: int = some["fields"][0]["type"]
    return kind


def _opened(opaque: bytes) -> bytes:
    """Return the metadata in Option<OpaqueMetadata>: 1, the length as a four-byte compact number, and the bytes."""
    assert opaque[0] == 1
    assert opaque[1] & 3 == 2
    length = int.from_bytes(opaque[1:5], "little") >> 2
    return opaque[5 : 5 + length]


@cache
def runtime(spec: int) -> Runtime:
    """Return the runtime of a spec version."""
    return Runtime(spec)
