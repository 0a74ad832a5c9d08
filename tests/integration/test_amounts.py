"""Amounts of Wei in and out of the product: what a table, a page or a message prints, each input takes."""

from __future__ import annotations

import re

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from allowance import allowance
from allowance.amounts import wei_text
from allowance.models import Miner
from allowance.types import MAX_WEI
from routing import routing
from routing.decision import in_force
from routing.dynamic import MINIMUM_WEI
from routing.models import DecisionRecord
from routing.types import NotEnoughCollateralException
from tests.factories import job_request, run_command
from tests.ledgers import CLASS, fill_ledger

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_types_remembered")]

JOB = ("--executor-class", CLASS, "--seconds", 30)
AMOUNTS = (7, 10**9 - 1, 10**16, 10**18 + 1, 123_456_789_012_345_678_901, MAX_WEI)


each = pytest.mark.parametrize("wei", AMOUNTS)


def config_page(client: Client, **typed: object) -> str:
    """Return the admin's page of settings, after a new least collateral was typed if one is given."""
    address = reverse("admin:constance_config_changelist")
    form = client.get(address).context["form"]
    if typed:
        fields = {name: form[name].value() for name in form.fields}
        response = client.post(address, {**fields, **typed})
        assert response.status_code == 302, response.context["form"].errors
    return client.get(address).content.decode()


@each
def test_what_config_shows_config_takes(wei: int, admin_client: Client) -> None:
    content = config_page(admin_client, **{MINIMUM_WEI: str(wei)})
    shown = re.search(rf'name="{MINIMUM_WEI}" value="([^"]*)"', content)
    assert shown
    assert shown[1] == wei_text(wei)
    config_page(admin_client, **{MINIMUM_WEI: "5"})
    config_page(admin_client, **{MINIMUM_WEI: shown[1]})
    assert in_force.policy().minimum_wei == wei


@pytest.mark.parametrize("typed", ["10.000", "10,000", "1.5"])
def test_config_stores_nothing_that_may_be_two_amounts(typed: str, admin_client: Client) -> None:
    config_page(admin_client, **{MINIMUM_WEI: "1e16"})
    with pytest.raises(AssertionError, match="may stand for thousands or for decimals"):
        config_page(admin_client, **{MINIMUM_WEI: typed})
    with pytest.raises(CommandError, match="may stand for thousands or for decimals"):
        call_command("constance", "set", MINIMUM_WEI, typed)
    assert in_force.policy().minimum_wei == 10**16


def test_the_command_of_the_settings_takes_amounts_too() -> None:
    call_command("constance", "set", MINIMUM_WEI, "0.01 TAO")
    assert in_force.policy().minimum_wei == 10**16


@pytest.mark.parametrize("wei", AMOUNTS[:-1])  # the last one's table is wider than a console
def test_what_a_dry_run_prints_it_takes_and_so_does_the_board(wei: int, admin_client: Client) -> None:
    """The table, the verdict, the summary and the sentence of the refusal have the same text for an amount."""
    fill_ledger("anna")
    allowance().record_collateral(hotkey="anna", wei=wei - 1)
    posted, needed = wei_text(wei - 1), wei_text(wei)
    assert run_command("dry_run_routing", *JOB, "--min-collateral", posted).code == 0
    ended = run_command("dry_run_routing", *JOB, "--min-collateral", needed)
    assert ended.code == 1
    page = admin_client.get(reverse("admin:routing_board"), {"executor_class": CLASS, "minimum_wei": needed})
    for told in (ended.out, page.content.decode()):
        assert f"{posted} posted, {needed} needed" in told
        assert f"with a collateral below {needed}" in told
        assert len(re.findall(rf"(?<![0-9.]){re.escape(posted)}", told)) >= 2  # in the column too
    assert f'name="minimum_wei" value="{needed}"' in page.content.decode()
    assert admin_client.get(reverse("admin:routing_board"), {"minimum_wei": posted}).context["decision"].route


def test_the_pages_of_miners_and_decisions_write_it_so_too(admin_client: Client) -> None:
    fill_ledger("anna")
    allowance().record_collateral(hotkey="anna", wei=10**15)
    call_command("constance", "set", MINIMUM_WEI, "0.01tao")
    with pytest.raises(NotEnoughCollateralException, match=r"with a collateral below 0\.01 TAO"):
        routing().pick(job_request())
    record = DecisionRecord.objects.get()
    for address, told in (
        (reverse("admin:routing_miner", args=["anna"]), "0.001 TAO posted, 0.01 TAO needed"),
        (reverse("admin:routing_decisionrecord_change", args=[record.pk]), "collateral of 0.01 TAO, incidents of 24 h"),
        (reverse("admin:allowance_miner_changelist"), '<td class="field-collateral">0.001 TAO</td>'),
        (reverse("admin:allowance_miner_change", args=[Miner.objects.get().pk]), ">0.001 TAO<"),
    ):
        assert told in admin_client.get(address).content.decode(), address
