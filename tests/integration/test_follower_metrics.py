"""What a scrape says of the chain follower, and where it says nothing."""

from __future__ import annotations

import datetime as dt

import pytest
import time_machine
from prometheus_client.parser import text_string_to_metric_families

from routing.watch.health import read_ledger
from routing.watch.views import exposition
from tests.clock import NOW
from tests.follower import follow, follow_all, report
from tests.rows import mint

pytestmark = [pytest.mark.django_db, pytest.mark.time_machine(NOW, tick=False)]

ABOUT_IT = ("router_follower_", "router_chain_", "router_source_", "router_manifests_", "router_receipts_")


def scraped() -> dict[str, float]:
    """Return the samples about the follower by name and labels."""
    families = text_string_to_metric_families(exposition(read_ledger()).decode())
    samples = [sample for family in families for sample in family.samples if sample.name.startswith(ABOUT_IT)]
    labels = "source", "method", "reason"
    return {
        " ".join([sample.name, *(sample.labels[label] for label in labels if label in sample.labels)]): sample.value
        for sample in samples
    }


def test_without_a_follower_nothing_is_exported() -> None:
    assert scraped() == {}
    report("blocks")
    assert scraped() == {}


def test_what_the_follower_has_stored_is_exported() -> None:
    follow_all()
    mint(1004)
    assert scraped() == {
        "router_follower_heartbeat_age_seconds": 4,
        "router_chain_head": 1010,
        "router_chain_lag_blocks": 2,
        "router_chain_lag_seconds": 26.5,
        "router_chain_missing_blocks": 1,
        "router_manifests_asked": 3,
        "router_manifests_answered": 1,
        "router_source_answer_age_seconds blocks": 30,
        "router_source_answer_age_seconds manifests": 600,
        "router_source_answer_age_seconds collateral": 300,
        "router_source_answer_age_seconds receipts": 30,
        "router_source_answer_age_seconds settings": 30,
        "router_source_failures blocks": 0,
        "router_source_failures manifests": 3,
        "router_source_failures collateral": 0,
        "router_source_failures receipts": 0,
        "router_source_failures settings": 0,
        "router_source_calls_total blocks latest": 200,
        "router_source_calls_total blocks block": 100,
        "router_source_calls_total manifests manifests": 12,
        "router_source_calls_total collateral eth_call": 9,
        "router_source_calls_total receipts page": 0,
        "router_source_calls_total settings read": 5,
        "router_source_call_errors_total blocks latest": 2,
        "router_source_call_errors_total blocks block": 0,
        "router_source_call_errors_total manifests manifests": 3,
        "router_source_call_errors_total collateral eth_call": 0,
        "router_source_call_errors_total receipts page": 0,
        "router_source_call_errors_total settings read": 0,
        "router_source_call_seconds_total blocks latest": 10,
        "router_source_call_seconds_total blocks block": 25,
        "router_source_call_seconds_total manifests manifests": 30,
        "router_source_call_seconds_total collateral eth_call": 4.5,
        "router_source_call_seconds_total receipts page": 0,
        "router_source_call_seconds_total settings read": 0.1,
        "router_receipts_taken_total": 1234,
        "router_receipts_refused_total forged": 2,
        "router_receipts_refused_total old": 40,
    }


def test_a_follower_that_has_just_begun_exports_what_it_knows() -> None:
    follow(head=None, head_at=None)
    report("blocks", good_at=None, newest=None, lag_blocks=None, lag_seconds=None)
    assert scraped() == {"router_follower_heartbeat_age_seconds": 4, "router_source_failures blocks": 0}


def test_ages_grow_while_the_follower_is_away() -> None:
    follow_all()
    with time_machine.travel(NOW + dt.timedelta(hours=1), tick=False):
        samples = scraped()
    assert samples["router_follower_heartbeat_age_seconds"] == 3604
    assert samples["router_source_answer_age_seconds blocks"] == 3630
