"""The page of the sources: what the chain follower reads, and what it is missing."""

from __future__ import annotations

import re
from html import unescape

import pytest
from django.test import Client
from django.urls import reverse

from allowance.models import Block, SourceReport
from routing.pages import SEE_MINER, SEE_SOURCES, miner_link
from routing.pages.sources import SHOWN, Part, strip
from tests.clock import MINUTE, NOW, SECOND, noon
from tests.factories import ESCAPED, HTML
from tests.follower import CONTRACT, ERROR, SHARED, follow, follow_all, report
from tests.integration.test_ledger_page import section, table
from tests.queries import assert_only_reads, queries
from tests.rows import mint
from tests.visitors import clerk

pytestmark = [pytest.mark.django_db, noon]
ADDRESS = reverse("admin:routing_sources")


@pytest.fixture
def watcher(db: None) -> Client:
    """The client of somebody who may see the sources, and nothing else."""
    return clerk(*SEE_SOURCES)


def see(client: Client) -> str:
    response = client.get(ADDRESS)
    assert response.status_code == 200
    return str(response.content.decode())


def rows(page: str, title: str) -> list[list[str]]:
    """Return the cells of the table in the section, or under the heading, with this id; without its head."""
    return [
        [unescape(cell) for cell in row]
        for row in table(page[page.index(f'id="{title}"') :].split("</table>", maxsplit=1)[0])
    ][1:]


def figures(client: Client) -> dict[str, tuple[str, str, str]]:
    found = client.get(ADDRESS).context["figures"]
    return {figure.name: (figure.value, figure.meaning, figure.tone) for figure in found}


def test_without_a_follower_the_page_says_so_and_shows_the_blocks(watcher: Client) -> None:
    page = see(watcher)
    assert "No chain follower has ever run here." in page
    assert "No block is recorded." in page
    assert 'id="receipts"' not in page
    mint(1000)
    mint(1003)
    page = see(watcher)
    assert 'aria-label="Blocks 1000 to 1003: 2 recorded, 2 missing, 0 waiting"' in page
    assert rows(page, "blocks") == [
        ["1000", "1000", "1", "recorded"],
        ["1001", "1002", "2", "missing"],
        ["1003", "1003", "1", "recorded"],
    ]


def test_a_follower_that_has_just_begun_has_read_nothing(watcher: Client) -> None:
    follow(head=None, head_at=None)
    page = see(watcher)
    for said in (
        *("The follower has not read anything yet.", "No block is recorded.", "No collateral has been read yet."),
        *("No miner has been asked for its manifest yet.", "No receipts have been read yet.", "No call has been made"),
    ):
        assert said in page
    assert figures(watcher)["Newest finalized block"] == ("none", "", "")


def test_the_figures_tell_the_heartbeat_the_head_the_lag_and_the_gaps(watcher: Client) -> None:
    follow_all()
    for number in (1000, 1001, 1002, 1004, 1006, 1007, 1008):
        mint(number)
    assert figures(watcher) == {
        "Heartbeat": ("4 s ago", "of host-a, process 4711", "good"),
        "Newest finalized block": ("1010", "first seen 5 s ago", ""),
        "Waiting": (
            "2",
            "finalized blocks that are not recorded yet; the newest was recorded 26 s after it was minted",
            "",
        ),
        "Missing": ("2", "of the last 11 blocks", "warn"),
    }
    assert "host-a, process 4711, since 2026-01-01 11:00:00 UTC, 60 min ago" in see(watcher)
    follow(seen_at=NOW - 2 * MINUTE)
    assert figures(watcher)["Heartbeat"][-1] == "warn"
    follow(seen_at=NOW - 6 * MINUTE)
    assert figures(watcher)["Heartbeat"][-1] == "bad"


