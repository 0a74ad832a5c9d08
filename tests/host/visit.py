"""Run in somebody else's site: import, check, migrate, pick a job, look at pages. The arguments can't be imported."""
# ruff: noqa: E402 (Django is set up before models are imported)

import os
import sys

sys.modules.update(dict.fromkeys(sys.argv[1:]))  # type: ignore[arg-type]  # importing what is None fails
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"

import django

django.setup()

import datetime as dt
from importlib import import_module
from pkgutil import walk_packages

from constance import config
from django.contrib.auth.models import User
from django.contrib.staticfiles.finders import find
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from allowance import allowance
from routing import routing
from routing.requests import plain_request

CLASS = "always_on.test"
APPS = ("allowance", "receipts", "routing")
OF_EXTRAS = {"bittensor", "websockets"}
"""What adapters import at once, which are themselves imported only if they are chosen."""

PAGES = ["", "routing/", "routing/decisionrecord/status/", "routing/minerincident/", "constance/config/"]


def main() -> None:
    for app in APPS:
        for module in walk_packages(import_module(app).__path__, f"{app}."):
            try:
                import_module(module.name)
            except ModuleNotFoundError as error:
                if str(error.name).partition(".")[0] not in OF_EXTRAS:
                    raise
    call_command("check", fail_level="WARNING")
    call_command("migrate", verbosity=0)
    axon = {"address": "10.0.0.1", "ip_version": 4, "port": 9000}
    allowance().record_manifests(block=1, axons={"anna": axon}, executors={"anna": {CLASS: 1}})
    for number in (1, 2):
        minted = timezone.now() - dt.timedelta(seconds=12 * (3 - number))
        allowance().record_block(number=number, timestamp=minted, stake_share=1.0, hotkeys=["anna"])
    route = routing().pick(plain_request(CLASS, 10))
    assert (route.miner.hotkey_ss58, route.allowance_blocks) == ("anna", [1])
    assert route.allowance_reservation_id is not None
    allowance().spend_allowance(route.allowance_reservation_id)
    client = Client()
    client.force_login(User.objects.create_superuser("boss"))
    for page in PAGES:
        assert client.get(f"/admin/{page}").status_code == 200, page
    assert client.get("/healthz").status_code == 200
    assert find("routing/vendor/chart.umd.min.js")
    assert (config.GREETING, config.DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI) == ("hello", 0)
    sys.stdout.write(" ".join(str(import_module(app).__file__) for app in APPS))


main()
