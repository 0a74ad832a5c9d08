"""Controls: with a defect in the real code the simulation fails, and the history that it shows is short."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest
from django.db import connection
from django.db.models import Model, Q

from allowance import ledger, reservations
from allowance.chain import newest_block
from allowance.ledger import Balance, Steps, Window
from allowance.models import Account, Block, Reservation, ReservationState
from allowance.plumbing.compiled import Compiled, Together, parameter, updating
from allowance.plumbing.transactions import ThisTransaction
from routing.decision.book import LiveBook, Outdated
from routing.decision.model import Decision
from routing.decision.ranking import busy
from routing.decision.state import State
from routing.types import Outcome
from tests.factories import read_account
from tests.properties.chain import MINERS
from tests.properties.coverage import Tally
from tests.properties.history import AFTER_COMMIT, BEFORE_COMMIT, STATEMENT, Action, Do, Step, load, size
from tests.properties.judge import Violation
from tests.properties.router import Router
from tests.properties.scene import act, pick, races, races_with_a_prune, setting
from tests.properties.shrink import TRIES
from tests.properties.simulation import Found, failure, run

pytestmark = pytest.mark.filterwarnings("ignore:.* was deleted while still open:ResourceWarning")  # by a crash

Defect = Callable[[pytest.MonkeyPatch], None]

LENGTH, SHORT = 100, 12


def lapse_ignored_when_reading(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("allowance.reading.free_expired", lambda entry, _: (entry.balance, {}))


def lapse_ignored_when_ending(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reservation, "state_at", lambda self, _: ReservationState(self.state))


def ends_unchecked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reservation, "state_at", lambda self, _: ReservationState.HELD)


def lapses_not_stored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("allowance.reservations._expire", lambda _: None)


def blocks_taken_twice(patch: pytest.MonkeyPatch) -> None:
    take = ledger.take

    def take_again(window: Window, balance: Balance, need: int) -> list[int] | None:
        return take(window, balance._replace(held=0), need)

    patch.setattr(ledger, "take", take_again)


def drops_void_nothing(patch: pytest.MonkeyPatch) -> None:
    def declared_step(before: tuple[int, int, Steps], block: int, count: int) -> tuple[int, int, Steps]:
        return count, before[1], ledger.assign(before[2], count, block)

    patch.setattr("allowance.chain.declared_step", declared_step)
    patch.setattr("allowance.oversight.history.declared_step", declared_step)


def addresses_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Balance, "is_reachable", True)


def drops_not_taken_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("allowance.oversight.forgetting._derive_accounts", lambda: None)


def executors_not_counted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(State, "_ongoing", lambda *_: set())


def balance_stored_on_its_own(patch: pytest.MonkeyPatch) -> None:
    """Commit between the balance and its reservation: only a crash in between shows it."""

    def execute(self: Together, update: Mapping[str, Any], *rows: Mapping[str, Any]) -> bool:
        first, *inserts = self._parts
        if not first.execute(**update):
            return False
        if connection.in_atomic_block:
            connection._commit()  # type: ignore[attr-defined]
        return all(insert.execute(**row) for insert, row in zip(inserts, rows, strict=True))

    patch.setattr(Together, "execute", execute)


def no_account_lock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("routing.decision.book.lock_account", read_account)
    patch.setattr("allowance.reservations.lock_account", read_account)
    no_version(patch)


def no_version(patch: pytest.MonkeyPatch) -> None:
    """Store a balance whatever has become of the account since it was read."""
    account = Account.objects.filter(pk=parameter(Account, "id"))
    new = {name: parameter(Account, name) for name in ("base", "held", "spent", "version")}
    unconditionally = Compiled(lambda: updating(account, **new, changed=ThisTransaction()))
    patch.setattr(reservations, "STORE", unconditionally)
    patch.setattr(reservations, "STORE_HELD", unconditionally)


def locked_means_busy(patch: pytest.MonkeyPatch) -> None:
    reserve = LiveBook.reserve

    def reserve_at_once(self: LiveBook, *arguments: Any) -> Any:
        outcome = None
        with suppress(Outdated):
            outcome = reserve(self, *arguments)
        ranking, equals = arguments
        return outcome or ranking.after(dict.fromkeys(equals, busy(10**6, 1)))

    patch.setattr(LiveBook, "reserve", reserve_at_once)


def spent_pruned_too_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("allowance.oversight.pruning._unneeded", lambda found: [pk for pk, _, _ in found])


def balances_remember_what_is_pruned(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("allowance.oversight.pruning._forget", lambda past_use, _account: past_use.delete()[0])


def lists_of_neurons_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        "allowance.oversight.pruning._in_force", lambda _: Block.objects.filter(number=-1).values("neurons")[:1]
    )


def no_block_kept_to_tell_who_is_registered(patch: pytest.MonkeyPatch) -> None:
    def oldest_kept(_: dt.datetime) -> Block | None:
        return Block.objects.filter(number__gte=newest_block() - ledger.KEPT_BLOCKS).order_by("number").first()

    patch.setattr("allowance.oversight.pruning.oldest_kept", oldest_kept)


def pruned_as_if_clocks_agreed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("routing.upkeep.pruning.SLACK", dt.timedelta())


def window_ignored_when_pruning(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("routing.upkeep.pruning._out_of_window", lambda _: Q())


def reservations_lost(patch: pytest.MonkeyPatch) -> None:
    def hold(_reservation: Reservation, _balance: Balance, *rows: Model, **_how: object) -> bool:
        for row in rows:
            row.save(force_insert=True)
        return True

    patch.setattr(reservations, "hold", hold)


def records_lost(patch: pytest.MonkeyPatch) -> None:
    hold = LiveBook._hold

    def hold_only(self: LiveBook, *what: Any) -> Any:
        self.record = None
        return hold(self, *what)

    patch.setattr(LiveBook, "_hold", hold_only)
    patch.setattr("routing.log.records.record_apart", lambda *_, **__: None)


def decisions_lost(patch: pytest.MonkeyPatch) -> None:
    reservations_lost(patch)
    records_lost(patch)


def trusted_means_any(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("routing.decision.pipeline.fixed_route", lambda _: None)


def fixed_means_refused(patch: pytest.MonkeyPatch) -> None:
    cached: Any = vars(Decision)["outcome"]
    outcome = cached.func
    patch.setattr(Decision, "outcome", property(lambda d: outcome(d) if d.policy else Outcome.ALL_MINERS_BUSY))


def run_until_found(routers: list[Router], *, tries: int) -> None:
    for seed in range(1, 20):
        run(seed, routers, Tally(), length=LENGTH, tries=tries)


ANYWHERE: Sequence[Defect] = (
    lapse_ignored_when_reading,
    lapse_ignored_when_ending,
    ends_unchecked,
    lapses_not_stored,
    blocks_taken_twice,
    drops_void_nothing,
    addresses_ignored,
    drops_not_taken_back,
    executors_not_counted,
    balance_stored_on_its_own,
    spent_pruned_too_early,
    balances_remember_what_is_pruned,
    lists_of_neurons_lost,
    no_block_kept_to_tell_who_is_registered,
    pruned_as_if_clocks_agreed,
    window_ignored_when_pruning,
)


@pytest.mark.parametrize("defect", ANYWHERE)
def test_a_defect_is_found(routers: list[Router], monkeypatch: pytest.MonkeyPatch, defect: Defect) -> None:
    defect(monkeypatch)
    with pytest.raises(Found):
        run_until_found(routers, tries=0)


row_locks = pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no row lock to take away")


@row_locks
def test_a_prune_without_the_account_s_lock_is_found(routers: list[Router], monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [*setting(), *races_with_a_prune(20)]
    assert failure(steps, routers) is None
    monkeypatch.setattr("allowance.oversight.pruning.lock_account", read_account)
    no_version(monkeypatch)
    assert isinstance(failure(steps, routers), Violation)


@row_locks
@pytest.mark.parametrize("defect", [no_account_lock, locked_means_busy])
def test_a_defect_that_only_a_race_shows_is_found(
    routers: list[Router], monkeypatch: pytest.MonkeyPatch, defect: Defect
) -> None:
    assert failure([*setting(), *races(20)], routers) is None
    defect(monkeypatch)
    assert isinstance(failure([*setting(), *races(20)], routers), Violation)


FIXED = pick(0) | {"trusted": True}
REFUSED = pick(0) | {"exclude": list(MINERS)}


@pytest.mark.parametrize("point", [(STATEMENT, 0), (BEFORE_COMMIT, 0), (AFTER_COMMIT, 0)])
@pytest.mark.parametrize("do", [pick(0), FIXED, REFUSED, act("reserve", 0)[1]])
def test_a_crash_is_no_violation(routers: list[Router], do: Do, point: tuple[str, int]) -> None:
    assert failure([*setting(), Step((Action(0, do, point),))], routers) is None


@pytest.mark.parametrize(
    ("do", "defect"),
    [
        (pick(0), reservations_lost),
        (pick(0), records_lost),
        (pick(0), decisions_lost),
        (REFUSED, records_lost),
        (FIXED, records_lost),
        (FIXED, trusted_means_any),
        (FIXED, fixed_means_refused),
        (act("reserve", 0)[1], reservations_lost),
    ],
)
def test_what_a_crash_after_the_commit_lost_is_found(
    routers: list[Router], monkeypatch: pytest.MonkeyPatch, do: Do, defect: Defect
) -> None:
    crashed = Step((Action(0, do, (AFTER_COMMIT, 0)),))
    defect(monkeypatch)
    assert isinstance(failure([*setting(), crashed], routers), Violation)


def test_what_is_found_is_short(routers: list[Router], monkeypatch: pytest.MonkeyPatch) -> None:
    drops_void_nothing(monkeypatch)
    with pytest.raises(Found) as found:
        run_until_found(routers, tries=TRIES)
    assert size(found.value.steps) <= SHORT
    assert f"SOAK_SEED={found.value.seed} " in str(found.value)
    assert found.value.journal in str(found.value)
    again = load(found.value.journal.splitlines())
    assert isinstance(failure(again, routers), type(found.value.error))
    monkeypatch.undo()
    assert failure(again, routers) is None
