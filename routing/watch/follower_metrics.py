"""The metrics of the chain follower, as it has stored them. They are the same in all processes."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from routing.watch.followed import Detail, Followed


def follower_metrics(followed: Followed) -> Iterator[Metric]:
    """Yield the metrics, without those whose values are unknown. There are none if no follower has ever run."""
    if followed.follower is None:
        return
    blocks, manifests = followed.blocks, followed.manifests
    gauges: tuple[tuple[str, str, float | None], ...] = (
        (
            "router_follower_heartbeat_age_seconds",
            "Seconds since the chain follower was last seen.",
            followed.age(followed.follower.seen_at),
        ),
        ("router_chain_head", "The newest finalized block that the follower has seen.", followed.follower.head),
        (
            "router_chain_lag_blocks",
            "Finalized blocks after the newest recorded one, when the follower last looked.",
            blocks.lag_blocks,
        ),
        (
            "router_chain_lag_seconds",
            "The age of the newest recorded block when the follower recorded it.",
            blocks.lag_seconds,
        ),
        (
            "router_chain_missing_blocks",
            "Blocks after the first recorded one that the follower has not recorded yet or can't read.",
            followed.missing,
        ),
        ("router_manifests_asked", "Miners that were asked for their manifests in the last sync.", manifests.asked),
        ("router_manifests_answered", "Miners that answered in the last sync.", manifests.answered),
    )
    for name, meaning, value in gauges:
        if value is not None:
            yield GaugeMetricFamily(name, meaning, value=value)
    yield from _of_sources(followed)
    yield from _of_receipts(followed)


def _of_sources(followed: Followed) -> Iterator[Metric]:
    age = GaugeMetricFamily(
        "router_source_answer_age_seconds", "Seconds since the last good answer of a source.", labels=["source"]
    )
    failures = GaugeMetricFamily(
        "router_source_failures", "Failures of a source since its last good answer.", labels=["source"]
    )
    of_method = ["source", "method"]
    calls = CounterMetricFamily("router_source_calls", "Calls to a source.", labels=of_method)
    errors = CounterMetricFamily("router_source_call_errors", "Calls to a source that failed.", labels=of_method)
    seconds = CounterMetricFamily("router_source_call_seconds", "Time that calls to a source took.", labels=of_method)
    for name, report in followed.reports.items():
        failures.add_metric([name], report.failures)
        if report.good_at is not None:
            age.add_metric([name], followed.age(report.good_at))
        for method, counts in Detail.of(report).calls.items():
            for family, count in zip((calls, errors, seconds), counts, strict=True):
                family.add_metric([name, method], count)
    yield from (age, failures, calls, errors, seconds)


def _of_receipts(followed: Followed) -> Iterator[Metric]:
    receipts = followed.receipts
    if receipts.taken is not None:
        yield CounterMetricFamily("router_receipts_taken", "Receipts of miners that were stored.", value=receipts.taken)
    refused = CounterMetricFamily("router_receipts_refused", "Receipts that were refused.", labels=["reason"])
    for reason, number in receipts.refused.items():
        refused.add_metric([reason], number)
    yield refused
