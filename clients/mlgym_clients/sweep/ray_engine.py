"""The engine of a Ray cluster: an attempt is a task with the CPUs, memory and GPUs that it needs.

Every node has one session server, owned by an actor of the sweep's; a task plays against its own node's. Ray repeats
nothing by itself (it would do so silently, and agents' calls have effects): what is lost comes back as such, and the
sweep tries it again, on whatever node has room. Ray's state is never the truth; the sweep's ledger is.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from pydantic import TypeAdapter, ValidationError

from mlgym_clients.sweep.attempt import Finished, Lost, Needs, News, Order, Verdict
from mlgym_clients.sweep.engine import EngineError
from mlgym_clients.sweep.node_server import NodeServer, played, until_there
from mlgym_clients.sweep.spec import AgentSpec
from mlgym_mcp.api import TaskSummary

_LOOK_S = 1.0
_START_S = 240.0
_TASKS = TypeAdapter(list[TaskSummary])
_LOOPBACK = "127.0.0.1"


class RayEngine:
    """Plays attempts on an existing cluster.

    Args:
        agents: by name; they are made on the nodes, where their keys have to be.
        address: of the cluster's head, ``HOST:PORT``, or ``auto``.
        sweep: its id, so that its servers are nobody else's.
        arguments: of ``mlgym-mcp serve`` on the nodes.
    """

    def __init__(
        self, agents: Mapping[str, AgentSpec], address: str, sweep: str, arguments: Sequence[str] = ()
    ) -> None:
        self._agents = {name: agent.model_dump(mode="json") for name, agent in agents.items()}
        self._address = address
        self._sweep = sweep
        self._arguments = list(arguments)
        self._ray: Any = None
        self._task: Any = None
        self._servers: dict[str, Any] = {}
        self._nodes: list[dict[str, Any]] = []

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Join the cluster and start a session server on every node that has CPUs.

        Raises:
            EngineError: Ray is not installed, the cluster cannot be reached or has no nodes for attempts.
        """
        self._ray = _load(self._address)
        try:
            self._ray.init(address=self._address, namespace=self._namespace, log_to_driver=False, **self._loopback())
        except Exception as exc:
            raise EngineError(f"there is no Ray cluster at {self._address}: {str(exc)[:500]}") from exc
        try:
            self._task = self._ray.remote(_attempt)
            await self._look()
            if not self._servers:
                raise EngineError("the Ray cluster has no node with CPUs")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch)
                try:
                    yield
                finally:
                    tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._end()

    async def tasks(self) -> list[TaskSummary]:
        """Return the tasks of the first node whose server answers.

        Raises:
            EngineError: no node's server does.
        """
        problem = "no node has a server"
        for server in list(self._servers.values()):
            try:
                with anyio.fail_after(_START_S):
                    return _TASKS.validate_json(await server.tasks.remote())
            except (self._ray.exceptions.RayError, TimeoutError, ValidationError) as exc:
                problem = _told(exc)
        raise EngineError(problem)

    @property
    def capacity(self) -> int:
        """As many attempts as the cluster has CPUs; Ray lets those wait for which there is no room."""
        return max(1, int(sum(node["Resources"].get("CPU", 0) for node in self._nodes)))

    def facts(self) -> dict[str, Any]:
        """Return what the cluster has."""
        shown = ("CPU", "GPU", "memory")
        nodes = [
            {"node": node["NodeManagerHostname"], **{k: v for k, v in node["Resources"].items() if k in shown}}
            for node in self._nodes
        ]
        return {"engine": "ray", "ray": self._ray.__version__, "nodes": nodes}

    async def play(self, order: Order, tell: Callable[[News], None], folder: Path) -> Verdict:
        """Play one try on the node that Ray chooses."""
        if not any(_fits(order.needs, node["Resources"]) for node in self._nodes):
            needs = order.needs
            return Lost(f"no node has {needs.cpus:g} CPUs, {needs.memory_mb} MiB and {needs.gpus} GPUs")
        options = {
            "num_cpus": order.needs.cpus,
            "num_gpus": order.needs.gpus,
            "memory": order.needs.memory_mb << 20,
            "num_returns": "streaming",
            "max_retries": 0,
            "scheduling_strategy": "SPREAD",
            "name": order.attempt.id,
        }
        stream = self._task.options(**options).remote(order, self._agents[order.attempt.agent], self._namespace)
        try:
            async for reference in stream:
                item = await reference
                if isinstance(item, Finished | Lost):
                    return item
                tell(item)
        except self._ray.exceptions.RayError as exc:
            return Lost(_told(exc))
        except anyio.get_cancelled_exc_class():
            with contextlib.suppress(Exception):
                self._ray.cancel(stream)
            raise
        return Lost("the task ended without a verdict")

    async def _watch(self) -> None:
        """Give new nodes a server, and forget those that are gone."""
        while True:
            await anyio.sleep(_LOOK_S)
            with contextlib.suppress(Exception):  # the cluster is in trouble: attempts will say so
                await self._look()

    async def _look(self) -> None:
        nodes = await anyio.to_thread.run_sync(self._ray.nodes)
        self._nodes = [node for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
        alive = {node["NodeID"] for node in self._nodes}
        for node in self._servers.keys() - alive:
            del self._servers[node]
        for node in alive - self._servers.keys():
            self._servers[node] = self._start_server(node)

    def _start_server(self, node: str) -> Any:
        here = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        actor = self._ray.remote(NodeServer).options(
            name=node,
            namespace=self._namespace,
            num_cpus=0,
            max_restarts=3,
            max_concurrency=4,
            scheduling_strategy=here(node_id=node, soft=False),
            get_if_exists=True,
        )
        return actor.remote(f"{self._sweep}-{node[:8]}", self._arguments)

    async def _end(self) -> None:
        with contextlib.suppress(Exception), anyio.move_on_after(60):
            async with anyio.create_task_group() as tasks:
                for server in self._servers.values():
                    tasks.start_soon(self._end_server, server)
        await anyio.to_thread.run_sync(self._ray.shutdown)

    async def _end_server(self, server: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            await server.stop.remote()

    def _loopback(self) -> dict[str, Any]:
        return {"_node_ip_address": _LOOPBACK} if self._address.startswith(f"{_LOOPBACK}:") else {}

    @property
    def _namespace(self) -> str:
        return f"mlgym-{self._sweep}"


def _attempt(order: Order, agent: Mapping[str, Any], namespace: str) -> Iterator[News | Verdict]:
    """Run as a task: plays against the server of the node that it finds itself on."""
    ray: Any = importlib.import_module("ray")
    node = ray.get_runtime_context().get_node_id()

    def address() -> tuple[str, str]:
        server = until_there(lambda: ray.get_actor(node, namespace=namespace))
        url, token = ray.get(server.address.remote(), timeout=_START_S)
        return str(url), str(token)

    yield from played(order, agent, address)


def _load(address: str) -> Any:
    """Import Ray, with what it has to know before it is.

    Raises:
        EngineError: it is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise EngineError("the engine ray needs Ray: pip install 'mlgym-mcp[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address.startswith(f"{_LOOPBACK}:"):  # else Ray dials this machine's own address, where nobody listens
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    return importlib.import_module("ray")


def _fits(needs: Needs, there: Mapping[str, float]) -> bool:
    return (
        there.get("CPU", 0) >= needs.cpus
        and there.get("GPU", 0) >= needs.gpus
        and there.get("memory", 0) >= needs.memory_mb << 20
    )


def _told(error: BaseException) -> str:
    """Return what happened to a task or an actor, in a line."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:1000]
