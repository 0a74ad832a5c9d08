"""The metrics of the sockets. All labels exist from the start, so that rates include the first event."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from routing.sockets.messages import TYPES, Reason

SOCKETS = Gauge("router_sockets", "Sockets that are open and admitted.", multiprocess_mode="livesum")
IN_FLIGHT = Gauge("router_in_flight", "Messages that the router works on now.", multiprocess_mode="livesum")
UNREADABLE = "unreadable"
MESSAGES = Counter(
    "router_messages", "Messages that the sockets received, by type; unreadable ones are a type of their own.", ["type"]
)
REJECTED = Counter("router_rejected", "Messages that the sockets refused, by reason.", ["reason"])

for message_type in (*TYPES, UNREADABLE):
    MESSAGES.labels(message_type)
for reason in Reason:
    REJECTED.labels(reason)
