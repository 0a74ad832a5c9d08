"""The settings of routing. `routing.dynamic` has the dynamic ones, which operators change in the admin."""

from __future__ import annotations

from functools import lru_cache

from django.conf import settings
from django.db import connection
from django.utils.crypto import salted_hmac

from allowance.plumbing.settings import Setting, Settings
from allowance.plumbing.settings import conf as of_allowance

SOME_TIME = 0.001
"""Seconds. The lower bound of settings that must be greater than 0."""

MOST_DAYS = 36_500


def _kept(what: str, days: float, help: str) -> Setting:
    return Setting(f"ROUTING_KEEP_{what}_DAYS", days, help, "days", 0, MOST_DAYS)


conf = Settings(
    Setting(
        "REDIS_URL",
        "",
        "The Redis that several processes share, as redis://host:6379/0: for the channel layer, and for the bounds of "
        "clients. Without it each process has a layer and bounds of its own.",
    ),
    Setting(
        "ROUTING_REDIS_PREFIX",
        "",
        "The beginning of all names in Redis. By default it is drawn from SECRET_KEY and the name of the database. Two "
        "sites that share a Redis, and have both in common, need a prefix each.",
    ),
    Setting("DEBUG_MINER_KEY", "", "The hotkey of a miner that gets every job. By default there is none."),
    Setting(
        "DEBUG_MINER_ADDRESS", "", "Where the debug miner listens. Without an address it listens where the chain says."
    ),
    Setting("DEBUG_MINER_PORT", 0, "The port of the debug miner."),
    Setting(
        "TRUSTED_MINER_ADDRESS",
        "",
        "Where the pseudo-miner for trusted jobs listens. Without an address a trusted job is an error.",
    ),
    Setting("TRUSTED_MINER_PORT", 0, "The port of the trusted miner."),
    Setting(
        "ROUTING_REFUSALS_KEPT",
        3,
        "Refusals of a reason and class in a minute whose candidates the decision log keeps, over all processes.",
        least=0,
    ),
    Setting(
        "ROUTING_DECISIONS_SAMPLE", 0.01, "The share of all other decisions whose candidates the log keeps.", "", 0, 1
    ),
    Setting(
        "ROUTING_FACILITATOR_PUBLIC_KEYS",
        [],
        "The ss58 addresses that sign jobs, with commas between. A job that none of them signed is refused. Needs the "
        "extra: pip install 'miner-router[signatures]'. Without keys no signature is verified.",
    ),
    Setting(
        "ROUTING_SIGNATURE_MAX_AGE",
        300.0,
        "The largest difference between a signature's time and ours, either way.",
        "s",
        least=SOME_TIME,
    ),
    Setting(
        "ROUTING_SOCKET_ORIGINS",
        [],
        "Origins besides ALLOWED_HOSTS whose pages may open sockets, as https://app.example.org, with commas between.",
    ),
    Setting(
        "ROUTING_SOCKET_IN_FLIGHT",
        64,
        "Messages that the sockets of a process work on at once. More are refused at once.",
        least=1,
    ),
    Setting(
        "ROUTING_SOCKET_IN_FLIGHT_EACH", 16, "Messages of one connection that a process works on at once.", least=1
    ),
    Setting(
        "ROUTING_SOCKET_MESSAGES_PER_SECOND",
        100.0,
        "Messages that one connection may send in a second, in the long run.",
        least=1,
    ),
    Setting(
        "ROUTING_SOCKET_SEND_SECONDS",
        10.0,
        "The time in which a client must read an answer. Then its socket is closed.",
        "s",
        least=SOME_TIME,
    ),
    Setting(
        "ROUTING_SOCKET_RECHECK_SECONDS",
        30.0,
        "The time after which the right of an open socket's token or user is checked again.",
        "s",
        least=SOME_TIME,
    ),
    Setting(
        "ROUTING_CLIENT_CONNECTIONS",
        200,
        "Connections that one client, a token's name or a user, may have open. This bound and the next two hold over "
        "all processes with REDIS_URL, and for each process without it.",
        least=1,
    ),
    Setting("ROUTING_CLIENT_MESSAGES_PER_SECOND", 1000, "Messages that one client may send in a second.", least=1),
    Setting(
        "ROUTING_CLIENT_REFUSALS_PER_MINUTE",
        600,
        "Jobs of one client that may be refused in a minute. More are refused without a decision.",
        least=1,
    ),
    _kept(
        "DECISIONS", 30.0, "Decisions. manage.py prune deletes what is older, and keeps what somebody may still need."
    ),
    _kept("CANDIDATES", 7.0, "All candidates of the decisions that have them, some 30 kB each."),
    _kept("JOBS", 30.0, "The jobs of the sockets, with their signatures: as long as a client may ask for one again."),
    _kept(
        "INCIDENTS", 400.0, "Incidents, and rejections with their excuses. The longest reliability window is 366 days."
    ),
    _kept("RECEIPTS", 90.0, "Receipts: as long as they may be settled with miners."),
    _kept("RESERVATIONS", 90.0, "Reservations: as long as they may be settled with miners."),
    _kept(
        "BLOCKS", 7.0, "Blocks, and neuron lists that no block has any more. The ledger needs those of some four hours."
    ),
    _kept("CHECKS", 400.0, "Results of check_ledger."),
    _kept("TOKENS", 90.0, "Access tokens that have expired or were revoked."),
    Setting(
        "ROUTING_READY_MAX_BLOCK_AGE",
        120.0,
        "The age of the newest block above which /readyz says that this router is not ready.",
        "s",
        least=0,
    ),
    Setting(
        "ROUTING_STATUS_LIMITS",
        {},
        "Limits of manage.py routing_status and its page, as JSON. By the name of a finding: the value above which it "
        'is a warning, and the value above which it is critical, as {"refusals": [10, 30], "most_jobs": [100, 100]}. '
        "Shares are in percent, times in seconds. The page shows the limits of all findings.",
    ),
)

SETTINGS = {**of_allowance.table, **conf.table}
"""All settings of the three apps, by name."""


def redis_prefix() -> str:
    """Return the prefix of all names in Redis: ROUTING_REDIS_PREFIX, or a prefix derived from the site.

    The derived prefix is a hash of SECRET_KEY and the database's name. All processes of a site have these two in
    common, and other sites differ in one of them. Redis pub/sub, which carries the news, ignores database numbers, so
    sites that share a Redis need different prefixes.
    """
    prefix: str = conf.ROUTING_REDIS_PREFIX
    return prefix or _drawn_prefix(settings.SECRET_KEY, str(connection.settings_dict["NAME"]))


@lru_cache(maxsize=8)
def _drawn_prefix(secret: str, database: str) -> str:
    return "router-" + salted_hmac("routing.redis", database, secret, algorithm="sha256").hexdigest()[:16]
