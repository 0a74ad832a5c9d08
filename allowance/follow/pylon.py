"""The chain as a Pylon service tells it: the adapter for operators who run Pylon, or who need shielded addresses.

The service needs version 1.2 or newer; for an identity it must know `/api/v1/identities`. An identity is told the
addresses that miners behind a DDoS shield give to it alone.

What Pylon can't tell, and what this adapter does about it:

* It has no finalized head. The adapter takes the block DEPTH before the newest, as ComputeHorde does. If the chain
  forks below that, the next block has another parent than recorded, and the follower stops.
* It has no headers. The parent's hash is that of the block before, which is read for this alone: each block costs two
  reads, but one where blocks are read backwards. It is empty if the block before can't be read.
* It has no genesis. So the follower notices another chain at the first block beside a recorded one.
* It tells stakes as floating-point tokens. In rao they are exact up to 2 million tokens, and off by a few rao above.
* It tells commitments and EVM addresses as of the newest block only.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from allowance.follow.sources import (
    BlockUnreadable,
    ChainBlock,
    Head,
    Neuron,
    SourceBusy,
    SourceError,
    StateDiscarded,
)
from allowance.plumbing.calls import DEADLINE

DEPTH = 5
"""The number of blocks before the newest at which a block is taken for finalized."""

RAO = 10**9
"""The rao in a token."""

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

ANY_TOKEN = "none"  # noqa: S105 (a service without a token takes any)
"""What is sent if no token is set, because the client insists on one."""

ADVICE = {
    308: "Check NETUID and the subnet of the identity.",
    401: "Set PYLON_OPEN_ACCESS_TOKEN, also beside an identity: only that token opens the calls about blocks.",
    403: "Correct PYLON_OPEN_ACCESS_TOKEN and PYLON_IDENTITY_TOKEN: they are the service's own settings.",
    404: "Check PYLON_ADDRESS and PYLON_IDENTITY_NAME, and update the service: it needs version 1.2 or newer.",
    500: "See the log of the service.",
    502: "Check the node that the service reads.",
    503: "The service has no fresh data. Check the node that it reads.",
}
"""What to do about an answer, by its HTTP status."""

NO_ASSOCIATIONS = (
    "This service does not tell EVM addresses. Update it, or set COLLATERAL_FROM=none, or CHAIN_SOURCE=subtensor."
)


class PylonSilent(SourceError):
    """The Pylon service can't be reached, or gives an answer that its client can't read."""

    def __init__(self, service: str, reason: str) -> None:
        self.service, self.reason = service, reason
        super().__init__(
            f"The Pylon service at {service} gives no usable answer: {reason}. "
            "Check PYLON_ADDRESS and that the service runs."
        )


class PylonRefused(SourceError):
    """The Pylon service has refused a call. `status` is the HTTP status, and `detail` the reason that it gives."""

    def __init__(self, service: str, call: str, status: int, detail: str, advice: str = "") -> None:
        self.service, self.call, self.status, self.detail = service, call, status, detail
        answer = f"{status} {detail}".strip().rstrip(".")
        advice = advice or ADVICE.get(status, ADVICE[500])
        super().__init__(f"The Pylon service at {service} answers {call} with: {answer}. {advice}")


class PylonIdentityUnfit(SourceError):
    """The identity at the Pylon service is for the subnet `netuid`, which is another one, or None if it is unknown."""

    wait = 60.0

    def __init__(self, identity: str, netuid: int | None, configured: int) -> None:
        self.identity, self.netuid, self.configured = identity, netuid, configured
        fault = "is not known to it" if netuid is None else f"is for subnet {netuid}, but NETUID is {configured}"
        super().__init__(
            f"The identity {identity} at the Pylon service {fault}. Correct PYLON_IDENTITY_NAME or NETUID."
        )


class Pylon:
    """A Pylon service. Without an identity it is asked by open access.

    `pace` is low and `deadline` is long because the service decodes about one block per second and core.
    """

    name = "pylon"
    pace, deadline = 0.5, 30.0

    def __init__(
        self,
        address: str,
        identity_name: str = "",
        identity_token: str = "",
        open_access_token: str = "",
        *,
        netuid: int,
    ) -> None:
        self.address, self.netuid = address, netuid
        self.identity = identity_name
        self._tokens = identity_token, open_access_token
        self._client: Any = None
        self._head: Head | None = None
        self._read: Any = None
        """The last neurons that were read only for the hash of their block, until `block` takes them."""

    @property
    def service(self) -> str:
        """The address without its scheme and without credentials in it."""
        split = urlsplit(self.address if "//" in self.address else f"//{self.address}")
        return (split.netloc.rpartition("@")[2] + split.path).rstrip("/")

    async def genesis(self) -> str:
        """Return an empty text: the service does not give the hash of block 0."""
        return ""

    async def latest(self) -> Head:
        """Return the block DEPTH before the newest."""
        newest = await self._ask("get_latest_block_info")
        number = max(newest.number - DEPTH, 0)
        if self._head is None or number > self._head.number:
            self._head = Head(number, await self.hash(number))
        return self._head

    async def block(self, number: int) -> ChainBlock:
        """Return a block. Raises BlockUnreadable or StateDiscarded if the service can't read it."""
        try:
            answer, self._read = self._read, None
            if answer is None or answer.block.number != number:
                answer = await self._neurons(number)
            time = _time(number, await self._ask("get_extrinsic", number, 0))
        except PylonRefused as error:
            if "data is unavailable" in error.detail:
                advice = "Set PYLON_BITTENSOR_ARCHIVE_NETWORK at the Pylon service."
                raise StateDiscarded(number, advice) from error
            if error.status == 500 or (error.status == 404 and str(number) in error.detail):
                reason = f"Pylon answers {error.status} {error.detail}".strip().rstrip(".")
                raise BlockUnreadable(number, None, reason, "See the log of the Pylon service.") from error
            raise
        parent = await self._parent(number)
        return ChainBlock(number, answer.block.hash, parent, time, _neurons(answer))

    async def commitments(self, number: int) -> Mapping[str, bytes]:
        """Return the newest commitments, whatever the `number`: the service tells no older ones."""
        answer = await self._ask("get_commitments", *self._subnet)
        return {hotkey: bytes.fromhex(data.removeprefix("0x")) for hotkey, data in answer.commitments.items()}

    async def evm_addresses(self, number: int) -> Mapping[int, str]:
        """Return the newest EVM addresses of the neurons that are registered at a block.

        Raises PylonRefused if the service does not tell them. They are part of Pylon's unstable interface.
        """
        answer = await self._ask(
            "get_latest_evm_associations", *self._subnet, version="unstable", on_404=NO_ASSOCIATIONS
        )
        found = answer.evm_associations
        neurons = _neurons(await self._neurons(number))
        return {each.uid: found[each.hotkey].evm_address.lower() for each in neurons if each.hotkey in found}

    async def renew(self) -> None:
        """Drop the connections and the known head. The service has one address only."""
        await self.close()
        self._head = self._read = None

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    @property
    def _subnet(self) -> tuple[int, ...]:
        """The subnet as an argument of calls. An identity has its own."""
        return () if self.identity else (self.netuid,)

    async def _neurons(self, number: int) -> Any:
        """Return the answer with the neurons at a block."""
        return await self._ask("get_neurons", *self._subnet, number)

    async def hash(self, number: int) -> str:
        """Return the hash of a block. Only the answer with its neurons tells it, so that is kept for `block`."""
        self._read = answer = await self._neurons(number)
        found: str = answer.block.hash
        return found

    async def _parent(self, number: int) -> str:
        """Return the hash of the block before, or an empty text if the service can't read that block."""
        try:
            return await self.hash(number - 1) if number else ""
        except PylonRefused as error:
            if error.status in (404, 500):
                return ""
            raise

    async def _ask(self, method: str, *arguments: Any, version: str = "v1", on_404: str = "") -> Any:
        """Return the client's answer to a call. Raises SourceError if there is none."""
        from pylon_client import artanis  # noqa: PLC0415 (an extra)

        api = await self._api(version)
        try:
            answer = await getattr(api, method)(*arguments)
        except artanis.PylonMisconfigured as error:
            raise PylonIdentityUnfit(self.identity, None, self.netuid) from error
        except artanis.PylonResponseException as error:
            raise self._refusal(method, error, on_404) from error
        except artanis.PylonTimeoutException as error:
            raise PylonSilent(self.service, str(error).rstrip(".")) from error
        except artanis.PylonRequestException as error:
            raise PylonSilent(self.service, str(error.__cause__) or type(error.__cause__).__name__) from error
        except (TypeError, ValueError) as error:  # what is no JSON, or other JSON than the client's models
            raise PylonSilent(self.service, f"{method} can't be read ({type(error).__name__})") from error
        if self.identity and api.netuid != self.netuid:
            raise PylonIdentityUnfit(self.identity, api.netuid, self.netuid)
        return answer

    async def _api(self, version: str) -> Any:
        """Return the part of the client that is asked. Open the client first if need be."""
        from pylon_client import artanis  # noqa: PLC0415 (an extra)

        if self._client is None:
            identity_token, open_access_token = self._tokens
            config = artanis.AsyncConfig(  # all is said here, for the client would read the environment for the rest
                address=self.address,
                identity_name=self.identity or None,
                identity_token=identity_token or None,
                open_access_token=open_access_token or (None if self.identity else ANY_TOKEN),
                timeout=artanis.PylonTimeout(read=DEADLINE),
                neurons_file=None,
                mtls_cert_path=None,
                mtls_key_path=None,
            )
            self._client = artanis.AsyncPylonClient(config)
            await self._client.open()
        namespace = getattr(self._client, version)
        return namespace.identity if self.identity else namespace.open_access

    def _refusal(self, method: str, error: Any, on_404: str) -> SourceError:
        """Return the error for an answer that is an HTTP error."""
        if error.status_code == 429:
            seconds = error.__cause__.response.headers.get("retry-after", "")
            return SourceBusy(f"Pylon at {self.service}", float(seconds) if seconds.isdecimal() else 0.0, "429")
        advice = on_404 if error.status_code == 404 else ""
        return PylonRefused(self.service, method, error.status_code, error.detail or "", advice)


def _neurons(answer: Any) -> tuple[Neuron, ...]:
    """Return the neurons of an answer, ordered by uid."""
    found = [
        Neuron(
            uid=neuron.uid,
            hotkey=neuron.hotkey,
            address=str(neuron.axon_info.ip),
            ip_version=neuron.axon_info.ip.version,
            port=neuron.axon_info.port,
            permit=neuron.validator_permit,
            stake=round(neuron.stakes.total * RAO),
        )
        for neuron in answer.neurons.values()
    ]
    return tuple(sorted(found, key=lambda neuron: neuron.uid))


def _time(number: int, extrinsic: Any) -> dt.datetime:
    """Return the time that the first extrinsic of a block sets. Raises BlockUnreadable if it is another extrinsic."""
    call = extrinsic.call
    values = {argument.name: argument.value for argument in call.call_args}
    if (call.call_module, call.call_function) != ("Timestamp", "set") or not isinstance(values.get("now"), int):
        raise BlockUnreadable(number, None, "its first extrinsic does not set the time", "Update the Pylon service.")
    return EPOCH + dt.timedelta(milliseconds=values["now"])
