"""Voiding an incident: it counts no more, for good, and says who took it out of the score and why."""

from __future__ import annotations

from threading import Barrier
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from allowance.types import BadInputError, LockTimeout
from routing.decision import reliability
from routing.decision.book import DryBook
from routing.decision.pipeline import decide
from routing.incidents import IncidentAlreadyVoided, void_incident
from routing.models import IncidentVersion, MinerIncident
from routing.pages import incidents as pages
from tests.clock import DAY, NOW
from tests.factories import job_request, raising, stored
from tests.ledgers import CLASS, fill_ledger
from tests.pages import page
from tests.queries import postgresql, queries
from tests.rows import report
from tests.threads import side_by_side
from tests.visitors import clerk

pytestmark = pytest.mark.django_db(transaction=True)

SAID: dict[str, Any] = {"by": "boss", "reason": "A host of ours was down.", "now": NOW}


def incidents_that_count() -> int:
    """Return how many incidents the only miner has for a pick."""
    (candidate,) = decide(job_request(12), DryBook(), now=timezone.now()).candidates
    assert candidate.score == -candidate.incidents / 2
    return candidate.incidents


def test_a_voided_incident_counts_no_more_from_the_next_pick_on() -> None:
    """What a router remembers stays as it is, so that a router in another process is no worse off."""
    fill_ledger("anna", executors=2)
    first, _ = report(), report()
    assert incidents_that_count() == 2
    remembered = dict(reliability._counted)
    void_incident(first.pk, **SAID)
    assert reliability._counted == remembered
    assert incidents_that_count() == 1
    assert incidents_that_count() == 1


def test_a_void_keeps_who_and_why_and_when_and_nothing_else_changes() -> None:
    told, other = report(), report("bert")
    before = MinerIncident.objects.filter(pk=told.pk).values().get()
    void = {"voided_by": "boss", "void_reason": "A host of ours was down.", "voided_at": NOW}
    returned = void_incident(told.pk, by=" boss", reason="A host of ours was down.\n", now=NOW)
    after = MinerIncident.objects.filter(pk=told.pk).values().get()
    assert after == before | void
    assert {name: getattr(returned, name) for name in void} == void
    other.refresh_from_db()
    assert other.voided_at is None


def test_an_incident_is_voided_once() -> None:
    told = report()
    void_incident(told.pk, **SAID)
    before, versions = stored(), list(IncidentVersion.objects.values())
    with pytest.raises(IncidentAlreadyVoided, match="voided by boss at 2026-01-01 12:00:00 UTC") as error:
        void_incident(told.pk, by="carl", reason="again", now=NOW + DAY)
    assert (error.value.incident_id, error.value.by, error.value.at) == (told.pk, "boss", NOW)
    assert (stored(), list(IncidentVersion.objects.values())) == (before, versions)


def test_two_who_void_at_once_are_told_who_was_first() -> None:
    told = report()
    start = Barrier(2)

    def void(name: str) -> str:
        start.wait()
        try:
            void_incident(told.pk, by=name, reason="why not", now=NOW)
        except IncidentAlreadyVoided as error:
            return error.by
        return name

    outcomes = side_by_side(lambda: void("anna"), lambda: void("bert"))
    told.refresh_from_db()
    assert outcomes == [told.voided_by] * 2


@postgresql
def test_it_is_read_under_the_lock_that_reports_take() -> None:
    told = report()
    sql = queries(lambda: void_incident(told.pk, **SAID))
    (version,) = [i for i, s in enumerate(sql) if "routing_incidentversion" in s]
    (lock,) = [i for i, s in enumerate(sql) if "FOR UPDATE" in s]
    (write,) = [i for i, s in enumerate(sql) if s.startswith("UPDATE")]
    assert version < lock < write


@pytest.mark.parametrize("words", ["", " ", "\n", None, 5, "x" * 501, "a\0b"], ids=repr)
@pytest.mark.parametrize("which", ["by", "reason"])
def test_without_a_name_or_a_reason_nothing_is_voided(which: str, words: Any) -> None:
    told = report()
    before = stored()
    with pytest.raises(BadInputError, match="Voiding needs a"):
        void_incident(told.pk, **{**SAID, which: words})
    with pytest.raises(BadInputError):
        void_incident(told.pk, **{**SAID, "now": NOW.replace(tzinfo=None)})
    assert stored() == before


