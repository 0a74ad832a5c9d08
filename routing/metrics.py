"""What is counted and timed of routing, in the default registry of prometheus-client; serving it is the site's."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

PICK_SECONDS = Histogram(
    "router_pick_seconds",
    "Seconds that a pick took, by its outcome: routed, or the name of the refusal.",
    ["outcome"],
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

SOCKETS = Gauge("router_sockets", "Sockets that are open and admitted.", multiprocess_mode="livesum")
IN_FLIGHT = Gauge("router_in_flight", "Messages that are being worked on.", multiprocess_mode="livesum")
MESSAGES = Counter("router_messages", "Messages that sockets got, by their type, or unreadable.", ["type"])
REJECTED = Counter("router_rejected", "Messages of sockets that were refused, by the reason.", ["reason"])
