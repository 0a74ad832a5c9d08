"""The metrics of routing, in the default registry of prometheus-client; `routing.watch.views` exports them.

Each label has few values. All of them exist from the start, so that a rate includes the first increment.
"""

from __future__ import annotations

from itertools import product

from prometheus_client import Counter, Histogram

from allowance.interface import ExecutorClass
from routing.decision.model import Gate, Timings
from routing.types import MinerIncidentType, Outcome

PICK_SECONDS = Histogram(
    "router_pick_seconds",
    "Seconds that a pick took, by its outcome.",
    ["outcome"],
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
STAGE_SECONDS = Histogram(
    "router_stage_seconds",
    "Seconds that a stage of a pick took: gather the input, rank the candidates, or reserve.",
    ["stage"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
CANDIDATES_LEFT = Histogram(
    "router_candidates_left",
    "Candidates that a pick had left after a gate.",
    ["gate"],
    buckets=(0, 1, 2, 5, 10, 20, 50, 100, 200, 500),
)
LOCK_SKIPS = Counter(
    "router_lock_skips",
    "Candidates that were passed over because other transactions had locked or just changed their accounts.",
)
LOCK_WAITS = Counter("router_lock_waits", "Waits of picks for accounts that other transactions had locked.")
LOCK_WAIT_SECONDS = Counter(
    "router_lock_wait_seconds", "Seconds that picks waited for accounts that other transactions had locked."
)

DECISIONS_LOST = Counter("router_decisions_lost", "Decisions that could not be recorded in the database.")

INCIDENTS = Counter("router_incidents", "Incidents that were recorded.", ["type", "executor_class"])

SECONDS_OF = {stage: STAGE_SECONDS.labels(stage) for stage in Timings._fields}
LEFT_AFTER = {gate: CANDIDATES_LEFT.labels(gate) for gate in Gate}
"""The children of the two histograms, looked up only once because every pick observes each of them."""

for outcome in Outcome:
    PICK_SECONDS.labels(outcome)
for kind, executor_class in product(MinerIncidentType, ExecutorClass):
    INCIDENTS.labels(kind, executor_class)
