"""The project's settings, with what a test run may not depend on set."""

import os

os.environ.update(dict.fromkeys(["REDIS_URL", "DEBUG_MINER_KEY", "ROUTING_FACILITATOR_PUBLIC_KEYS"], ""), DEBUG="0")
os.environ["SECRET_KEY"] = "only-for-tests-" + "x" * 40

os.environ.update(TRUSTED_MINER_ADDRESS="10.8.8.8", TRUSTED_MINER_PORT="8008")

from project.settings import *  # noqa: F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
SECURE_SSL_REDIRECT = False
ROUTING_DECISIONS_SAMPLE = 0.0  # a sample drawn at random decides no test
