"""Sandboxes made by bubblewrap: namespaces on this machine's own system, read-only; no daemon, no image.

What is enforced depends on who runs the server; ``enforcement`` tells. A sandbox is a detached process tree with
a folder below ``run/bubblewrap``; it outlives the server, and any later server finds it there, connects to its
runner again, and removes all of it.
"""

from __future__ import annotations

import os
import resource
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from mlgym_sandbox import cgroups, disk, environment
from mlgym_sandbox.backends import bubblewrap_gpus, bubblewrap_setup, bubblewrap_state
from mlgym_sandbox.backends.base import Backend, Found
from mlgym_sandbox.backends.bubblewrap_setup import Setup
from mlgym_sandbox.backends.bubblewrap_state import SOCKETS, State
from mlgym_sandbox.backends.bubblewrap_view import RUNNER_PATH, command_environment, lay_out
from mlgym_sandbox.environment import BARE, INSIDE, Environment
from mlgym_sandbox.errors import BackendUnavailableError, SandboxError, SandboxLostError
from mlgym_sandbox.home import home
from mlgym_sandbox.identities import AGENT, RUNNER, Identities
from mlgym_sandbox.inside import compiled_runner, runner_config
from mlgym_sandbox.launching.order import LISTENER, LOG, OOM_COUNTER
from mlgym_sandbox.sandbox import Sandbox
from mlgym_sandbox.spec import Check, SandboxSpec

if TYPE_CHECKING:
    from mlgym_sandbox.launching.order import Order, Users

T = TypeVar("T")
MIB = 1 << 20
_IMAGE = "workspace.img"
_SHED = Path(environment.__file__).parent / "launching" / "shed.py"
_ANSWER_S = 20.0
_STARTS_AT_ONCE = max(2, 2 * (os.cpu_count() or 1))