@pytest.mark.parametrize("pk", [0, -1, 10**30])
def test_what_is_not_there_can_t_be_voided(pk: int) -> None:
    with pytest.raises(MinerIncident.DoesNotExist):
        void_incident(pk, **SAID)


def test_a_report_that_comes_again_does_not_count_what_was_voided() -> None:
    fill_ledger("anna")
    told = report()
    void_incident(told.pk, **SAID)
    report(job=told.job_uuid)
    assert MinerIncident.objects.get().voided_by == "boss"
    assert incidents_that_count() == 0


MAY = ("routing.view_minerincident", "routing.void_incidents")


def test_whoever_may_voids_an_incident_with_a_reason_on_its_page() -> None:
    told, client = report(), clerk(*MAY)
    assert page(told, "void") in client.get(page(told)).content.decode()
    form = client.get(page(told, "void")).content.decode()
    for shown in ("anna", str(told.job_uuid), CLASS, "failed the job", "csrfmiddlewaretoken", 'name="reason"'):
        assert shown in form
    for nothing in ({}, {"reason": ""}, {"reason": "  "}, {"reason": "x" * 501}, {"reason": "\0"}):
        assert client.post(page(told, "void"), nothing).status_code == 200
    assert "This field is required." in client.post(page(told, "void"), {"reason": ""}).content.decode()
    told.refresh_from_db()
    assert told.voided_at is None
    response = client.post(page(told, "void"), {"reason": " A host of ours was down. "}, follow=True)
    assert response.redirect_chain == [(page(told), 302)]
    told.refresh_from_db()
    assert (told.voided_by, told.void_reason) == ("clerk", "A host of ours was down.")
    content = response.content.decode()
    for shown in ("is voided and does not count any more", "A host of ours was down.", "clerk"):
        assert shown in content
    assert page(told, "void") not in content
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.user.get_username()) == (str(told.pk), "clerk")
    assert "A host of ours was down." in entry.get_change_message()
    assert "A host of ours was down." in client.get(page(told, "history")).content.decode()


def test_whoever_comes_second_is_told_who_did_it() -> None:
    told, client = report(), clerk(*MAY)
    void_incident(told.pk, **SAID)
    before = stored()["routing.MinerIncident"]
    for response in (
        client.get(page(told, "void"), follow=True),
        client.post(page(told, "void"), {"reason": "again"}, follow=True),
    ):
        assert response.redirect_chain == [(page(told), 302)]
        assert "was voided by boss" in response.content.decode()
    assert (stored()["routing.MinerIncident"], LogEntry.objects.count()) == (before, 0)


def test_an_incident_that_is_locked_for_too_long_is_not_voided(monkeypatch: pytest.MonkeyPatch) -> None:
    told, client = report(), clerk(*MAY)

    monkeypatch.setattr(pages, "void_incident", raising(LockTimeout))
    response = client.post(page(told, "void"), {"reason": "A host of ours was down."})
    assert response.status_code == 200
    content = response.content.decode()
    assert "Nothing is stored. Retry" in content
    assert "A host of ours was down.</textarea>" in content


@pytest.mark.parametrize("permissions", [(), MAY[:1], MAY[1:]], ids=str)
def test_whoever_lacks_a_permission_gets_neither_the_page_nor_a_link_to_it(permissions: tuple[str, ...]) -> None:
    told, client = report(), clerk(*permissions)
    before = stored()["routing.MinerIncident"]
    assert client.get(page(told, "void")).status_code == 403
    assert client.post(page(told, "void"), {"reason": "why not"}).status_code == 403
    assert stored()["routing.MinerIncident"] == before
    assert page(told, "void") not in client.get(page(told)).content.decode()


def test_an_incident_that_is_not_there_has_no_page() -> None:
    client = clerk(*MAY)
    for pk in (0, 10**30):
        assert client.get(reverse("admin:routing_minerincident_void", args=[pk])).status_code == 404


def test_a_form_of_another_site_voids_nothing() -> None:
    told = report()
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("boss"))
    assert client.post(page(told, "void"), {"reason": "why not"}).status_code == 403
    told.refresh_from_db()
    assert told.voided_at is None
