from __future__ import annotations

import json
from typing import Any

from allowance.plumbing.programs import AnsweringCommand
from routing.sockets.messages import schema


class Command(AnsweringCommand):
    help = (
        "Print the JSON Schema of all messages of the sockets. $defs contains each message under its name. "
        "docs/socket.md explains the messages. Exit code: 0 printed."
    )

    has_formats = False

    def handle(self, *_args: Any, **_options: Any) -> None:
        self.stdout.write(json.dumps(schema(), indent=2))
