"""The settings of routing. `routing.dynamic` has the dynamic ones, which operators change in the admin."""

from __future__ import annotations

from functools import lru_cache

from django.conf import settings
from django.utils.crypto import salted_hmac

from allowance.follow.conf import conf as of_follower
from allowance.plumbing.database import database
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
        "The Redis server that several processes share, such as redis://host:6379/0. Without it each "
        "process has its own channel layer, and applies the limits of clients on its own.",
    ),
    Setting(
        "ROUTING_REDIS_PREFIX",
        "",
        "The prefix of all names in Redis. By default it is derived from SECRET_KEY and the name of the router's "
        "database. If two sites share these two and the Redis server, set a different prefix for each.",
    ),
    Setting(
        "DEBUG_MINER_KEY",
        "",
        "The hotkey of the debug miner, which gets every job. By default there is no debug miner.",
    ),
    Setting(
        "DEBUG_MINER_ADDRESS",
        "",
        "The IP address of the debug miner. By default the router takes its address and port from the chain.",
    ),
    Setting("DEBUG_MINER_PORT", 0, "The port of the debug miner."),
    Setting(
        "TRUSTED_MINER_ADDRESS",
        "",
        "The IP address of the trusted miner, which gets all trusted jobs. Without it a trusted job raises an error.",
    ),
    Setting("TRUSTED_MINER_PORT", 0, "The port of the trusted miner."),
    Setting(
        "ROUTING_REFUSALS_KEPT",
        3,
        "The number of refusals per minute, outcome and class whose candidates the decision log keeps, over all "
        "processes.",
        least=0,
    ),
    Setting(
        "ROUTING_DECISIONS_SAMPLE",
        0.01,
        "The share of all other decisions whose candidates the decision log keeps.",
        "",
        0,
        1,
    ),
    Setting(
        "ROUTING_FACILITATOR_PUBLIC_KEYS",
        [],
        "The ss58 addresses that sign jobs, separated by commas. A job that none of them signed is refused. This needs "
        "the extra: pip install 'miner-router[signatures]'. Without addresses no signature is verified.",
    ),
    Setting(
        "ROUTING_SIGNATURE_MAX_AGE",
        300.0,
        "The maximum difference between a signature's time and the clock of this host, before or after.",
        "s",
        least=SOME_TIME,
    ),
    Setting(
        "ROUTING_SOCKET_ORIGINS",
        [],
        "Origins whose pages may open sockets, in addition to ALLOWED_HOSTS, such as https://app.example.org. Separate "
        "them by commas.",
    ),
    Setting(
        "ROUTING_SOCKET_IN_FLIGHT",
        64,
        "The maximum number of messages that all sockets of a process handle at the same time. Further messages are "
        "refused immediately.",
        least=1,
    ),
    Setting(
        "ROUTING_SOCKET_IN_FLIGHT_EACH",
        16,
        "The maximum number of messages of one connection that a process handles at the same time.",
        least=1,
    ),
    Setting(
        "ROUTING_SOCKET_MESSAGES_PER_SECOND",
        100.0,
        "The maximum average number of messages per second from one connection.",
        least=1,
    ),
    Setting(
        "ROUTING_SOCKET_SEND_SECONDS",
        10.0,
        "The maximum time that a client takes to read an answer. After that its socket is closed.",
        "s",
        least=SOME_TIME,
    ),
    Setting(
        "ROUTING_SOCKET_RECHECK_SECONDS",
        30.0,
        "The time between two checks that the token or the user of an open socket still has access.",
        "s",
        least=SOME_TIME,
    ),
    Setting(
        "ROUTING_CLIENT_CONNECTIONS",
        200,
        "The maximum number of open connections of one client. A client is the name of a token, or a user. With "
        "REDIS_URL this limit and the next two apply to all processes together, without it to each process.",
        least=1,
    ),
    Setting(
        "ROUTING_CLIENT_MESSAGES_PER_SECOND",
        1000,
        "The maximum number of messages per second from one client.",
        least=1,
    ),
    Setting(
        "ROUTING_CLIENT_REFUSALS_PER_MINUTE",
        600,
        "The maximum number of refused jobs per minute of one client. Further jobs are refused without a decision.",
        least=1,
    ),
    _kept("DECISIONS", 30.0, "Decisions. manage.py prune deletes older rows, except those that are still needed."),
    _kept("CANDIDATES", 7.0, "The candidates in the decision log, about 30 kB for each decision that has them."),
    _kept(
        "JOBS", 30.0, "Jobs of the sockets, with their signatures. Keep them as long as a client may send a job again."
    ),
    _kept(
        "INCIDENTS", 400.0, "Incidents, and rejections with their excuses. The longest reliability window is 366 days."
    ),
    _kept("RECEIPTS", 90.0, "Receipts. Keep them as long as you may settle them with miners."),
    _kept("RESERVATIONS", 90.0, "Reservations. Keep them as long as you may settle them with miners."),
    _kept(
        "BLOCKS",
        7.0,
        "Blocks, and neuron lists that no block refers to. The ledger needs the blocks of about four hours.",
    ),
    _kept("CHECKS", 400.0, "Results of check_ledger."),
    _kept("TOKENS", 90.0, "Access tokens that have expired or were revoked."),
    Setting(
        "ROUTING_DYNAMIC_FROM",
        "",
        "A JSON document with dynamic settings: the path of a file, or a URL of http or https. The chain follower "
        "reads it every five minutes, and stores what has changed. It overrides what operators enter in the admin. By "
        "default there is none.",
    ),
    Setting(
        "ROUTING_READY_MAX_BLOCK_AGE",
        120.0,
        "The maximum age of the newest block. Above it /readyz answers that this router is not ready.",
        "s",
        least=0,
    ),
    Setting(
        "RECEIPTS_FROM_MINERS",
        1,
        "Whether the chain follower reads the receipts that miners serve: 1 or 0. Without them the router does not "
        "know which executors other validators use.",
        least=0,
        most=1,
    ),
    Setting(
        "ROUTING_STATUS_LIMITS",
        {},
        "Limits of manage.py routing_status and of its page, as JSON. For each named measure: the value above which it "
        'is a warning, and the value above which it is critical, such as {"refusals": [10, 30], "most_jobs": [100, '
        "100]}. Shares are in percent, times in seconds. The page shows the names and limits of all measures.",
    ),
)

SETTINGS = {**of_allowance.table, **of_follower.table, **conf.table}
"""All settings of the three apps, by name."""


def redis_prefix() -> str:
    """Return the prefix of all names in Redis: ROUTING_REDIS_PREFIX, or a prefix derived from the site.

    The derived prefix is a hash of SECRET_KEY and the name of the apps' database. All processes of a site have these
    two in common, and other sites differ in one of them. Redis pub/sub, which carries the news, ignores database
    numbers, so sites that share a Redis need different prefixes.
    """
    prefix: str = conf.ROUTING_REDIS_PREFIX
    return prefix or _drawn_prefix(settings.SECRET_KEY, str(database().settings_dict["NAME"]))


@lru_cache(maxsize=8)
def _drawn_prefix(secret: str, database: str) -> str:
    return "router-" + salted_hmac("routing.redis", database, secret, algorithm="sha256").hexdigest()[:16]
