"""The fixed settings, which are Django's."""

from __future__ import annotations

from functools import lru_cache

from django.conf import settings
from django.db import connection
from django.utils.crypto import salted_hmac


def redis_prefix() -> str:
    """Return what begins the names of all that is ours in Redis, whose news know no database numbers.

    It is the setting ROUTING_REDIS_PREFIX, or drawn from SECRET_KEY and the database's name: both are the same in all
    processes of a site, however they reach its database, and no other site has the same two.
    """
    return getattr(settings, "ROUTING_REDIS_PREFIX", "") or _drawn_prefix(
        settings.SECRET_KEY, str(connection.settings_dict["NAME"])
    )


@lru_cache(maxsize=8)
def _drawn_prefix(secret: str, database: str) -> str:
    return "router-" + salted_hmac("routing.redis", database, secret, algorithm="sha256").hexdigest()[:16]
