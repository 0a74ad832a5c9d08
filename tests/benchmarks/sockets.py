"""What a worker does about sockets: serve them, or be the clients of another one's."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import socket
import time
from collections import Counter
from threading import Thread
from typing import Any

import uvicorn
from websockets.asyncio.client import connect

from routing.access import tokens
from routing.access.tokens import Scope
from tests.benchmarks.operations import job, picked


def serve() -> int:
    """Serve the project's sockets from now on, beside whatever else this process does. Returns the port."""
    from project.asgi import application  # noqa: PLC0415 (only a server has static files, and tells if they are missing)

    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    how: dict[str, Any] = {"lifespan": "off", "log_config": None, "access_log": False}
    server = uvicorn.Server(uvicorn.Config(application, ws_per_message_deflate=False, **how))
    Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
    port: int = listening.getsockname()[1]
    return port


def clients(ports: list[int], number: int, seconds: float) -> dict[str, Any]:
    """Ask for routes over so many connections, each for one after the other, until so many seconds are over.

    Returns also how many milliseconds each answer took.
    """
    _, token = tokens.issue("bench", [Scope.JOBS], dt.timedelta(hours=1))
    return asyncio.run(_clients(ports, number, seconds, token))


async def _clients(ports: list[int], number: int, seconds: float, token: str) -> dict[str, Any]:
    outcomes: Counter[str] = Counter()
    latencies: list[float] = []
    all_here = asyncio.Barrier(number)

    async def run(port: int) -> float:
        headers = {"Authorization": f"Bearer {token}"}
        async with connect(f"ws://127.0.0.1:{port}/ws/jobs/", additional_headers=headers) as server:
            await all_here.wait()
            began = time.perf_counter()
            while (before := time.perf_counter()) < began + seconds:
                await server.send(job(30).model_dump_json())
                answer = json.loads(await server.recv())
                latencies.append((time.perf_counter() - before) * 1000)
                outcomes["done" if answer["type"] == "job.routed" else answer["reason"]] += 1
                if answer["type"] == "job.routed":
                    picked.append(answer["allowance_reservation_id"])
            return time.perf_counter() - began

    took = await asyncio.gather(*(run(ports[i % len(ports)]) for i in range(number)))
    return {"outcomes": outcomes, "seconds": max(took), "latencies": latencies}
