"""Voiding incidents in bulk, by the command and by the action on their list: as one by one, and each is logged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import DatabaseError
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from allowance.types import LockTimeout
from routing import incidents
from routing.decision import reliability
from routing.decision.book import DryBook
from routing.decision.pipeline import decide
from routing.incidents import void_incident
from routing.models import IncidentVersion, MinerIncident
from routing.upkeep import voiding
from tests.clock import HOUR, NOW, noon
from tests.factories import OTHER_CLASS, job_request, raising, run_command, stored
from tests.ledgers import CLASS
from tests.programs import Finished
from tests.queries import postgresql, queries
from tests.rows import FAILED, REJECTED, report
from tests.visitors import clerk

pytestmark = [pytest.mark.django_db(transaction=True), noon, pytest.mark.miners("anna", "bert")]

LIST = "admin:routing_minerincident_changelist"
REASON = "A host of ours was down."
MAY = ("routing.view_minerincident", "routing.void_incidents")


@pytest.fixture(autouse=True)
def boss(ledger: None) -> User:
    """Five incidents: four of anna, of which one is old and one of another class, and one of bert."""
    report("anna", at=NOW - HOUR)
    report("anna", at=NOW - 2 * HOUR, kind=REJECTED)
    report("anna", at=NOW - 3 * HOUR, executor_class=OTHER_CLASS)
    report("anna", at=NOW - 30 * HOUR)
    report("bert", at=NOW - HOUR)
    return User.objects.create_superuser("boss")


def void(*options: object, reason: str | None = REASON, by: str | None = "boss") -> Finished:
    said = [part for name, value in (("--reason", reason), ("--by", by)) if value is not None for part in (name, value)]
    return run_command("void_incidents", *options, *said, "--yes")


def voided() -> list[tuple[str, float]]:
    """Return whose incidents are voided, and how many hours ago they happened."""
    rows = MinerIncident.objects.exclude(voided_at=None).order_by("hotkey_ss58address", "-timestamp")
    return [(row.hotkey_ss58address, (NOW - row.timestamp) / HOUR) for row in rows]


def counted() -> dict[str, int]:
    """Return how many incidents each miner has for a pick."""
    return {c.hotkey: c.incidents for c in decide(job_request(12), DryBook(), now=timezone.now()).candidates}


SELECTED: list[tuple[list[object], list[tuple[str, float]]]] = [
    (["--since", (NOW - 2 * HOUR).isoformat()], [("anna", 1), ("anna", 2), ("bert", 1)]),
    (["--until", (NOW - 2 * HOUR).isoformat()], [("anna", 3), ("anna", 30)]),
    (["--since", (NOW - 3 * HOUR).isoformat(), "--until", (NOW - HOUR).isoformat()], [("anna", 2), ("anna", 3)]),
    (["--miner", "bert"], [("bert", 1)]),
    (["--type", REJECTED], [("anna", 2)]),
    (["--executor-class", OTHER_CLASS], [("anna", 3)]),
    (["--miner", "anna", "--type", FAILED, "--executor-class", CLASS], [("anna", 1), ("anna", 30)]),
]


@pytest.mark.parametrize(("options", "expected"), SELECTED, ids=lambda value: repr(value)[:60])
def test_what_all_options_name_is_voided_and_logged(
    options: list[object], expected: list[tuple[str, float]], boss: User
) -> None:
    before = stored()
    counted_so = run_command("void_incidents", *options, "--dry-run")
    assert counted_so.code == 0
    assert f"{len(expected)} incident{'s' if len(expected) > 1 else ''} would be voided." in counted_so.out
    assert stored() == before
    ended = void(*options)
    assert ended.code == 0
    assert ended.out.splitlines()[-1].startswith(f"{len(expected)} incident")
    assert voided() == expected
    rows = MinerIncident.objects.exclude(voided_at=None)
    assert {(row.voided_by, row.void_reason, row.voided_at) for row in rows} == {("boss", REASON, NOW)}
    entries = LogEntry.objects.all()
    assert sorted(entry.object_id or "" for entry in entries) == sorted(str(row.pk) for row in rows)
    assert {(entry.user, entry.get_change_message()) for entry in entries} == {(boss, f"Voided: {REASON}")}


def test_they_count_no_more_from_the_next_pick_on() -> None:
    assert counted() == {"anna": 2, "bert": 1}
    remembered = dict(reliability._counted)
    assert void("--type", FAILED).code == 0
    assert reliability._counted == remembered
    assert counted() == {"anna": 1, "bert": 0}


def test_nothing_that_matches_has_its_own_sentence_and_code() -> None:
    assert void("--miner", "carl") == (1, "", "There is no matching incident to void.")
    assert void("--miner", "bert").code == 0
    before = stored()
    assert void("--miner", "bert") == (1, "", "There is no matching incident to void. Matching, but voided before: 1.")
    assert "Matching, but voided before: 1." in void("--since", (NOW - HOUR).isoformat(), "--dry-run").out
    assert stored() == before


def test_the_command_tells_programs_what_it_did() -> None:
    void("--miner", "bert")
    said = json.loads(void("--executor-class", CLASS, "--format", "json", "--dry-run").out)
    assert said == {
        "dry_run": True,
        "matching": 3,
        "voided": 0,
        "voided_before": 1,
        "of": [
            {"executor_class": CLASS, "type": FAILED, "incidents": 2, "miners": 1},
            {"executor_class": CLASS, "type": REJECTED, "incidents": 1, "miners": 1},
        ],
    }
    assert json.loads(void("--executor-class", CLASS, "--format", "json").out)["voided"] == 3


BAD: list[tuple[list[object], dict[str, Any], str]] = [
    ([], {}, "one or more of these options: --since"),
    (["--since", "yesterday"], {}, "--since 'yesterday'"),
    (["--until", "2026-01-01T11:00:00"], {}, "--until '2026-01-01T11:00:00'"),
    (["--since", NOW.isoformat(), "--until", NOW.isoformat()], {}, "is not later than --since"),
    (["--miner", "a b"], {}, "--miner: 'a b' is not a hotkey"),
    (["--executor-class", "gpu"], {}, "--executor-class: Unknown executor class"),
    (["--miner", "anna"], {"reason": None}, "--reason TEXT"),
    (["--miner", "anna"], {"reason": " "}, "--reason TEXT"),
    (["--miner", "anna"], {"reason": "x" * 501}, "--reason: Voiding needs a reason of 1 to 500"),
    (["--miner", "anna"], {"by": None}, "--by must be the name of a user of this site"),
    (["--miner", "anna"], {"by": "carl"}, "not 'carl'"),
]


@pytest.mark.parametrize(("options", "said", "named"), BAD, ids=lambda value: repr(value)[:50])
def test_bad_options_are_named_and_nothing_is_voided(options: list[object], said: dict[str, Any], named: str) -> None:
    before = stored()
    ended = void(*options, **said)
    assert (ended.code, stored()) == (2, before)
    assert named in ended.err


def test_without_a_terminal_only_yes_voids() -> None:
    ended = run_command("void_incidents", "--miner", "anna", "--reason", REASON, "--by", "boss")
    assert (ended.code, voided()) == (2, [])
    assert "Add --yes" in ended.err


@pytest.mark.parametrize("answer", ["", "n", "y", "YES "])
def test_on_a_terminal_it_asks_once(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        return answer

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", ask)
    ended = run_command("void_incidents", "--miner", "anna", "--reason", REASON, "--by", "boss")
    assert asked == ["Void 4 incidents? This can't be undone. [y/N] "]
    assert (ended.code, len(voided())) == ((0, 4) if answer.strip().lower().startswith("y") else (2, 0))


def test_many_are_voided_some_at_a_time_each_time_with_a_new_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voiding, "VOIDED_AT_ONCE", 2)
    versions: list[int] = []
    of_class = MinerIncident.objects.filter(executor_class=CLASS)
    for some in voiding.void_for(of_class, User.objects.get(), reason=REASON, now=NOW):
        versions.append(IncidentVersion.objects.get(pk=CLASS).version)
        assert len(voided()) == LogEntry.objects.count() == 2 * len(versions)
        assert some == 2
    assert len(set(versions)) == 2


def test_a_lock_that_is_not_had_in_time_leaves_what_was_voided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voiding, "VOIDED_AT_ONCE", 2)
    draw = incidents._draw_version
    drawn: list[str] = []

    def draw_once(executor_class: str) -> None:
        if drawn:
            raise LockTimeout
        drawn.append(executor_class)
        draw(executor_class)

    monkeypatch.setattr(incidents, "_draw_version", draw_once)
    ended = void("--executor-class", CLASS)
    assert (ended.code, len(voided()), LogEntry.objects.count()) == (3, 2, 2)
    assert "2 of 4 incidents are not voided. Other transactions kept the ledger locked" in ended.err
    monkeypatch.setattr(incidents, "_draw_version", draw)
    assert void("--executor-class", CLASS).code == 0
    assert (len(voided()), LogEntry.objects.count()) == (4, 4)


def test_what_can_t_be_logged_is_not_voided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voiding, "log", raising(DatabaseError))
    with pytest.raises(DatabaseError):
        void("--miner", "anna")
    assert voided() == []


def test_what_somebody_voids_meanwhile_stays_as_it_is() -> None:
    going = voiding.void_for(MinerIncident.objects.all(), User.objects.get(), reason=REASON, now=NOW)
    first = next(going)  # of one class
    later = MinerIncident.objects.filter(voided_at=None).earliest("pk")
    void_incident(later.pk, by="carl", reason="no fault of its", now=NOW)
    assert first + sum(going) == 4
    later.refresh_from_db()
    assert later.voided_by == "carl"
    assert LogEntry.objects.count() == 4


@postgresql
def test_they_are_read_under_the_lock_that_reports_take() -> None:
    sql = queries(lambda: void("--executor-class", CLASS))
    (version,) = [i for i, s in enumerate(sql) if s.startswith("INSERT") and "routing_incidentversion" in s]
    (lock,) = [i for i, s in enumerate(sql) if "FOR UPDATE" in s]
    (write,) = [i for i, s in enumerate(sql) if s.startswith("UPDATE")]
    assert version < lock < write


def act(client: Client, *incidents: MinerIncident, query: str = "", **said: str) -> Any:
    pks = [incident.pk for incident in incidents]
    return client.post(reverse(LIST) + query, {"action": "void", "_selected_action": pks, **said})


def confirm(client: Client, response: Any, *, query: str = "", reason: str = REASON) -> Any:
    """Send the form of the page that asks, as it is, with a reason."""
    context = response.context
    said = {"newest": context["newest"], "select_across": context["select_across"], "confirmed": "yes"}
    chosen = {"_selected_action": context["chosen"], "action": "void"}
    return client.post(reverse(LIST) + query, {**said, **chosen, "reason": reason}, follow=True)


def test_the_action_asks_once_and_voids_what_was_selected() -> None:
    client = clerk(*MAY)
    chosen = list(MinerIncident.objects.filter(hotkey_ss58address="anna", executor_class=CLASS).order_by("pk"))
    void_incident(chosen[0].pk, by="carl", reason="no fault of its", now=NOW)
    before = stored()["routing.MinerIncident"]
    asked = act(client, *chosen)
    content = asked.content.decode()
    assert "<strong>2 incidents</strong> will be voided. " in content
    assert "1 of the selected incidents is already voided and does not change." in content
    assert [group.incidents for _, group in asked.context["groups"]] == [1, 1]
    for shown in (str(chosen[1].job_uuid), str(chosen[2].job_uuid), 'name="reason"', "csrfmiddlewaretoken"):
        assert shown in content
    assert str(chosen[0].job_uuid) not in content
    for nothing in ("", "  ", "x" * 501):
        assert confirm(client, asked, reason=nothing).context["form"].errors["reason"]
    assert (stored()["routing.MinerIncident"], LogEntry.objects.count()) == (before, 0)
    done = confirm(client, asked)
    assert "2 of 2 incidents are voided and do not count any more." in done.content.decode()
    assert voided() == [("anna", 1), ("anna", 2), ("anna", 30)]
    assert {(e.object_id, e.user.get_username()) for e in LogEntry.objects.all()} == {
        (str(incident.pk), "clerk") for incident in chosen[1:]
    }
    again = act(client, *chosen)
    assert again.status_code == 302
    assert "All selected incidents are voided already" in client.get(reverse(LIST)).content.decode()


def test_all_that_the_filters_leave_can_be_voided_but_for_what_came_after_the_question() -> None:
    client, query = clerk(*MAY), "?time=24h&miner=anna"
    asked = act(client, MinerIncident.objects.latest("timestamp"), query=query, select_across="1")
    assert asked.context["count"] == 3
    report("anna")
    confirm(client, asked, query=query)
    assert voided() == [("anna", 1), ("anna", 2), ("anna", 3)]


@pytest.mark.parametrize("permissions", [MAY[:1], ()], ids=str)
def test_who_may_not_void_gets_no_action(permissions: tuple[str, ...]) -> None:
    client = clerk(*permissions)
    before = stored()["routing.MinerIncident"]
    act(client, *MinerIncident.objects.all(), confirmed="yes", reason=REASON)
    assert stored()["routing.MinerIncident"] == before
    assert "Void selected" not in client.get(reverse(LIST)).content.decode()


def test_a_lock_that_the_action_does_not_get_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    client = clerk(*MAY)
    asked = act(client, *MinerIncident.objects.all())
    monkeypatch.setattr(incidents, "_draw_version", raising(LockTimeout))
    content = confirm(client, asked).content.decode()
    assert "0 of 5 incidents are voided. Try again to void the others: Other transactions kept the ledger" in content
    assert voided() == []
