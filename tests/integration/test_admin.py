"""The admin: all there is can be seen and found, nothing can be changed but the dynamic settings."""

from __future__ import annotations

import datetime as dt
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.db import models
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.html import escape

from allowance.models import Account, Block, ManifestSync, Miner, NeuronList, Reservation
from allowance.plumbing import lists
from allowance.types import BLOCK_EXPIRY, MAX_WEI, NotEnoughAllowanceException
from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt
from receipts.schemas import JobAccepted, JobFinished, JobStarted
from routing import routing
from routing.access import tokens
from routing.decision import in_force
from routing.dynamic import MINIMUM_WEI, UNUSED_BLOCKS, WINDOW_HOURS
from routing.models import AccessToken, DecisionRecord, MinerIncident, Rejection, RoutedJob, UsedSignature
from routing.pages import miner_link
from tests.clock import HOUR
from tests.factories import ESCAPED, HTML, job_request, run_command
from tests.follower import follow_all
from tests.ledgers import CLASS, FIRST_BLOCK, fill_ledger
from tests.queries import queries
from tests.rows import receive, report, reserve
from tests.visitors import clerk, member

pytestmark = pytest.mark.django_db

Model = type[models.Model]
MODELS: list[Model] = [
    m for app in ("allowance", "router_receipts", "routing") for m in apps.get_app_config(app).get_models()
]
OF_JOBS: list[Model] = [Reservation, JobStartedReceipt, JobAcceptedReceipt, JobFinishedReceipt, MinerIncident]
OF_MINERS: list[Model] = [Miner, Account, RoutedJob, *OF_JOBS]

JOB, EXPIRED_JOB = uuid4(), uuid4()


def each(models: list[Model]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("model", models, ids=lambda model: model.__name__)


@pytest.fixture(autouse=True)
def rows(db: None, no_types_remembered: None) -> None:
    """At least a row of everything, with a hotkey that is HTML; a reservation that is held, and one that expired."""
    fill_ledger(HTML, "plain")
    now = timezone.now()
    reserve("plain", job=EXPIRED_JOB, now=now - HOUR)
    reserve(HTML, job=JOB, now=now)
    record_job(HTML, JOB)
    record_job("plain", uuid4())
    route(HTML, JOB)
    route("plain", EXPIRED_JOB)
    tokens.issue(HTML, ["jobs"], dt.timedelta(days=1))
    run_command("check_ledger")
    follow_all()
    with pytest.raises(NotEnoughAllowanceException):
        routing().pick(job_request(3600))


def record_job(miner: str, job: UUID) -> None:
    """Record an incident, and a receipt of each kind."""
    receive(JobStarted, job, miner)
    receive(JobAccepted, job, miner)
    receive(JobFinished, job, miner, time_took_us=1_500_000, block_numbers=[FIRST_BLOCK])
    now = timezone.now()
    Rejection.objects.create(miner=miner, job_uuid=job, executor_class=CLASS, timestamp=now, excused=True)
    report(miner, job)


def route(miner: str, job: UUID) -> None:
    """Record that a job came over a socket and was routed, to its reservation if it has one."""
    to = {"miner": miner, "reservation": Reservation.objects.filter(job_uuid=job).first(), "routed_at": timezone.now()}
    RoutedJob.objects.create(uuid=job, executor_class=CLASS, seconds=30, **to)
    UsedSignature.objects.create(signatory=miner, signed_at_ns=UsedSignature.objects.count(), job_uuid=job)


def page(model: Model, view: str, *args: object, **query: object) -> str:
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}_{view}"
    return reverse(name, args=[quote(str(arg)) for arg in args]) + (f"?{urlencode(query)}" if query else "")