def test_each_source_is_told_with_its_last_good_answer_and_its_error(watcher: Client) -> None:
    follow_all()
    found = rows(see(watcher), "sources")
    assert [row[:5] for row in found] == [
        ["OK", "blocks", "subtensor", "2026-01-01 11:59:30 UTC, 30 s ago", "0"],
        ["WARNING failing", "manifests", "miners", "2026-01-01 11:50:00 UTC, 10 min ago", "3"],
        ["OK", "collateral", "evm", "2026-01-01 11:55:00 UTC, 5 min ago", "0"],
        ["OK", "receipts", "HTTP", "2026-01-01 11:59:30 UTC, 30 s ago", "0"],
        ["OK", "settings", "/etc/settings.json", "2026-01-01 11:59:30 UTC, 30 s ago", "0"],
    ]
    assert found[1][5].endswith("Failures since then: 3. The newest: Two thirds of the miners are silent.")
    report("blocks", good_at=None, failed_at=NOW - 2 * MINUTE, failures=9, error=ERROR)
    assert rows(see(watcher), "sources")[0] == [
        *("WARNING", "blocks", "subtensor", "never", "9"),
        "The source of the blocks (subtensor) has given no good answer and first failed 2 min ago. Failures since "
        f"then: 9. The newest: {ERROR} Check the node or the Pylon service that the follower reads, and the follower's "
        "log.",
    ]


def test_the_calls_are_told_with_their_mean_time(watcher: Client) -> None:
    follow_all()
    assert rows(see(watcher), "calls") == [
        ["blocks", "block", "100", "0", "250 ms"],
        ["blocks", "latest", "200", "2", "50 ms"],
        ["collateral", "eth_call", "9", "0", "500 ms"],
        ["manifests", "manifests", "12", "3", "2,500 ms"],
        ["receipts", "page", "0", "0", "–"],
        ["settings", "read", "5", "0", "20 ms"],
    ]


def test_what_the_follower_cannot_read_and_who_is_silent_is_told(watcher: Client) -> None:
    follow_all()
    mint(1000)
    page = unescape(see(watcher))
    assert "the node has discarded the states of 1 missing block." in page
    assert rows(page, "unreadable") == [["1005", "461", "no type 7"]]
    manifests = section(page, "silent")
    assert "2 of 3 miners that had executors did not answer. This sync is not recorded." in manifests
    assert "1 of 3 miners answered the last request for manifests, at block 1000." in manifests
    assert "which were clipped: 1." in manifests
    assert re.findall("<li>(.*?)</li>", manifests) == ["hot-2: Connection refused", "hot-3"]
    assert rows(page, "why") == [["Connection refused", "2"], ["No answer within 5 s", "1"]]
    collateral = section(page, "collateral")
    assert f"Read at block 1001 from the contract <code>{CONTRACT}</code>. 3 hotkeys have an EVM address." in collateral
    assert rows(page, "unknown") == [
        ["hot-3", "2026-01-01 10:00:00 UTC, 2 h ago"],
        ["hot-1", "2026-01-01 11:00:00 UTC, 60 min ago"],
    ]
    assert rows(page, "shared") == [[SHARED, "hot-1, hot-2"]]


def test_receipts_are_told_by_reason_and_by_miner_the_worst_first(watcher: Client) -> None:
    follow_all()
    page = see(watcher)
    assert "1,234 receipts were stored" in page
    assert rows(page, "refused") == [["old", "40"], ["forged", "2"]]
    assert rows(page, "by-miner") == [
        ["hot-3", "0", "0", "never", "2026-01-01 11:00:00 UTC, 60 min ago"],
        ["hot-2", "234", "42", "2026-01-01 11:59:00 UTC, 60 s ago", "–"],
        ["hot-1", "1,000", "0", "2026-01-01 11:59:59 UTC, 1 s ago", "–"],
    ]
    assert "Miners without receipts, refused receipts and silence, which are not listed: 1." in page


def test_discarded_blocks_from_before_the_ledger_are_no_gap(watcher: Client) -> None:
    follow()
    report("blocks", gaps=[[70, 999]], discarded=930)
    mint(1000)
    page = unescape(see(watcher))
    assert "930 blocks from before the ledger began can't be read any more. They would have earned nothing." in page
    assert "Discarded:" not in page
    assert figures(watcher)["Missing"][0] == "0"


