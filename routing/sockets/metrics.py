"""The metrics of the sockets. All labels exist from the start, so that rates include the first event."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from routing.sockets.messages import TYPES, Reason

SOCKETS = Gauge("router_sockets", "Sockets that are open and admitted.", multiprocess_mode="livesum")
IN_FLIGHT = Gauge("router_in_flight", "Messages that are being worked on.", multiprocess_mode="livesum")
UNREADABLE = "unreadable"
MESSAGES = Counter("router_messages", "Messages that sockets got, by their type, or unreadable.", ["type"])
REJECTED = Counter("router_rejected", "Messages of sockets that were refused, by the reason.", ["reason"])

for message_type in (*TYPES, UNREADABLE):
    MESSAGES.labels(message_type)
for reason in Reason:
    REJECTED.labels(reason)
