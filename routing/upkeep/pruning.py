"""Delete the rows of the router, the receipts and the ledger that are past use, one kind at a time.

A row is past use when two conditions are met: its date is older than its setting says, and older than SLACK; and
nothing can need it any more. The date is that of its end or of its making. Neuron lists have no date. The candidates of
a decision can be past use before the decision. The age of all rows is measured at the start of the run. Each batch
checks its rows again when it deletes them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet

from allowance.interface import (
    MAX_JOB_RUN_TIME,
    RESERVATION_MARGIN,
    Batch,
    LockTimeout,
    Reservation,
    delete_in_batches,
    held_at,
)
from allowance.interface import pruning as ledger
from receipts.interface import pruning as receipts
from routing import incidents
from routing.access import signatures
from routing.conf import conf
from routing.decision import in_force
from routing.models import AccessToken, DecisionRecord, MinerIncident, Rejection, RoutedJob, UsedSignature

KEEP = tuple(name for name in conf.table if name.startswith("ROUTING_KEEP_"))
"""The settings that say for how many days each kind is kept."""

SLACK = dt.timedelta(seconds=MAX_JOB_RUN_TIME) + RESERVATION_MARGIN
"""The minimum time for which all rows are kept, regardless of the settings: no job takes longer, and no host's clock is
further behind the clock of this host."""

Old = tuple[QuerySet[Any], Q]
"""The rows that are old enough, and the condition that selects those of them that are past use."""

Find = Callable[[dt.datetime], Old]
"""A function that returns this pair for the rows that are older than a given time."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of row: the `setting` that says how long to keep it, and functions for the rows past use.

    `count` returns their number, on condition that the earlier kinds are pruned. `batches` prunes them. Expired
    reservations have no setting: they are tidied, not deleted.
    """

    name: str
    setting: str | None
    count: Callable[[], int]
    batches: Callable[[], Iterator[Batch]]

    def prune(self) -> Iterator[Batch]:
        """Prune, and yield the result of each transaction.

        If rows stay locked, a result reports them, and the rest of the kind is skipped. Of reservations, only those of
        the locked account are skipped.
        """
        try:
            yield from self.batches()
        except LockTimeout:
            yield Batch(0, self.name)


def kept(name: str) -> dt.timedelta:
    """Return for how long the setting of this name keeps rows."""
    return dt.timedelta(days=getattr(conf, name))


def kinds(now: dt.datetime, batch: int) -> list[Kind]:
    """Return the kinds to prune as of `now`, `batch` rows at a time. Kinds that refer to others come first."""
    used = now - SLACK
    over = {name: min(used, now - kept(name)) for name in KEEP}

    def rows(name: str, setting: str, find: Find, *, counted: Find | None = None, **how: Any) -> Kind:
        old, unneeded = find(over[setting])
        then_old, then_unneeded = (counted or find)(over[setting])
        count = then_old.filter(then_unneeded).count
        return Kind(name, setting, count, lambda: delete_in_batches(old, unneeded, batch, **how))

    past_jobs, not_ongoing = _jobs(used, over["ROUTING_KEEP_JOBS_DAYS"])
    jobs_left = RoutedJob.objects.exclude(pk__in=past_jobs.filter(not_ongoing).values("pk"))
    jobs = RoutedJob.objects.all()  # the same after the jobs are pruned, and faster to query
    return [
        rows("decisions", "ROUTING_KEEP_DECISIONS_DAYS", _decisions, by="at"),
        rows(
            "candidates of decisions",
            "ROUTING_KEEP_CANDIDATES_DAYS",
            partial(_candidates, over["ROUTING_KEEP_DECISIONS_DAYS"]),
            by="at",
            delete=lambda found: found.update(candidates=None),
        ),
        rows(
            "incidents",
            "ROUTING_KEEP_INCIDENTS_DAYS",
            partial(_incidents, used),
            by="timestamp",
            # The deletion uses the reliability window that is in force when it runs.
            delete=lambda found: incidents.forget(found.filter(_out_of_window(used))),
        ),
        rows("rejections", "ROUTING_KEEP_INCIDENTS_DAYS", _rejections, by="timestamp"),
        rows("routed jobs", "ROUTING_KEEP_JOBS_DAYS", partial(_jobs, used), by="routed_at"),
        rows("used signatures", "ROUTING_KEEP_JOBS_DAYS", partial(_signatures, now)),
        rows("access tokens", "ROUTING_KEEP_TOKENS_DAYS", _tokens),
        rows("accepted receipts", "ROUTING_KEEP_RECEIPTS_DAYS", receipts.accepted, by="valid_until"),
        rows("started receipts", "ROUTING_KEEP_RECEIPTS_DAYS", receipts.started),
        rows(
            "finished receipts",
            "ROUTING_KEEP_RECEIPTS_DAYS",
            partial(receipts.finished, _unused(jobs, used)),
            counted=partial(receipts.finished, _unused(jobs_left, used)),
        ),
        Kind("expired reservations", None, ledger.expired_reservations(now).count, lambda: ledger.tidy_expired(now)),
        Kind(
            "reservations",
            "ROUTING_KEEP_RESERVATIONS_DAYS",
            lambda: ledger.count_reservations(over["ROUTING_KEEP_RESERVATIONS_DAYS"], _unrouted(jobs_left)),
            lambda: ledger.prune_reservations(over["ROUTING_KEEP_RESERVATIONS_DAYS"], _unrouted(jobs), batch),
        ),
        Kind(
            "blocks",
            "ROUTING_KEEP_BLOCKS_DAYS",
            lambda: ledger.blocks_below(ledger.oldest_kept(over["ROUTING_KEEP_BLOCKS_DAYS"])).count(),
            lambda: ledger.prune_blocks(over["ROUTING_KEEP_BLOCKS_DAYS"], batch),
        ),
        Kind(
            "neuron lists",
            "ROUTING_KEEP_BLOCKS_DAYS",
            lambda: ledger.count_neuron_lists(over["ROUTING_KEEP_BLOCKS_DAYS"]),
            lambda: ledger.prune_neuron_lists(batch),
        ),
        rows("ledger checks", "ROUTING_KEEP_CHECKS_DAYS", ledger.checks, by="at"),
    ]


def _decisions(before: dt.datetime) -> Old:
    return DecisionRecord.objects.filter(at__lte=before), Q()


def _candidates(gone: dt.datetime, before: dt.datetime) -> Old:
    """Return the decisions whose candidates are past use, without those made at or before `gone`.

    Those are deleted as a whole.
    """
    return DecisionRecord.objects.filter(at__gt=gone, at__lte=before, candidates__isnull=False), Q()


def _incidents(used: dt.datetime, before: dt.datetime) -> Old:
    return MinerIncident.objects.filter(timestamp__lt=before), _out_of_window(used)


def _rejections(before: dt.datetime) -> Old:
    return Rejection.objects.filter(timestamp__lt=before), Q()


def _out_of_window(used: dt.datetime) -> Q:
    """Select the incidents that were before the reliability window at `used`. The window has the present length."""
    return Q(timestamp__lt=used - in_force.policy().window)


def _jobs(used: dt.datetime, before: dt.datetime) -> Old:
    """Return the jobs routed at or before `before`, and the condition that they were no longer ongoing at `used`.

    Here a job is ongoing while one of its receipts is valid, and until its reservation's `expires_at`, even if the
    reservation ended earlier. Until then its row is needed: it names the owner, the route and the tried miners.
    """
    held = Reservation.objects.filter(pk=OuterRef("reservation"), expires_at__gt=used)
    return RoutedJob.objects.filter(routed_at__lte=before), Q(~Exists(held)) & receipts.over_since(used, "uuid")


def _signatures(now: dt.datetime, before: dt.datetime) -> Old:
    """Return the signatures made before `before`, and the condition that no host accepts them.

    The condition includes hosts whose clock is behind.
    """
    twice_over = now - SLACK - 2 * dt.timedelta(seconds=conf.ROUTING_SIGNATURE_MAX_AGE)
    made = UsedSignature.objects.filter(signed_at_ns__lt=signatures.to_unix_ns(before))
    return made, Q(signed_at_ns__lt=signatures.to_unix_ns(twice_over))


def _tokens(before: dt.datetime) -> Old:
    """Return the tokens that were expired or revoked at or before `before`.

    A token without a row gives no access, except to the metrics while the database is down.
    """
    return AccessToken.objects.filter(Q(expires_at__lte=before) | Q(revoked_at__lte=before)), Q()


def _unused(jobs: QuerySet[RoutedJob], used: dt.datetime) -> Q:
    """Select the receipts whose job is not in `jobs` and has no reservation now held that expires after `used`."""
    held = Reservation.objects.filter(held_at(used), job_uuid=OuterRef("job_uuid"))
    return Q(~Exists(held), ~Exists(jobs.filter(pk=OuterRef("job_uuid"))))


def _unrouted(jobs: QuerySet[RoutedJob]) -> Q:
    """Select the reservations that no job in `jobs` refers to."""
    return Q(~Exists(jobs.filter(reservation=OuterRef("pk"))))
