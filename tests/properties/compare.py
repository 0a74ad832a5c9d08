"""The database beside the naive model: every reservation, every set of blocks, every nanosecond."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

from django.db.models import F

from allowance import allowance, ledger, reading
from allowance.ledger import Balance, Window
from allowance.models import Account, Block, Miner, Reservation
from allowance.oversight.audit import KEPT_BEFORE, check_ledger
from allowance.oversight.fates import Fate, totals
from receipts import receipts
from receipts.models import JobAcceptedReceipt, JobFinishedReceipt
from routing.models import MinerIncident
from tests.naive import BLOCK_EXPIRY, KEPT_BLOCKS, Booking, Subnet
from tests.properties.chain import CLASSES, MINERS
from tests.properties.coverage import EXPIRED, FORGOTTEN, STATES, Tally
from tests.properties.judge import Violation

Rows = dict[int, tuple[Booking, str]]


def stored_reservations() -> Rows:
    """Return all reservations, each with the state that its row says."""
    rows = Reservation.objects.values_list(
        *("pk", "account__miner", "account__executor_class", "blocks", "expires_at", "job_uuid", "state")
    )
    return {
        pk: (Booking(miner, cls, tuple(blocks), expires_at, None if uuid is None else str(uuid)), state)
        for pk, miner, cls, blocks, expires_at, uuid, state in rows
    }


def compare_reservations(rows: Rows, model: Subnet) -> None:
    """Raise Violation unless each reservation is there, and ended as it should have (invariant 4)."""
    expected = {pk: (booking, model.ends.get(pk, "held")) for pk, booking in model.bookings.items()}
    if rows != expected:
        odd = {pk for pk in rows.keys() | expected.keys() if rows.get(pk) != expected.get(pk)}
        raise Violation("; ".join(f"reservation {expected.get(pk)} is stored as {rows.get(pk)}" for pk in sorted(odd)))


def compare_balances(model: Subnet, now: dt.datetime, tally: Tally) -> None:
    """Raise Violation unless every account has earned, holds and spent what the model says, block by block."""
    window = reading.window(None, before=KEPT_BEFORE)
    if window.newest is None:
        return
    for cls in CLASSES:
        balances = reading.read(cls, now).balances
        for miner in MINERS:
            if balance := balances.get(miner):
                compare_balance(balance, window, model, now, tally)
            elif any(booking.holds(miner, cls) for booking in model.bookings.values()) or model.earned(miner, cls):
                raise Violation(f"{miner} has no account of {cls}.")
        busy = receipts().get_busy_executor_count(cls, now)
        same(f"busy executors of {cls}", busy, {miner: len(jobs) for miner, jobs in model.busy(cls, now).items()})


def compare_balance(balance: Balance, window: Window, model: Subnet, now: dt.datetime, tally: Tally) -> None:
    """Compare one account with the model's, as it stands once what expired by `now` is free."""
    miner, cls = balance.hotkey, balance.executor_class
    name, oldest = f"{miner}'s {cls}", model.newest - KEPT_BLOCKS
    numbers = range(window.low, window.low + window.ns.size)
    given = dict(zip(numbers, ledger.earned_by_block(window, balance).tolist(), strict=True))
    earned = {n: ns for n, ns in model.earned(miner, cls).items() if n >= oldest}
    same(f"{name} earned", {n: ns for n, ns in given.items() if ns}, earned)
    for what, bits in (("held", balance.held), ("spent", balance.spent)):
        taken = {n for n in model.taken(miner, cls, now, what) if n >= balance.base}
        same(f"{name} {what}", set(ledger.to_blocks(bits, balance.base)), taken)
    same(f"{name} is registered", balance.registered, miner in model.registered())
    same(f"{name} executors", balance.executors, model.executors(miner, cls))
    same(f"{name} voided before", balance.voided_before, model.voided_before(miner, cls))
    same(f"{name} collateral", balance.wei, model.wei.get(miner, 0))
    parts = {fate.value: total.ns for fate, total in totals(balance, window).items() if fate is not Fate.NONE}
    same(f"{name} sums", parts, model_sums(model, miner, cls, earned, now))
    tally[STATES, EXPIRED] += bool(parts["aged out"])
    tally[STATES, FORGOTTEN] += balance.base > min(model.blocks)


def model_sums(model: Subnet, miner: str, cls: str, earned: dict[int, int], now: dt.datetime) -> dict[str, int]:
    """Return what is free, held, spent, voided and aged out (invariant 3)."""
    oldest = model.newest - BLOCK_EXPIRY
    held, spent = (model.taken(miner, cls, now, what) for what in ("held", "spent"))
    parts = dict.fromkeys(("free", "held", "spent", "voided", "aged out"), 0)
    voided_before = model.voided_before(miner, cls)
    for n, ns in earned.items():
        if n < voided_before:
            parts["voided"] += ns
        elif n in spent or n in held:
            parts["spent" if n in spent else "held"] += ns
        else:
            parts["aged out" if n < oldest else "free"] += ns
    return parts


def compare_the_rest(model: Subnet) -> None:
    """Compare what no step looked at, and let the ledger check itself."""
    same("check_ledger", [str(difference) for difference in check_ledger()], [])
    if model.blocks:
        same("the newest block", allowance().get_current_block(), model.newest)
    incidents = {(i.hotkey_ss58address, str(i.job_uuid)): i.type for i in MinerIncident.objects.all()}
    same("incidents", incidents, {key: incident["type"] for key, incident in model.incidents.items()})
    for kind, table in (("job_accepted", JobAcceptedReceipt), ("job_finished", JobFinishedReceipt)):
        stored: set[Any] = set(table._default_manager.values_list("job_uuid", "miner_hotkey"))
        expected = {(UUID(uuid), receipt["miner_hotkey"]) for uuid, receipt in model.receipts(kind).items()}
        same(f"{kind} receipts", stored, expected)
    reachable = {name for name in model.registered() if model.reachable(name)}
    same("miners()", {miner.hotkey_ss58 for miner in allowance().miners()}, reachable)


def same(what: str, stored: object, expected: object) -> None:
    if stored != expected:
        raise Violation(f"{what}: {stored}, the model says {expected}")


def damage(what: str, nth: int) -> bool:
    """Change a derived value behind the ledger's back, and tell whether there was one."""
    if what in {"presence", "ns"}:
        rows: Any = Miner.objects.order_by("pk") if what == "presence" else Block.objects.order_by("-number")
        row = rows[nth : nth + 1].first()
        if row is None:
            return False
        setattr(row, what, ((0, 0 if row.presence else 1),) if what == "presence" else (row.ns or 0) + 1)
        row.save(update_fields=[what])
        return True
    account = Account.objects.order_by("executor_class", "miner")[nth : nth + 1].first()
    if account is None:
        return False
    if what in {"held", "spent"}:
        setattr(account, what, getattr(account, what) ^ 0b101)
        account.save(update_fields=[what])
    else:
        Account.objects.filter(pk=account.pk).update(**{what: F(what) + 1})
    return True
