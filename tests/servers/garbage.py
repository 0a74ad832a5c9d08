"""Messages that are wrong in every way we could think of, from good ones; the same ones for the same seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from uuid import UUID

from routing.requests import MAX_MESSAGE_LENGTH
from routing.sockets.messages import TYPES
from tests.sockets import JSON, job

Data = str | bytes

ODD = [
    *("null", "true", "false", "0", "-0", "-1", "1.0", "0.5", "1e3", "1e308", "1e400", "NaN", "Infinity", "-Infinity"),
    *(str(2**31), str(2**63 - 1), str(2**63), str(-(2**63) - 1), "1" + "0" * 400, "9" * 4300, "9" * 4301, "0" * 40),
    *('""', '" "', '"null"', '"0"', '"1e3"', '"\\u0000"', '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"'),
    *(r'"\"\\\/\b\f\n\r\t"', '"a\\nb\\r\\nc\\u2028d"', '"\u202e\u0627\u2066\u200f"', '"\ufeff"', '"\ufffe\U0010ffff"'),
    *(f'"{"x" * length}"' for length in (48, 49, 64, 65, 5000)),
    *('"00000000-0000-0000-0000-00000000000"', '"{00000000-0000-0000-0000-000000000000}"', '"urn:uuid:0"'),
    *('"1970-01-01T00:00:00Z"', '"2999-12-31T23:59:59.9999999+23:59"', '"0001-01-01T00:00:00-00:01"', '"today"'),
    *("[]", "[[]]", "[null]", "[1, 2]", '["a", 1]', "{}", '{"": ""}', '{"a": 1}', '{"type": "job.new"}', "[{}, {}]"),
    *("[" * 100 + "]" * 100, '{"a":' * 100 + "1" + "}" * 100, "[" + "1," * 2000 + "1]"),
    *("undefined", "'a'", "01", "+1", "1.", ".5", "0x10", '"\\x41"', '"\t"', '"a', "[1,]", "{a: 1}", "", "//", "1 2"),
]
"""What may stand in the place of a value, in JSON; some of it is none."""

VOLUME = {
    "volume_type": "multi_volume",
    "volumes": [{"volume_type": "zip_url", "contents": "https://example.org/a.zip"}],
}
HUGGINGFACE = {"volume_type": "huggingface_volume", "repo_id": "a/b", "allow_patterns": ["*.json"]}
UPLOAD = {"output_upload_type": "zip_and_http_post", "url": "https://example.org/", "form_fields": {"a": "b"}}
UPLOADS = {
    "output_upload_type": "multi_upload",
    "uploads": [{"output_upload_type": "single_file_put", "url": "https://example.org/", "relative_path": "a"}],
    "system_output": {"output_upload_type": "zip_and_http_put", "url": "https://example.org/"},
}
SIGNATURE = {"signature_type": "bittensor", "signatory": "5abc", "timestamp_ns": 1, "signature": "YWJj"}
WHOLE_JOB = {
    "type": "job.new",
    "message_type": "V2JobRequest",
    "signature": {**SIGNATURE, "signature_scope": "SignedFields"},
    "job_namespace": "a",
    "args": ["a"],
    "env": {"a": "b"},
    "artifacts_dir": "/a",
    "on_trusted_miner": False,
    "streaming_details": {"public_key": "a", "executor_ip": "10.0.0.1"},
}
AT = "2026-01-01T00:00:00Z"
EVENT = {"allowance_reservation_id": 1}
RECEIPT = {**EVENT, "validator_hotkey": "a", "timestamp": AT}
GOOD: dict[str, Callable[[], JSON]] = {
    "job": job,
    "whole job": lambda: {**job(), **WHOLE_JOB, "volume": VOLUME, "output_upload": UPLOAD},
    "other job": lambda: {**job(), **WHOLE_JOB, "volume": HUGGINGFACE, "output_upload": UPLOADS},
    "job.retry": lambda: EVENT,
    "job.started": lambda: {**RECEIPT, "ttl": 1},
    "job.accepted": lambda: {**RECEIPT, "ttl": 1, "time_accepted": AT},
    "job.finished": lambda: {**RECEIPT, "time_started": AT, "time_took_us": 1, "score_str": "1"},
    "job.failed": lambda: {**EVENT, "incident": "MINER_JOB_FAILED"},
    "job.rejected_by_miner": lambda: EVENT,
}


def every_field_replaced(rng: random.Random) -> Iterator[Data]:
    """Yield each message with each value in it, at any depth, replaced by each odd one."""
    for kind in GOOD:
        for path in paths(good(rng, kind)):
            for odd in ODD:
                yield replaced(good(rng, kind), path, odd)


def mutated(rng: random.Random, count: int) -> Iterator[Data]:
    """Yield so many messages, each changed in some way that is drawn by lot."""
    for _ in range(count):
        yield rng.choice(MUTATIONS)(rng, good(rng, rng.choice(list(GOOD))))


def good(rng: random.Random, kind: str) -> JSON:
    """Return a good message, about a job that nobody knows."""
    named = {"type": kind} if kind in TYPES else {}
    return {**named, **GOOD[kind](), "uuid": str(UUID(int=rng.getrandbits(128), version=4))}


def paths(value: object, so_far: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the way to each value in a message, but not to the whole."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*so_far, key)
        yield from paths(inner, (*so_far, key))


def replaced(message: JSON, path: tuple[str | int, ...], text: str) -> str:
    """Return a message in JSON, with what stands at the end of a path replaced."""
    whole = json.loads(json.dumps(message))
    place = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = "\0here"
    return json.dumps(whole).replace('"\\u0000here"', text, 1)


def _truncated(rng: random.Random, message: JSON) -> Data:
    text = json.dumps(message)
    return text[: rng.randrange(len(text))]


def _with_bytes_changed(rng: random.Random, message: JSON) -> Data:
    data = bytearray(json.dumps(message).encode())
    for _ in range(rng.choice([1, 1, 2, 5])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def _with_text_inserted(rng: random.Random, message: JSON) -> Data:
    text = json.dumps(message)
    at = rng.randrange(len(text))
    return (
        text[:at] + rng.choice(['"', "\\", "{", "}", "[", "]", ",", ":", "\0", "\n", "\u202e", "😀", "//"]) + text[at:]
    )


def _with_several_replaced(rng: random.Random, message: JSON) -> Data:
    for key in rng.sample(list(message), k=min(3, len(message))):
        message[key] = rng.choice([None, True, -1, 2**70, 0.1, "", "\0", [], {}, [message["uuid"]], {"a": [{}]}])
    return json.dumps(message)


def _without_some(rng: random.Random, message: JSON) -> Data:
    for key in rng.sample(list(message), k=rng.randint(1, len(message))):
        del message[key]
    return json.dumps(message)


def _with_more(rng: random.Random, message: JSON) -> Data:
    return json.dumps({**message, rng.choice(["", "a" * 200, "\0", "Type", "uuid ", "__proto__"]): message["uuid"]})


def _with_a_key_twice(rng: random.Random, message: JSON) -> Data:
    key = rng.choice(list(message))
    return json.dumps(message)[:-1] + f", {json.dumps(key)}: {rng.choice(ODD)}}}"


def _of_another_type(rng: random.Random, message: JSON) -> Data:
    return json.dumps({**message, "type": rng.choice([*TYPES, "job.routed", "job.event", "", "JOB.NEW", None, [], 1])})


def _escaped(rng: random.Random, message: JSON) -> Data:
    escaped = (f"\\u{ord(letter):04x}" if letter.isalnum() else letter for letter in json.dumps(message))
    return "".join(letter if rng.random() < 0.9 else chr(rng.randrange(0xD800)) for letter in escaped)


def _wrapped(rng: random.Random, message: JSON) -> Data:
    text = json.dumps(message)
    return rng.choice(["[{0}]", "{0}{0}", "{0}\n{0}", "\ufeff{0}", "{0},", "({0})", "[{0}, {0}]"]).format(text)


def _encoded(rng: random.Random, message: JSON) -> Data:
    return json.dumps(message).encode(rng.choice(["utf-16", "utf-32", "utf-7", "utf-8-sig", "cp037"]))


def _noise(rng: random.Random, _message: JSON) -> Data:
    return rng.randbytes(rng.choice([0, 1, 10, 1000]))


def _deep(rng: random.Random, message: JSON) -> Data:
    depth = rng.choice([100, 300, 20_000])
    opening, closing = rng.choice([("[", "]"), ('{"a":', "}"), ('[{"uuid":', "}]")])
    return replaced(message, (rng.choice(list(message)),), opening * depth + "1" + closing * rng.choice([0, depth]))


def _long(rng: random.Random, message: JSON) -> Data:
    if rng.random() < 0.95:
        return json.dumps({**message, "uuid": "u" * 10_000})
    return json.dumps({**message, "docker_image": "x" * MAX_MESSAGE_LENGTH})


MUTATIONS = [
    _truncated,
    _with_bytes_changed,
    _with_text_inserted,
    _with_several_replaced,
    _without_some,
    _with_more,
    _with_a_key_twice,
    _of_another_type,
    _escaped,
    _wrapped,
    _encoded,
    _noise,
    _deep,
    _long,
]
