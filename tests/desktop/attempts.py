"""What the clients' models do, and the host that they do it with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.serving.host import Host
from mlgym_mcp.serving.http_server import serve_http
from mlgym_mcp.serving.relay import socket_path
from mlgym_mcp.session.journal import Event
from mlgym_mcp.session.owning import owned_tasks
from mlgym_mcp.session.registry import SessionRegistry
from tests.desktop.clients import DesktopClient
from tests.frameworks.playing import SOLVE
from tests.frameworks.scripted_model import Does, Script, last_job
from tests.serving.control_client import admin_of

WINDOW_S = 1.5
"""How long a call waits before it hands out a job: less than the jobs here take."""


def attempt(*work: Does, command: str, waits: int) -> Script:
    """A whole attempt: some work, a command that takes longer than a call waits, the scores.

    The model does not see whether the job has ended: it waits ``waits`` times, long enough for a busy machine.
    """
    waiting = [Does("job_wait", {"job_id": last_job})] * waits
    return (Does("get_task"), *work, Does("shell", {"command": command}), *waiting, Does("validate"), Does("submit"))


def edit(path: str, old: str, new: str) -> Does:
    return Does("edit_file", {"path": path, "old": old, "new": new})


_FITTED = "model = make_pipeline(prepare, Ridge(alpha=0.1)).fit(inputs, price)"
_PREDICTED = 'model.predict(test.drop(columns="id"))'
ATTEMPTS = {
    "toy": attempt(
        Does("write_file", {"path": "solve.py", "content": SOLVE.replace("37", "30")}),
        edit("solve.py", "30", "37"),
        command=f"sleep {WINDOW_S * 1.5}; python solve.py",
        waits=3,
    ),
    "house_price": attempt(
        Does("read_file", {"path": "baseline.py"}),
        edit("baseline.py", "import pandas", "import numpy as np\nimport pandas"),
        edit("baseline.py", _FITTED, _FITTED.replace("price)", "np.log(price))")),
        edit("baseline.py", _PREDICTED, f"np.exp({_PREDICTED})"),
        command=f"sleep {WINDOW_S}; python -u baseline.py",
        waits=8,
    ),
}
"""By task. Of house_price the baseline is turned into something better: prices grow by factors."""


@asynccontextmanager
async def host_of_both(backend: str, *, wait_s: float = WINDOW_S) -> AsyncIterator[Host]:
    """A host that listens as the background host of relays does, and over HTTP."""
    registry = SessionRegistry(Catalog.default(), sandbox=backend, unsafe=backend == "process", wait_s=wait_s)
    host = Host(registry, require_token=True)
    async with host.run(), serve_http(host, "127.0.0.1", 0), owned_tasks() as tasks:
        tasks.start_soon(host.serve_socket, socket_path())
        yield host


async def connect(client: DesktopClient, transport: str, task: str, host: Host) -> None:
    """Put a server for a task into a client's configuration: a command, or a session that is made for it."""
    if transport == "stdio":
        client.connect("--task", task, "--session", "mine")
        return
    async with admin_of(host) as admin:
        made = (await admin.post("/api/sessions", json={"task": task})).json()
    client.connect_to(made["mcp_url"], made["token"])


def results(events: list[Event], tool: str) -> list[Event]:
    """What came of the calls of a tool."""
    calls = {event.seq for event in events if event.type == "call" and event["tool"] == tool}
    return [event for event in events if event.type == "result" and event["call"] in calls]