class BubblewrapBackend(Backend):
    """Sandboxes on this machine without a daemon.

    Args:
        users: insist on one way to tell runner and commands apart; default: the best that works.
        limits: ``False`` does without control groups even where they can be had.
        sized: ``False`` does without workspaces of a hard size even where they can be had.
    """

    name = "bubblewrap"

    def __init__(self, *, users: Users | None = None, limits: bool = True, sized: bool = True) -> None:
        self._look = partial(bubblewrap_setup.look, users=users, limits=limits, sized=sized)
        self._setup: Setup | None = None
        self._threads: anyio.CapacityLimiter | None = None

    async def probe(self) -> Sequence[Check]:
        """Look at what bubblewrap needs by starting one. See ``Backend.probe``."""
        try:
            setup = await self._off_loop(self._look)
        except BackendUnavailableError as error:
            what, _, how = str(error).partition("; ")
            return [Check("bubblewrap works", False, what, how or None)]
        self._setup = setup
        return bubblewrap_setup.checks(setup)

    async def enforcement(self) -> Mapping[str, str]:
        """Return what is limited by what in sandboxes made here.

        Raises:
            BackendUnavailableError: none can be made.
        """
        return (await self._found()).enforcement()

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Make a sandbox and connect to its runner. See ``Backend.create``."""
        setup = await self._found()
        devices = await self._off_loop(bubblewrap_gpus.nodes, spec.gpus)
        python = await self._environment(spec.environment)
        state = State(
            spec.name,
            dict(spec.labels),
            secrets.token_bytes(32).hex(),
            bubblewrap_state.boot_id(),
            setup.identities(),
            _plain(setup.hierarchy),
        )
        await self._off_loop(bubblewrap_state.make, state)  # from here on the name is ours
        try:
            await self._off_loop(_launch, setup, spec, python, state, devices)
            return await self._connect(state)
        except BaseException as error:
            said = await self._discard(state)
            if isinstance(error, SandboxLostError):
                raise SandboxError(f"the sandbox {spec.name} did not start: {said or error}") from error
            if isinstance(error, OSError):
                raise SandboxError(f"the sandbox {spec.name} could not be made: {error}") from error
            raise

    async def find(self, labels: Mapping[str, str]) -> Sequence[Found]:
        """All sandboxes with these labels. See ``Backend.find``."""
        return await self._off_loop(_find, dict(labels))

    async def relabel(self, name: str, labels: Mapping[str, str]) -> None:
        """Write the labels anew. See ``Backend.relabel``."""
        if not await self._off_loop(bubblewrap_state.relabel, name, labels):
            raise SandboxLostError(f"there is no sandbox named {name!r}")

    async def attach(self, name: str) -> Sandbox:
        """Connect to a running sandbox again. See ``Backend.attach``."""
        state = await self._off_loop(bubblewrap_state.load, name)
        if state is None or not await self._off_loop(bubblewrap_state.running, state):
            raise SandboxLostError(f"there is no running sandbox named {name!r}")
        return await self._connect(state)

    async def remove(self, name: str) -> None:
        """Kill a sandbox and remove all of it. See ``Backend.remove``."""
        with anyio.CancelScope(shield=True):  # bounded: every wait in there is
            await self._off_loop(_remove, name)

    async def _connect(self, state: State) -> Sandbox:
        stream = await SOCKETS.connect(state.name)
        return await Sandbox.connect(
            state.name,
            stream,
            bytes.fromhex(state.magic),
            remove=partial(self.remove, state.name),
            timeout_s=_ANSWER_S,
        )

    async def _discard(self, state: State) -> str:
        """Undo a failed or cancelled create; return what bubblewrap or the runner had to say."""
        with anyio.CancelScope(shield=True):
            said = await self._off_loop(_log, state)
            try:
                await self._off_loop(_remove, state.name)
            except SandboxError:
                pass  # what brought us here is the error to report; `find` still lists the rest
        return said

    async def _environment(self, name: str) -> Environment:
        found = await self._off_loop(environment.find, name)
        if found is None and name == BARE:
            return await environment.prepare(BARE)
        if found is None:
            raise BackendUnavailableError(
                f"the Python environment {name!r} is not prepared; prepare it: mlgym-mcp environments prepare {name}"
            )
        return found

    async def _found(self) -> Setup:
        if self._setup is None:
            self._setup = await self._off_loop(self._look)
        return self._setup

    async def _off_loop(self, work: Callable[..., T], *args: object) -> T:
        """Run blocking work to its end even if we are cancelled: half a launch could not be undone."""
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(_STARTS_AT_ONCE)
        return await anyio.to_thread.run_sync(work, *args, limiter=self._threads)


def _launch(setup: Setup, spec: SandboxSpec, python: Environment, state: State, devices: Sequence[str]) -> None:
    """Make all that a sandbox consists of and start it. Leaves what it made when it fails."""
    folder, limits, who = state.folder, spec.limits, state.identities
    image = folder / _IMAGE if setup.why_no_image is None else None
    group: cgroups.Cgroup | None = None
    if setup.hierarchy is not None:
        group = cgroups.create(spec.name, limits, setup.hierarchy)
    if image is not None:
        disk.create(image, limits.storage_mb, home("run", "templates"))
    counted = group is not None or setup.scopes
    config = runner_config(
        transport="listen",
        listen_fd=LISTENER,
        agent_uid=AGENT if who.split else None,
        ttl_s=spec.ttl_s,
        env=command_environment(spec),
        output_bytes=limits.output_mb * MIB,
        storage_bytes=None if image else limits.storage_mb * MIB,
        disk_paths=("/workspace",),
        oom_fd=OOM_COUNTER if counted else None,
        cgroup_dir=None,
        nofile=limits.open_files,
        nproc=setup.process_limit(limits.pids),
        fsize_bytes=None if image else limits.storage_mb * MIB,
    )
    view = lay_out(
        spec,
        python,
        who,
        runner=compiled_runner(_SHED.read_text(encoding="utf-8")),
        config=config,
        state=folder / "jobs",
        workspace=None if image else folder / "workspace",
        version=setup.version,
        devices=devices,
    )
    rlimits = {resource.RLIMIT_CORE: 0}
    if not counted:
        # Not what the sandbox holds together, but at least no single process can take the machine's memory.
        rlimits[resource.RLIMIT_DATA] = limits.memory_mb * MIB
    listener = SOCKETS.listen(spec.name)
    try:
        order: Order = {
            "action": "start",
            "folder": str(folder),
            "users": who.users,
            "uids": who.uids,
            "gids": who.gids,
            "newuidmap": who.newuidmap,
            "newgidmap": who.newgidmap,
            "entrances": [str(path) for path in group.entrances] if group else [],
            "oom_counter": str(group.oom_counter) if group else "scope" if setup.scopes else None,
            "rlimits": rlimits,
            "image": str(image) if image else None,
            "sources": view.sources,
            "memory_folders": view.memory_folders,
            "owners": {"workspace": AGENT, "state": RUNNER},
            "memory_files": view.memory_files,
            "listener": listener.fileno(),
            "bwrap": setup.bwrap,
            "arguments": view.arguments,
            "command": [f"{INSIDE}/bin/python", "-I", "-S", "-B", RUNNER_PATH],
        }
        prefix = cgroups.scope_command(spec.name, limits) if setup.scopes else []
        bubblewrap_setup.launch(order, tuple(prefix))
    finally:
        listener.close()  # the runner has its own; should it die, connecting fails instead of hanging


def _find(labels: Mapping[str, str]) -> Sequence[Found]:
    wanted = labels.items()
    return tuple(
        Found(state.name, state.labels, bubblewrap_state.running(state))
        for state in bubblewrap_state.every()
        if wanted <= state.labels.items()
    )


def _remove(name: str) -> None:
    state = bubblewrap_state.load(name)
    folder = bubblewrap_state.root() / name
    if state is None:
        bubblewrap_state.erase(folder)
        return
    bubblewrap_state.kill(state)  # the first: a runner that outlived its jobs would report how they ended
    if state.cgroup is not None and (hierarchy := _hierarchy(state.cgroup)) is not None:
        cgroups.remove(name, hierarchy)  # and kill a launch that has not written its pids down yet
    if state.identities.users == "subuids":
        _erase_as_owner(folder, state.identities)
    bubblewrap_state.erase(folder)


def _erase_as_owner(folder: Path, who: Identities) -> None:
    """Empty the folders with files of the subordinate uid, which only a namespace that has it can delete."""
    for inner in (folder / "jobs", folder / "workspace"):
        order: Order = {
            "action": "erase",
            "folder": str(inner),
            "users": who.users,
            "uids": who.uids,
            "gids": who.gids,
            "newuidmap": who.newuidmap,
            "newgidmap": who.newgidmap,
            "entrances": [],
            "oom_counter": None,
            "rlimits": {},
            "image": None,
            "sources": {},
            "memory_folders": {},
            "owners": {},
            "memory_files": {},
            "listener": -1,
            "bwrap": "",
            "arguments": [],
            "command": [],
        }
        if inner.exists():
            bubblewrap_setup.launch(order)


def _log(state: State) -> str:
    try:
        return (state.folder / LOG).read_text(errors="replace").strip()[-2000:]
    except OSError:
        return ""


def _plain(hierarchy: cgroups.Hierarchy | None) -> tuple[int, Mapping[str, str]] | None:
    if hierarchy is None:
        return None
    return hierarchy.version, {name: str(root) for name, root in hierarchy.roots.items()}


def _hierarchy(plain: tuple[int, Mapping[str, str]]) -> cgroups.Hierarchy | None:
    roots = {name: Path(root) for name, root in plain[1].items()}
    return cgroups.Hierarchy(2 if plain[0] == 2 else 1, roots)
