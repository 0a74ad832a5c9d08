"""What a simulation has been through, counted; and what it must have been through to prove anything."""

from __future__ import annotations

from collections import Counter

from rich.table import Table

from tests.properties.history import POINTS, WRITERS

Tally = Counter[tuple[str, str]]

OPERATIONS, CRASHES, REFUSALS, STATES, CONTENTION = "operations", "crashes", "refusals", "states", "contention"

LAPSED_AND_TAKEN = "a hold expired unnoticed, and its blocks were taken"
AT_THE_EDGE = "a clock within 1 µs of an expiry"
SPEND_LAPSED, UNDO_LAPSED = "spend of a expired hold refused", "undo of a expired hold refused"
SPEND_SPENT, UNDO_SPENT = "second spend refused", "undo of a spent one refused"
SPEND_UNDONE, UNDO_UNDONE = "spend of a released one refused", "second undo refused"
UNKNOWN = "unknown reservation refused"
VOIDED_FREE, VOIDED_HELD, VOIDED_SPENT = "a drop voided free", "a drop voided held blocks", "a drop voided spent blocks"
RISE, SILENT = "an executor count rose", "a miner did not answer"
UNREACHABLE = "a miner without an address was passed over"
LEFT, RETURNED = "a miner left", "a miner returned"
LATE, REPEATED, CONTRADICTED = "a block came late", "a block came again", "a block came again with other contents"
OUT_OF_TIME = "a block out of time refused"
OLD_SYNC, SYNC_REPEATED = "old manifests refused", "manifests came again"
RECEIPT_AGAIN, RECEIPT_LATE = "a receipt came again", "a receipt came late"
RECEIPT_UNKNOWN = "a receipt of an unknown job"
INCIDENT_AGAIN = "an incident came again"
BACKWARDS = "a clock stepped backwards"
EXPIRED, FORGOTTEN = "allowance expired", "a balance forgot blocks"
REPAIRED, REPAIR_CRASHED = "damage repaired", "a repair crashed and was done again"
LOST_ROUTE = "a route lost in a crash, its hold kept"
TRUSTED = "a trusted job"
PRUNED_SPENT, PRUNED_UNSPENT = "a spent reservation pruned", "a released or expired reservation pruned"
PRUNED_BLOCKS, CARRIED = "blocks pruned", "a list of neurons carried on"
PRUNED_RECEIPTS, PRUNED_INCIDENTS, TIDIED = "receipts pruned", "incidents pruned", "expired holds tidied by a prune"
FORGOT, FORGOT_HELD, FORGOT_DROP = "blocks forgotten", "a hold released for that", "a drop undone by that"
FUTURE = "a block from the future refused"
BELOW_PRUNED = "a block came late, below the pruned ones"

LOCK_WAITS, PASSED_OVER, BURSTS, DISTURBED = "lock waits", "passed over while locked", "bursts", "disturbed operations"

REQUIRED_STATES = (
    *(LAPSED_AND_TAKEN, AT_THE_EDGE, SPEND_LAPSED, UNDO_LAPSED, SPEND_SPENT, UNDO_SPENT, SPEND_UNDONE, UNDO_UNDONE),
    *(UNKNOWN, VOIDED_FREE, VOIDED_HELD, VOIDED_SPENT, RISE, SILENT, LEFT, RETURNED, LATE, REPEATED, CONTRADICTED),
    *(OUT_OF_TIME, OLD_SYNC, SYNC_REPEATED, RECEIPT_AGAIN, RECEIPT_LATE, RECEIPT_UNKNOWN, INCIDENT_AGAIN, BACKWARDS),
    *(UNREACHABLE, FORGOT, FORGOT_HELD, FORGOT_DROP, FUTURE),
    *(EXPIRED, FORGOTTEN, REPAIRED, REPAIR_CRASHED, LOST_ROUTE, TRUSTED),
    *(PRUNED_SPENT, PRUNED_UNSPENT, PRUNED_BLOCKS, CARRIED, PRUNED_RECEIPTS, PRUNED_INCIDENTS, TIDIED, BELOW_PRUNED),
)
REQUIRED_REFUSALS = (
    *("NotEnoughAllowanceException", "NotEnoughCollateralException", "AllMinersBusy", "JobTooLong", "ValueError"),
    *("CannotReserveAllowanceException", "ReservationNotFound", "ReservationReleased", "ReservationAlreadySpent"),
    *("ReservationExpired", "BlocksInUse"),
)


def crash(kind: str, point: str) -> tuple[str, str]:
    return CRASHES, f"{kind}, {point}"


def missing(tally: Tally, vendor: str) -> list[str]:
    """Return what was to be exercised and never was. SQLite has no row lock to be passed over for."""
    contention = [LOCK_WAITS, BURSTS, DISTURBED, *([PASSED_OVER] if vendor == "postgresql" else [])]
    required = [
        *((STATES, name) for name in REQUIRED_STATES),
        *((REFUSALS, name) for name in REQUIRED_REFUSALS),
        *(crash(kind, point) for kind in WRITERS for point in POINTS),
        *((CONTENTION, name) for name in contention),
    ]
    return [f"{section}: {name}" for section, name in required if not tally[section, name]]


def summary(tally: Tally) -> Table:
    """Return all counts, a section after the other."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for section in (OPERATIONS, CRASHES, REFUSALS, CONTENTION, STATES):
        counts = sorted((name, n) for (part, name), n in tally.items() if part == section)
        table.add_row(f"[bold]{section}[/]", f"[bold]{sum(n for _, n in counts):,}[/]")
        for name, n in counts:
            table.add_row(f"  {name}", f"{n:,}")
    return table
