"""The router's public face: async methods, each one line over a synchronous one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

from django.utils import timezone

from allowance import reservations
from allowance.plumbing.connections import renews_connection
from allowance.plumbing.threads import in_database_thread
from routing import picks
from routing.decision.book import LiveBook
from routing.decision.pipeline import refusal
from routing.decision.reliability import record_incident
from routing.types import ExecutorClass, JobRoute, MinerIncidentType, OrganicJobRequest


@renews_connection
class Routing:
    """Pick miners and take note of what they do wrong. Holds no state."""

    async def pick_miner_for_job_request(
        self, request: OrganicJobRequest, *, exclude: Collection[str] = (), now: dt.datetime | None = None
    ) -> JobRoute:
        """Pick the miner for a job and reserve the allowance that pays for it; see `pick`.

        If the caller is cancelled meanwhile, its reservation is released by the thread that made it.
        """
        return await in_database_thread(self.pick, give_back=give_back)(request, exclude=exclude, now=now)

    def pick(
        self, request: OrganicJobRequest, *, exclude: Collection[str] = (), now: dt.datetime | None = None
    ) -> JobRoute:
        """Pick the miner for a job and reserve the allowance that pays for it, for the job's seconds and 100 s more.

        `exclude` are hotkeys not to ask (again); `now` is for tests and replays, which pin the clock. Every call
        reserves: spend or release what the route carries. Not to be called inside a transaction.

        Raises ValueError for bad input, JobTooLong above an hour, then whichever holds first of
        NotEnoughAllowanceException, NotEnoughCollateralException, AllMinersBusy; nothing is held then. LockTimeout
        means that others kept locked all miners that could take the job: pick again.
        """
        decision = picks.pick(request, LiveBook(pinned=now), now=now, exclude=exclude)
        if decision.route is None:
            raise refusal(decision)
        return decision.route

    async def report_miner_incident(
        self, type: MinerIncidentType, hotkey_ss58address: str, job_uuid: str, executor_class: ExecutorClass
    ) -> None:
        """Record that a miner rejected or failed a job; see `report_incident`."""
        await in_database_thread(self.report_incident)(type, hotkey_ss58address, job_uuid, executor_class)

    def report_incident(
        self, type: MinerIncidentType, hotkey_ss58address: str, job_uuid: str, executor_class: ExecutorClass
    ) -> None:
        """Record that a miner rejected or failed a job. Counts once per miner and job, however often it is reported.

        Raises ValueError for a bad uuid, an empty hotkey, an unknown type or class, LockTimeout if others report for
        the class and do not end in time; nothing is stored then.
        """
        record_incident(
            incident_type=type,
            hotkey=hotkey_ss58address,
            job_uuid=job_uuid,
            executor_class=executor_class,
            timestamp=timezone.now(),
        )


def give_back(route: JobRoute) -> None:
    """Release what a route holds that never reached its caller."""
    if route.allowance_reservation_id is not None:
        reservations.give_back(route.allowance_reservation_id)
