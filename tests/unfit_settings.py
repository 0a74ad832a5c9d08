"""A site's settings with which the router can't work."""

from tests.settings import *  # noqa: F403

USE_TZ = False