def text(client: Client, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200, address
    return response.content.decode()


def found(client: Client, model: Model, **query: object) -> list[Any]:
    """Return the rows that a list shows."""
    response = client.get(page(model, "changelist", **query))
    assert response.status_code == 200, query
    return list(response.context["cl"].result_list)


def asked(client: Client, address: str) -> list[str]:
    """Return the SQL that a page runs."""
    return queries(lambda: text(client, address))


def test_every_model_is_registered() -> None:
    assert set(MODELS) <= set(admin.site._registry)


@each(MODELS)
def test_every_list_page_and_history_loads(model: Model, admin_client: Client) -> None:
    rows = found(admin_client, model)
    assert rows
    for row in rows:
        assert escape(page(model, "change", row.pk)) in text(admin_client, page(model, "changelist"))
        assert ">None<" not in text(admin_client, page(model, "change", row.pk))
        text(admin_client, page(model, "history", row.pk))


@each(MODELS)
def test_every_filter_and_column_order_works(model: Model, admin_client: Client) -> None:
    response = admin_client.get(page(model, "changelist"))
    listed = response.context["cl"]
    for spec in listed.filter_specs:
        for choice in spec.choices(listed):
            text(admin_client, page(model, "changelist") + choice["query_string"])
    for column in range(len(listed.list_display)):
        text(admin_client, page(model, "changelist", o=f"-{column}"))


@each(MODELS)
def test_nobody_may_add_change_or_delete(model: Model, admin_client: Client) -> None:
    row = found(admin_client, model)[0]
    before = list(model._default_manager.values())
    for view, args in (("add", ()), ("change", (row.pk,)), ("delete", (row.pk,))):
        assert admin_client.post(page(model, view, *args), {"post": "yes"}).status_code == 403
    for view, args in (("add", ()), ("delete", (row.pk,))):
        assert admin_client.get(page(model, view, *args)).status_code == 403
    admin_client.post(page(model, "changelist"), {"action": "delete_selected", "_selected_action": [row.pk]})
    assert list(model._default_manager.values()) == before
    assert 'name="_save"' not in text(admin_client, page(model, "change", row.pk))


@each(MODELS)
def test_staff_needs_the_permission_to_view(model: Model, admin_client: Client) -> None:
    client = clerk()
    row = found(admin_client, model)[0]
    addresses = [page(model, "changelist"), page(model, "change", row.pk), page(model, "history", row.pk)]
    assert [client.get(address).status_code for address in addresses] == [403, 403, 403]
    member(f"{model._meta.app_label}.view_{model._meta.model_name}")
    assert [client.get(address).status_code for address in addresses] == [200, 200, 200]


@each(OF_MINERS)
def test_a_hotkey_is_found_by_its_beginning_and_shown_escaped(model: Model, admin_client: Client) -> None:
    for term in (HTML, HTML[:4]):
        (row,) = found(admin_client, model, q=term)
        assert row != found(admin_client, model, q="plain")[0]
    assert found(admin_client, model, q="nobody") == []
    for address in (page(model, "changelist"), page(model, "change", row.pk)):
        content = text(admin_client, address)
        assert ESCAPED in content
        assert "<b>'hot'" not in content


@each(OF_JOBS)
def test_a_job_is_found_by_its_uuid_through_the_index(model: Model, admin_client: Client) -> None:
    for term in (str(JOB), JOB.hex, str(JOB).upper(), f" {JOB} "):
        (row,) = found(admin_client, model, q=term)
        assert row.job_uuid == JOB
    assert found(admin_client, model, q=uuid4()) == []
    searches = [sql for sql in asked(admin_client, page(model, "changelist", q=JOB)) if "job_uuid" in sql]
    assert searches
    assert not any("LIKE" in sql or "CAST" in sql for sql in searches)


FOUND_BY_JOB: dict[Model, str] = dict.fromkeys((*OF_JOBS, DecisionRecord, UsedSignature), "job_uuid")
FOUND_BY_JOB[RoutedJob] = "uuid"


def of_job(model: Model, job: UUID) -> Any:
    """Return a copy of a row of JOB that is about another job."""
    row: Any = model._default_manager.filter(**{FOUND_BY_JOB[model]: JOB}).first() or model._default_manager.first()
    assert row is not None
    row.pk = None
    if model is UsedSignature:
        row.signed_at_ns = UsedSignature.objects.count()
    setattr(row, FOUND_BY_JOB[model], job)
    row.save(force_insert=True)
    return row


@each(list(FOUND_BY_JOB))
def test_a_job_is_found_by_the_first_digits_of_its_uuid_through_the_index(model: Model, admin_client: Client) -> None:
    job = UUID("0e0d0c0b-0a09-4807-8605-040302010fff")
    for other in ("0e0d0c0a-ffff-4fff-bfff-ffffffffffff", "0e0d0c0c-0000-4000-8000-000000000000"):
        of_job(model, UUID(other))
    row = of_job(model, job)
    for term in ("0e0d0c0b", "0E0D0C0B-", "0e0d0c0b-0a", " 0e0d0c0b-0a09-4807-8605-040302010ff ", job.hex[:31]):
        assert found(admin_client, model, q=term) == [row], term
    assert len(found(admin_client, model, q="0e0d0c")) == 3
    for term in ("0e0d0", "0e0d0c0d", "0e0d0c0b-1", f"{job}0"):
        assert found(admin_client, model, q=term) == [], term
    searches = [s for s in asked(admin_client, page(model, "changelist", q="0e0d0c0b")) if "BETWEEN" in s]
    assert searches
    assert not any("LIKE" in sql or "CAST" in sql for sql in searches)


@each([*FOUND_BY_JOB, Block, NeuronList, ManifestSync, Miner, Account, AccessToken])
def test_a_list_says_what_it_can_be_searched_for_where_nothing_is_found(model: Model, admin_client: Client) -> None:
    content = text(admin_client, page(model, "changelist", q="<b>beef"))
    assert "Nothing found for “&lt;b&gt;beef”. Search by " in content
    assert ("of a job&#x27;s uuid (6 characters or more)" in content) is (model in FOUND_BY_JOB)
    assert "Nothing found" not in text(admin_client, page(model, "changelist"))


def test_what_begins_no_uuid_may_begin_a_hotkey(admin_client: Client) -> None:
    record_job("decade1", uuid4())
    (row,) = found(admin_client, MinerIncident, q="decade")
    assert row.hotkey_ss58address == "decade1"
    record_job("plain", UUID("decade00-0000-4000-8000-000000000000"))
    (row,) = found(admin_client, MinerIncident, q="decade")
    assert row.hotkey_ss58address == "plain"
    (row,) = found(admin_client, MinerIncident, q="decade1")
    assert row.hotkey_ss58address == "decade1"


@each([Block, NeuronList, ManifestSync])
def test_a_block_is_found_by_its_exact_number(model: Model, admin_client: Client) -> None:
    assert len(found(admin_client, model, q=FIRST_BLOCK)) == 1
    for nowhere in (FIRST_BLOCK // 10, -1, 10**30, "9" * 5000, "block"):
        assert found(admin_client, model, q=nowhere) == []


@each(MODELS)
def test_odd_terms_find_nothing_and_harm_nothing(model: Model, admin_client: Client) -> None:
    if admin.site._registry[model].search_fields:
        for term in ("%", "_", "\\", "' OR 1=1", "a b", "{", "{" + str(uuid4())):
            assert found(admin_client, model, q=term) == [], term
        assert "Null characters are not allowed" in text(admin_client, page(model, "changelist", q="\0"))


def test_a_reservation_is_shown_as_it_is_by_now(admin_client: Client) -> None:
    assert set(Reservation.objects.values_list("state", flat=True)) == {"held"}
    by_state = {
        s: [r.job_uuid for r in found(admin_client, Reservation, state=s)] for s in ("held", "expired", "spent")
    }
    assert by_state == {"held": [JOB], "expired": [EXPIRED_JOB], "spent": []}
    expired, held = Reservation.objects.get(job_uuid=EXPIRED_JOB), Reservation.objects.get(job_uuid=JOB)
    for address in (page(Reservation, "changelist", q=EXPIRED_JOB), page(Reservation, "change", expired.pk)):
        content = text(admin_client, address)
        assert ">Expired<" in content
        assert "s left" not in content
    assert "s left" in text(admin_client, page(Reservation, "change", held.pk))
    assert page(Account, "change", held.account_id) in text(admin_client, page(Reservation, "changelist"))


def test_an_account_tells_its_seconds(admin_client: Client) -> None:
    """20 blocks of 12 s; a expired reservation's are free."""
    held, expired = Account.objects.get(miner=HTML), Account.objects.get(miner="plain")
    assert "204.000 free<br>36.000 held<br>0.000 spent<br>240.000 earned" in text(
        admin_client, page(Account, "change", held.pk)
    )
    assert "240.000 free<br>0.000 held" in text(admin_client, page(Account, "change", expired.pk))


def test_an_incident_leads_to_its_miner_and_the_reservations_of_its_job(admin_client: Client) -> None:
    content = text(admin_client, page(MinerIncident, "changelist", q=JOB))
    assert miner_link(HTML) in content
    assert escape(page(Reservation, "changelist", q=JOB)) in content


def test_a_routed_job_is_found_by_its_uuid_and_leads_to_its_miner_and_its_reservations(admin_client: Client) -> None:
    reservation = Reservation.objects.get(job_uuid=JOB)
    for term in (str(JOB), JOB.hex, f" {JOB} "):
        assert found(admin_client, RoutedJob, q=term) == [RoutedJob.objects.get(pk=JOB)]
    assert found(admin_client, RoutedJob, q=uuid4()) == []
    for address in (page(RoutedJob, "changelist", q=JOB), page(RoutedJob, "change", JOB)):
        content = text(admin_client, address)
        assert escape(reverse("admin:routing_miner", args=[quote(HTML)])) in content
        assert page(Reservation, "change", reservation.pk) in content
    assert escape(page(Reservation, "changelist", q=JOB)) in text(admin_client, page(RoutedJob, "change", JOB))
    route("plain", signed := uuid4())
    assert "none: a fixed route" in text(admin_client, page(RoutedJob, "change", signed))


def test_a_token_is_found_by_its_id_and_by_the_beginning_of_its_name(admin_client: Client) -> None:
    other, _ = tokens.issue("other", ["events"], dt.timedelta(days=1))
    for term in (str(other.pk), other.pk.hex, "oth"):
        assert found(admin_client, AccessToken, q=term) == [other]
    assert found(admin_client, AccessToken, q=uuid4()) == []
    content = text(admin_client, page(AccessToken, "changelist", q=HTML))
    assert ESCAPED in content
    assert HTML not in content


@each([Reservation, MinerIncident])
def test_a_list_takes_as_many_queries_for_many_rows_as_for_one(model: Model, admin_client: Client) -> None:
    address = page(model, "changelist")
    RoutedJob.objects.all().delete()  # they keep their reservations
    model._default_manager.exclude(job_uuid=JOB).delete()
    one = asked(admin_client, address)
    assert len(found(admin_client, model)) == 1
    miners = [f"miner-{i}" for i in range(49)]
    Miner.objects.bulk_create(Miner(hotkey=name) for name in miners)
    accounts = Account.objects.bulk_create(Account(miner_id=name, executor_class=CLASS) for name in miners)
    now = timezone.now()
    Reservation.objects.bulk_create(
        Reservation(account=a, blocks=[1], created_at=now, expires_at=now + dt.timedelta(hours=1)) for a in accounts
    )
    for name in miners:
        record_job(name, uuid4())
    assert len(found(admin_client, model)) == 50
    assert len(asked(admin_client, address)) == len(one)


@each(MODELS)
def test_a_list_counts_no_further_than_its_end(
    model: Model, admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Charts count too, what is of the time that was chosen."""
    sql_of_page = asked(admin_client, page(model, "changelist"))
    counted = [sql for sql in sql_of_page if "COUNT(" in sql and "GROUP BY" not in sql]
    assert counted
    assert all("LIMIT 10000" in sql for sql in counted)
    monkeypatch.setattr(lists, "MAX_LISTED", 1)
    assert admin_client.get(page(model, "changelist")).context["cl"].result_count == 1


@pytest.mark.parametrize(("model", "column"), [(NeuronList, "hotkeys"), (ManifestSync, "axons"), (Account, "spent")])
def test_a_list_leaves_heavy_columns_alone(model: Model, column: str, admin_client: Client) -> None:
    assert not any(f'"{column}"' in sql for sql in asked(admin_client, page(model, "changelist")))


def save_settings(client: Client, wei: object, hours: object, unused: object) -> bool:
    """Store the dynamic settings as the admin's form does, and tell whether it took them."""
    address = reverse("admin:constance_config_changelist")
    version = client.get(address).context["form"]["version"].value()
    form = {"version": version, MINIMUM_WEI: wei, WINDOW_HOURS: hours, UNUSED_BLOCKS: unused}
    response = client.post(address, form)
    assert response.status_code in (200, 302)
    return response.status_code == 302


@pytest.mark.parametrize(
    ("wei", "hours", "unused"),
    [(MAX_WEI, 0.5, 0), (MAX_WEI - 1, 24 * 366, 1), (0, 0, BLOCK_EXPIRY), (10**18 + 1, 0.1, 15)],
)
def test_dynamic_settings_are_read_as_exactly_as_they_were_entered(
    wei: int, hours: float, unused: int, admin_client: Client
) -> None:
    assert save_settings(admin_client, wei, hours, unused)
    policy = in_force.policy()
    assert (policy.minimum_wei, policy.window, policy.unused_blocks) == (wei, dt.timedelta(hours=hours), unused)


@pytest.mark.parametrize(
    ("wei", "hours", "unused"),
    [
        *((wei, 24, 0) for wei in (MAX_WEI + 1, -1, "", "1.5", "10.000", "10,000", "1e78", "nan", "many")),
        *((0, hours, 0) for hours in (-1, -0.001, "nan", "inf", "-inf", "", "1e300", 24 * 366 + 1, "a day")),
        *((0, 24, unused) for unused in (-1, BLOCK_EXPIRY + 1, "", "1.5", "nan", "all")),
    ],
)
def test_dynamic_settings_out_of_bounds_are_refused(
    wei: object, hours: object, unused: object, admin_client: Client
) -> None:
    assert save_settings(admin_client, 7, 2, 15)
    assert not save_settings(admin_client, wei, hours, unused)
    assert in_force.policy() == in_force.make_policy(7, 2, 15)