def test_ages_are_told_in_whole_seconds(watcher: Client) -> None:
    follow(seen_at=NOW - 4.4 * SECOND)
    report("blocks", good_at=NOW - 0.25 * SECOND)
    report("manifests", good_at=NOW - 31.7 * SECOND)
    assert figures(watcher)["Heartbeat"][0] == "4 s ago"
    blocks, manifests = rows(see(watcher), "sources")
    assert blocks[3].endswith(", 0.25 s ago")
    assert manifests[3].endswith(", 32 s ago")
    assert "32 s ago." in manifests[5]


@pytest.mark.parametrize(
    ("numbers", "head", "parts"),
    [
        ([], 9, []),
        ([5], None, [Part(5, 5, "recorded", 0)]),
        ([5], 4, [Part(5, 5, "recorded", 0)]),
        ([9, 8, 5], 11, [(5, 5, "recorded", 0), (6, 7, "missing", 1), (8, 9, "recorded", 3), (10, 11, "waiting", 5)]),
        ([5], 5000, [(5000 - SHOWN, 5000, "waiting", 0)]),
        (range(SHOWN + 9, 8, -1), None, [(9, SHOWN + 9, "recorded", 0)]),
        (
            [*range(SHOWN + 11, 11, -1), 10],
            None,
            [(11, 11, "missing", 0), (12, SHOWN + 11, "recorded", 1)],
        ),
    ],
)
def test_the_strip_ends_at_the_head_and_leaves_out_what_was_before_the_first_block(
    numbers: list[int], head: int | None, parts: list[tuple[int, int, str, int]]
) -> None:
    assert strip(numbers, head) == parts


def test_a_hotkey_and_an_error_that_are_html_are_shown_as_text(watcher: Client) -> None:
    follow_all(hotkeys=(HTML, "bert", "cleo"))
    report("blocks", error="<b>no</b>", failures=1, unreadable=[[7, None, "<b>no</b>"]], calls={"<b>no</b>": [1, 0, 1]})
    page = see(watcher)
    assert "<b>" not in page
    assert page.count(ESCAPED) == 3
    assert page.count("&lt;b&gt;no&lt;/b&gt;") == 3


def test_hotkeys_lead_to_the_miners_of_those_who_may_see_them(watcher: Client) -> None:
    follow_all()
    assert "<a" not in section(see(watcher), "receipts")
    client = clerk(*SEE_SOURCES, *SEE_MINER)
    page = see(client)
    for name, hotkeys in (("receipts", 3), ("silent", 2), ("collateral", 4)):
        assert len(re.findall(r'<a href="/admin/[^"]+hot-\d', section(page, name))) == hotkeys, name
    assert miner_link("hot-3") in page


def test_a_report_that_another_version_wrote_leaves_the_page_alone(watcher: Client) -> None:
    follow_all()
    SourceReport.objects.update(detail={"miners": 7, "silent": {}, "calls": [], "unknown": "?", "unreadable": 7})
    assert "No receipts have been read yet." in see(watcher)


@pytest.mark.parametrize("missing", SEE_SOURCES)
def test_who_lacks_one_of_the_permissions_sees_nothing(missing: str) -> None:
    follow_all()
    response = clerk(*set(SEE_SOURCES) - {missing}).get(ADDRESS)
    assert response.status_code == 403
    assert "hot-1" not in response.content.decode()


def test_the_page_takes_eight_queries_and_only_reads(watcher: Client) -> None:
    """Four to know who is asking, the follower, its reports, the first block, and the newest blocks."""
    follow_all()
    Block.objects.bulk_create(
        Block(number=n, timestamp=NOW - (2000 - n) * SECOND, stake_share=0.5) for n in range(2000)
    )
    assert len(queries(lambda: see(watcher))) == 4 + 3 + 1
    assert_only_reads(lambda: see(watcher))


def test_it_takes_no_post(watcher: Client) -> None:
    assert watcher.post(ADDRESS).status_code == 405
