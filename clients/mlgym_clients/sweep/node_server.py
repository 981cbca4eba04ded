"""What runs on the nodes of a cluster: a session server on each, and attempts that play against their node's."""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal

from mlgym_clients.sweep.attempt import Finished, Lost, News, Order, Verdict
from mlgym_clients.sweep.own_server import keeper_command

_LOOK_S = 0.5
_SERVER_S = 180.0
_LARGEST_FILE = 32 << 20
JOURNAL = "events.jsonl"
MESSAGES = "messages.jsonl"


class NodeServer:
    """A node's session server: the actor that owns its process. When it dies, however it does, the server ends.

    Args:
        label: names its folder, unlike that of any other node's or sweep's.
        arguments: of ``mlgym-mcp serve``.
    """

    def __init__(self, label: str, arguments: Sequence[str]) -> None:
        from mlgym_sandbox.home import home

        place = home("run", f"sweep-{label}")
        self._token = secrets.token_urlsafe(24)
        environment = {**os.environ, "MLGYM_ADMIN_TOKEN": self._token}
        if environment.get("CUDA_VISIBLE_DEVICES") == "":  # hidden from the actor, which needs none; sessions might
            del environment["CUDA_VISIBLE_DEVICES"]
        command = keeper_command(place / "server.lock", arguments)
        with (place / "server.log").open("ab") as log:
            self._keeper = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        assert self._keeper.stdout is not None
        port = self._keeper.stdout.readline().strip()
        if not port:
            said = (place / "server.log").read_text("utf-8", "replace")[-2000:].strip()
            raise RuntimeError(f"the node's server could not be started: {said or 'it said nothing'}")
        self._url = f"http://127.0.0.1:{int(port)}"

    def address(self) -> tuple[str, str]:
        """Return its URL, for programs on this node, and its admin token."""
        return self._url, self._token

    def tasks(self) -> bytes:
        """Return what can be attempted, as the control API has it."""
        request = urllib.request.Request(f"{self._url}/api/tasks", headers={"Authorization": f"Bearer {self._token}"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - its own
            return bytes(answer.read())

    def stop(self) -> None:
        """End the server and its sessions."""
        assert self._keeper.stdin is not None
        with contextlib.suppress(OSError):
            self._keeper.stdin.close()
        self._keeper.wait(90)


def played(order: Order, agent: Mapping[str, Any], address: Callable[[], tuple[str, str]]) -> Iterator[News | Verdict]:
    """Play one try on this node; yields what happens and, last of all, the verdict.

    Args:
        order: what to play.
        agent: who plays, as the sweep file has it.
        address: returns the URL and the admin token of the node's server.
    """
    node = os.uname().nodename
    try:
        url, token = address()
    except Exception as exc:  # noqa: BLE001 - whatever keeps the server away is no attempt's fault
        yield Lost(f"the node {node} has no server: {str(exc)[:1000]}")
        return
    news: queue.SimpleQueue[News] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory() as place, start_blocking_portal() as portal:
        future = portal.start_task_soon(_play, order, agent, url, token, news.put, Path(place), node)
        try:
            while not future.done() or not news.empty():
                with contextlib.suppress(queue.Empty):
                    yield news.get(timeout=_LOOK_S)
            yield future.result()
        finally:
            future.cancel()


async def _play(
    order: Order,
    agent: Mapping[str, Any],
    url: str,
    token: str,
    tell: Callable[[News], None],
    folder: Path,
    node: str,
) -> Verdict:
    from mlgym_clients.agents.registry import AgentOptionError
    from mlgym_clients.sweep.control import Control
    from mlgym_clients.sweep.playing import play_attempt, with_files
    from mlgym_clients.sweep.spec import AgentSpec

    try:
        player = AgentSpec.model_validate(agent).make()
    except AgentOptionError as exc:
        return Lost(f"{order.attempt.agent} cannot be made on {node}: {exc}", permanent=True, agent_only=True)
    async with Control(url, token) as control:
        verdict = await play_attempt(order, control, player, tell, folder=folder, node=node)
    return with_files(verdict, _files(verdict, folder)) if isinstance(verdict, Finished) else verdict


def _files(verdict: Finished, folder: Path) -> dict[str, bytes]:
    """Read what the machine that runs the sweep cannot reach."""
    from mlgym_sandbox.home import home

    found = {}
    for name, path in ((JOURNAL, home("episodes") / verdict.episode / JOURNAL), (MESSAGES, folder / MESSAGES)):
        with contextlib.suppress(OSError):
            if path.stat().st_size <= _LARGEST_FILE:
                found[name] = path.read_bytes()
    return found


def until_there(find: Callable[[], Any], seconds: float = _SERVER_S) -> Any:
    """Look for something until it is there.

    Raises:
        ValueError: it never was.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return find()
        except ValueError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_S)
