"""`dumpdata` and `loaddata` give every row of ours back as it was, in each of Django's formats."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import models, transaction
from pytest_django import Settings

from allowance import allowance
from allowance.follow.lead import Lead
from allowance.follow.reports import report_good
from allowance.models import Account, Miner
from allowance.types import MAX_WEI
from tests.clock import noon
from tests.factories import empty_tables, run_command
from tests.integration import past

APPS = ("allowance", "router_receipts", "routing")
MODELS = [model for app in APPS for model in apps.get_app_config(app).get_models()]
yaml = pytest.mark.skipif(find_spec("yaml") is None, reason="Django needs PyYAML for it")


def all_rows() -> dict[type[models.Model], list[dict[str, Any]]]:
    """Return all rows, without what has no meaning in another database: the numbers of transactions."""
    columns = {
        model: [field.attname for field in model._meta.concrete_fields if field.name != "changed"] for model in MODELS
    }
    return {model: list(model._default_manager.order_by("pk").values(*columns[model])) for model in MODELS}


@noon
@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize("form", ["json", "jsonl", "xml", pytest.param("yaml", marks=yaml)])
def test_what_is_dumped_is_loaded_again(form: str, transactional_db: None, settings: Settings, tmp_path: Path) -> None:
    past.record_history(settings)
    allowance().record_collateral(hotkey="anna", wei=MAX_WEI)
    run_command("check_ledger")
    lead = Lead(genesis="0x00", netuid=12, hotkey="validator", source="scripted")
    lead.take()
    lead.release()
    report_good("blocks", "scripted", {"gaps": [[1, 2]]})
    before = all_rows()
    assert all(before.values()), [model for model, rows in before.items() if not rows]
    assert Account.objects.exclude(spent=0).exists()
    assert Miner.objects.exclude(presence=()).exists()
    dump = tmp_path / f"dump.{form}"
    with transaction.atomic():  # so that Django's cursors are those of one transaction
        call_command("dumpdata", *APPS, format=form, output=str(dump), verbosity=0)
    empty_tables()
    call_command("loaddata", str(dump), verbosity=0)
    assert all_rows() == before
    assert run_command("check_ledger").code == 0
