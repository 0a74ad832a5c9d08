"""Tokens for those who hand them out: the commands, and the pages of the admin."""

from __future__ import annotations

import json

import pytest
from django.test import Client
from django.urls import reverse

from routing.access import tokens
from routing.access.tokens import State, TokenRefused
from routing.management.commands.revoke_token import Command
from routing.models import AccessToken
from tests.clock import DAY, NOW, noon
from tests.factories import run_command
from tests.pages import shown
from tests.visitors import clerk

pytestmark = pytest.mark.django_db


@noon
def test_the_command_prints_nothing_but_the_token_where_it_can_be_piped() -> None:
    ended = run_command("issue_token", "anna", "--ttl", "12h", "--scope", "jobs", "--scope", "events")
    row = AccessToken.objects.get()
    assert (ended.code, ended.out.count("\n")) == (0, 1)
    assert tokens.verify(ended.out.removesuffix("\n")) == row
    assert ended.err == f"Token {row.pk} of anna, for jobs, events, until 2026-01-02T00:00:00+00:00.\n"


@noon
def test_the_command_prints_all_of_it_in_json() -> None:
    ended = run_command("issue_token", "anna", "--scope", "metrics", "--format", "json")
    row, told = AccessToken.objects.get(), json.loads(ended.out)
    assert (ended.code, ended.err) == (0, "")
    assert tokens.verify(told.pop("token")) == row
    end = "2026-04-01T12:00:00+00:00"
    assert told == {"id": str(row.pk), "name": "anna", "scopes": ["metrics"], "expires_at": end}


@pytest.mark.parametrize(("ttl", "seconds"), [("1s", 1), ("30m", 1800), ("2h", 7200), ("3650d", 3650 * 86400)])
def test_the_command_takes_units_of_time(ttl: str, seconds: int) -> None:
    assert run_command("issue_token", "anna", "--scope", "jobs", "--ttl", ttl).code == 0
    row = AccessToken.objects.get()
    assert (row.expires_at - row.issued_at).total_seconds() == seconds


@pytest.mark.parametrize(
    "ttl", ["", "90", "d", "-1d", "1.5h", "1 d", "1w", "1D", "٣d", "0d", "3651d", "999999999d", "9" * 99 + "d"]
)
def test_the_command_refuses_other_times(ttl: str) -> None:
    ended = run_command("issue_token", "anna", "--scope", "jobs", f"--ttl={ttl}")
    assert (ended.code, ended.out) == (2, "")
    assert "90d" in ended.err or "3650 days" in ended.err
    assert not AccessToken.objects.exists()


@pytest.mark.parametrize("arguments", [["anna"], ["anna", "--scope", "everything"], ["--scope", "jobs"]])
def test_the_command_insists_on_a_name_and_a_scope(arguments: list[str]) -> None:
    ended = run_command("issue_token", *arguments)
    assert (ended.code != 0, ended.out) == (True, "")
    assert not AccessToken.objects.exists()


def test_the_commands_refuse_a_bad_name_as_bad_input() -> None:
    for command in (["issue_token", "a\nb", "--scope", "jobs"], ["revoke_token", "a\nb"]):
        ended = run_command(*command)
        assert (ended.code, ended.out) == (2, "")
        assert "printable" in ended.err


def test_the_command_says_what_it_revoked_and_then_that_nothing_is_left() -> None:
    (row, token), _ = tokens.issue("anna", ["jobs"], DAY), tokens.issue("bert", ["jobs"], DAY)
    tokens.issue("bert", ["events"], DAY)
    assert run_command("revoke_token", "anna") == (0, f"Token {row.pk} of anna, for jobs, is revoked.\n", "")
    with pytest.raises(TokenRefused):
        tokens.verify(token)
    for which in ("anna", row.pk, "carl"):
        ended = run_command("revoke_token", which)
        assert ended == (1, "", f"No token of '{which}' is live. Live tokens: bert.")
    tokens.revoke("bert")
    assert "Live tokens: none." in run_command("revoke_token", "bert").err


def test_the_command_says_what_it_revoked_in_json() -> None:
    row, _ = tokens.issue("anna", ["jobs"], DAY)
    ended = run_command("revoke_token", row.pk, "--format", "json")
    assert (ended.code, json.loads(ended.out)) == (0, {"revoked": [tokens.as_json(row)]})
    ended = run_command("revoke_token", row.pk, "--format", "json")
    assert (ended.code, json.loads(ended.out)) == (1, {"revoked": []})


def test_a_token_is_replaced_as_the_commands_say() -> None:
    first = run_command("issue_token", "anna ops", "--scope", "jobs")
    second = run_command("issue_token", "anna ops", "--scope", "jobs")
    lead = "manage.py revoke_token 'anna ops' --keep-newest"
    assert lead not in first.err
    assert lead in second.err
    old, new = AccessToken.objects.order_by("stored_at")
    ended = run_command("revoke_token", "anna ops", "--keep-newest")
    assert ended.code == 0
    assert ended.out.splitlines() == [
        f"Token {old.pk} of anna ops, for jobs, is revoked.",
        f"Token {new.pk} of anna ops, for jobs, is kept.",
    ]
    assert tokens.verify(second.out.strip()) == new
    again = run_command("revoke_token", "anna ops", "--keep-newest", "--format", "json")
    assert (again.code, json.loads(again.out)) == (1, {"revoked": [], "kept": [tokens.as_json(new)]})
    assert "--keep-newest" in Command().help
    assert run_command("revoke_token", new.pk, "--keep-newest").code == 2


LIST = "routing_accesstoken_changelist"


def test_the_admin_shows_what_became_of_tokens_but_never_a_token(admin_client: Client) -> None:
    row, token = tokens.issue("live-one", ["jobs"], DAY)
    tokens.issue("old-one", ["events"], DAY, now=NOW)
    gone, _ = tokens.issue("gone-one", ["jobs", "metrics"], DAY)
    tokens.revoke(gone.pk)
    listed = shown(admin_client, LIST)
    assert [listed.count(f'"field-state">{state}<') for state in State] == [1, 1, 1]
    assert "jobs, metrics" in listed
    page = shown(admin_client, "routing_accesstoken_change", row.pk)
    for content in (listed, page):
        assert not [part for part in token.split(".") if part in content]
    assert str(row.pk) in page


def revoke_in_admin(client: Client, *rows: AccessToken) -> str:
    data = {"action": "revoke", "_selected_action": [row.pk for row in rows]}
    return client.post(reverse(f"admin:{LIST}"), data, follow=True).content.decode()


def test_the_admin_revokes_what_is_selected_and_keeps_who_did_it() -> None:
    client = clerk("routing.view_accesstoken", "routing.change_accesstoken")
    (row, token), (_, other) = tokens.issue("anna", ["jobs"], DAY), tokens.issue("anna", ["jobs"], DAY)
    gone, _ = tokens.issue("anna", ["jobs"], DAY)
    tokens.revoke(gone.pk)
    assert "1 of 2 tokens were live and are now revoked." in revoke_in_admin(client, row, gone)
    with pytest.raises(TokenRefused, match="is revoked"):
        tokens.verify(token)
    assert tokens.verify(other).name == "anna"
    history = shown(client, "routing_accesstoken_history", row.pk)
    assert "Revoked." in history
    assert "clerk" in history


def test_whoever_may_only_view_tokens_is_not_offered_to_revoke_them() -> None:
    client = clerk("routing.view_accesstoken")
    row, token = tokens.issue("anna", ["jobs"], DAY)
    assert 'value="revoke"' not in shown(client, LIST)
    revoke_in_admin(client, row)
    assert tokens.verify(token) == row
