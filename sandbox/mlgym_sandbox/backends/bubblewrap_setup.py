"""What this machine lets bubblewrap sandboxes have, found out by trying it."""

from __future__ import annotations

import os
import platform
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import mlgym_sandbox
from mlgym_sandbox import cgroups, disk, seccomp
from mlgym_sandbox.backends.bubblewrap_view import trial_arguments
from mlgym_sandbox.environment import base_python
from mlgym_sandbox.errors import BackendUnavailableError, SandboxError
from mlgym_sandbox.identities import SINGLE, Identities, of_root, of_user
from mlgym_sandbox.launching import order as orders
from mlgym_sandbox.spec import Check

if TYPE_CHECKING:
    from mlgym_sandbox.launching.order import Order, Users

INSTALL = "sudo apt install bubblewrap   # or your distribution's package of that name"
OLDEST = (0, 7)
"""The first version of bubblewrap that can size a tmpfs."""

_LAUNCH_TIMEOUT_S = 20.0
_TRIAL_TIMEOUT_S = 10.0
_NPROC_PER_NAMESPACE = (5, 14)
"""Since this kernel the process limit counts within the user namespace; before, all that the user runs anywhere."""

# The launcher shares its modules with us, but must not pay for importing the package around them.
_START = (
    "import sys;p=type(sys)('mlgym_sandbox');p.__path__=[sys.argv[1]];sys.modules['mlgym_sandbox']=p;"
    "from mlgym_sandbox.launching.launch import main;main()"
)


@dataclass(frozen=True, slots=True)
class Setup:
    """How sandboxes are made here.

    Attributes:
        bwrap: path of bubblewrap.
        version: its version.
        users: how runner and commands are told apart.
        why_single: what is missing for two users, when there is only one.
        hierarchy: where control groups are made, if we may make any.
        scopes: systemd gives us scopes with limits.
        why_no_image: why workspaces have no hard size, or ``None`` when they have.
    """

    bwrap: str
    version: tuple[int, ...]
    users: Users
    why_single: str | None = None
    hierarchy: cgroups.Hierarchy | None = None
    scopes: bool = False
    why_no_image: str | None = None

    def identities(self) -> Identities:
        """Return the users of a new sandbox.

        Raises:
            SandboxError: what was there before is there no more.
        """
        if self.users == "single":
            return SINGLE
        found = of_root() if self.users == "mapped" else of_user()
        if isinstance(found, Identities):
            return found
        raise SandboxError(f"the sandbox's two users cannot be had any more: {found or 'not root'}")

    def process_limit(self, pids: int) -> int | None:
        """Return what to set as the limit of processes of the commands' user, if that is any use."""
        if self.users == "mapped":
            return pids
        return pids if _kernel() >= _NPROC_PER_NAMESPACE else None

    def enforcement(self) -> Mapping[str, str]:
        """Return what is limited by what, in words."""
        group = f"cgroup v{self.hierarchy.version}" if self.hierarchy else "systemd scope (cgroup v2)"
        limited = self.hierarchy is not None or self.scopes
        machine = seccomp.machine()
        processes = "per user (RLIMIT_NPROC)" if self.process_limit(1) else "not limited"
        return {
            "users": {
                "mapped": "two unused uids per sandbox",
                "subuids": "your uid for commands, a subordinate uid for the runner",
                "single": "one uid for commands and runner",
            }[self.users],
            "memory": group if limited else "per process (RLIMIT_DATA)",
            "processes": group if limited else processes,
            "cpu": group if limited else "thread counts only",
            "disk": "ext4 image" if self.why_no_image is None else "watcher and RLIMIT_FSIZE",
            "tmp": "tmpfs size",
            "network": "none but loopback",
            "system calls": f"filter for {machine.name}" if machine else "no filter for this processor",
            "oom": "counted" if limited else "not seen",
        }


def launch(order: Order, prefix: tuple[str, ...] = ()) -> None:
    """Run the launcher and wait for its report; blocks, half a second at the very most on an idle machine.

    Raises:
        SandboxError: it failed; with its reason.
    """
    package = str(Path(mlgym_sandbox.__file__).parent)
    command = [*prefix, str(base_python()), "-I", "-S", "-c", _START, package]
    listener = (order["listener"],) if order["listener"] >= 0 else ()
    try:
        done = subprocess.run(
            command,
            input=orders.encode(order),
            capture_output=True,
            pass_fds=listener,
            timeout=_LAUNCH_TIMEOUT_S,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SandboxError(
            f"the sandbox's launcher did not report within {_LAUNCH_TIMEOUT_S:.0f} s; is the machine overloaded?"
        ) from None
    except OSError as error:
        raise SandboxError(f"the sandbox's launcher could not be run: {error}") from error
    said = done.stdout.decode(errors="replace").strip()
    if said != "ok":
        said = said.removeprefix("error: ") or done.stderr.decode(errors="replace").strip()[-1000:]
        raise SandboxError(f"the sandbox could not be started: {said}")


def find_bwrap() -> tuple[str, tuple[int, ...]]:
    """Return bubblewrap's path and version.

    Raises:
        BackendUnavailableError: it is not installed, or too old.
    """
    path = shutil.which("bwrap")
    if path is None:
        raise BackendUnavailableError(f"bubblewrap is not installed; install it: {INSTALL}")
    try:
        done = subprocess.run([path, "--version"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendUnavailableError(f"{path} does not run ({error}); install it again: {INSTALL}") from error
    version = tuple(map(int, re.findall(r"\d+", done.stdout.decode(errors="replace"))))[:3]
    if version < OLDEST:
        shown = ".".join(map(str, version)) or "unknown"
        raise BackendUnavailableError(f"bubblewrap {shown} is too old, 0.7 is needed; install a newer one: {INSTALL}")
    return path, version


def look(*, users: Users | None = None, limits: bool = True, sized: bool = True) -> Setup:
    """Find out what can be had here. Blocks for some tens of milliseconds: call it on a thread, once.

    Args:
        users: insist on one way; default: the best that works.
        limits: ``False`` does without control groups.
        sized: ``False`` does without workspaces of a hard size.

    Raises:
        BackendUnavailableError: no sandbox can be started; with the command that mends it.
    """
    setup = replace(Setup(*find_bwrap(), users="single"), why_no_image=disk.possible() if sized else "not wanted")
    if limits:
        setup = replace(setup, hierarchy=cgroups.available())
        if setup.hierarchy is None:
            setup = replace(setup, scopes=cgroups.scopes_work())
    reason: str | None = None
    for way in (users,) if users else _ways():
        chosen = replace(setup, users=way, why_single=reason if way == "single" else None)
        identities = _identities(way)
        if isinstance(identities, str):
            reason = identities
            continue
        reason = _tried_twice(chosen, identities)
        if reason is None:
            return _without_failing_image(chosen)
    raise BackendUnavailableError(explain(reason or "no way to start a sandbox was found"))


def _ways() -> tuple[Users, ...]:
    if os.geteuid() != 0:
        return ("subuids", "single")
    # A root with hardly any uids is the only one of a user namespace. The machine's own root must never be the
    # agent, not even one without rights.
    return ("single",) if of_root() is None else ("mapped",)


def _identities(way: Users) -> Identities | str:
    if way == "mapped":
        return of_root() or "this process has too few uids of its own"
    return of_user() if way == "subuids" else SINGLE


def _without_failing_image(setup: Setup) -> Setup:
    """Loop devices may be there and still not be allowed: in containers, for one. Try."""
    if setup.why_no_image is not None or setup.users != "mapped":
        return setup if setup.why_no_image is not None else replace(setup, why_no_image="needs two users as root")
    with tempfile.TemporaryDirectory(prefix="mlgym-") as folder:
        image = Path(folder) / "image"
        try:
            disk.create(image, 8, Path(folder))
        except SandboxError as error:
            return replace(setup, why_no_image=str(error))
        identities = of_root()
        assert identities is not None
        reason = _tried_twice(setup, identities, image)
    return setup if reason is None else replace(setup, why_no_image=reason)


def _tried_twice(setup: Setup, identities: Identities, image: Path | None = None) -> str | None:
    """Try again what failed: what is found once holds for good, and a machine under load is late now and then."""
    return None if trial(setup, identities, image) is None else trial(setup, identities, image)


def trial(setup: Setup, identities: Identities, image: Path | None = None) -> str | None:
    """Start a sandbox that says one word; return why it could not, or ``None``."""
    said, say = os.pipe()
    try:
        with tempfile.TemporaryDirectory(prefix="mlgym-") as folder:
            view = trial_arguments(identities, setup.version, with_workspace=image is not None)
            order: Order = {
                "action": "start",
                "folder": folder,
                "users": identities.users,
                "uids": identities.uids,
                "gids": identities.gids,
                "newuidmap": identities.newuidmap,
                "newgidmap": identities.newgidmap,
                "entrances": (),
                "oom_counter": None,
                "rlimits": {},
                "image": str(image) if image else None,
                "sources": view.sources,
                "memory_folders": view.memory_folders,
                "owners": {"workspace": 1000} if image else {},
                "memory_files": view.memory_files,
                "listener": say,
                "bwrap": setup.bwrap,
                "arguments": view.arguments,
                "command": ("/bin/sh", "-c", "echo works >&3"),
            }
            try:
                launch(order)
            except SandboxError as error:
                return str(error)
            os.close(say)
            say = -1
            if _hear(said) == b"works\n":
                return None
            log = Path(folder, orders.LOG).read_text(errors="replace").strip()
            return log or "bubblewrap started, but nothing ran in it"
    finally:
        os.close(said)
        if say >= 0:
            os.close(say)


def _hear(said: int) -> bytes:
    data = b""
    end = time.monotonic() + _TRIAL_TIMEOUT_S
    while (left := end - time.monotonic()) > 0:
        if not select.select([said], [], [], left)[0] or not (piece := os.read(said, 64)):
            break
        data += piece
    return data


def explain(reason: str) -> str:
    """Return a sentence that tells what keeps bubblewrap from working and what to do."""
    return f"bubblewrap cannot make a sandbox here ({_last_line(reason)}); {mend(reason)}"


def mend(reason: str) -> str:
    """Return what to do about a failure, from what bubblewrap or the kernel said."""
    lowered = reason.lower()
    if _contained():
        return (
            "inside a container the container needs: --security-opt seccomp=unconfined --security-opt "
            "apparmor=unconfined --security-opt systempaths=unconfined (or --privileged)"
        )
    restricted = _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1"
    if restricted and ("uid map" in lowered or "rtm_newaddr" in lowered or "permission denied" in lowered):
        return (
            "AppArmor keeps user namespaces from ordinary programs; allow them: "
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        )
    if _sysctl("kernel/unprivileged_userns_clone") == "0":
        return "user namespaces are switched off; allow them: sudo sysctl -w kernel.unprivileged_userns_clone=1"
    if _sysctl("user/max_user_namespaces") == "0":
        return "user namespaces are switched off; allow them: sudo sysctl -w user.max_user_namespaces=15000"
    if "mount proc" in lowered:
        return "parts of /proc are hidden here, so it cannot be mounted anew; run the server outside that container"
    return "see `mlgym-mcp doctor`, or use the docker backend"


def checks(setup: Setup) -> list[Check]:
    """Return one line per thing that a working setup has or lacks."""
    two = setup.users != "single"
    have = setup.enforcement()
    limited = setup.hierarchy is not None or setup.scopes
    machine = seccomp.machine()
    user_hint = "sudo apt install uidmap && sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER"
    return [
        Check("bubblewrap", True, f"{setup.bwrap} {'.'.join(map(str, setup.version))}"),
        Check("bubblewrap users", two, have["users"] + _because(setup.why_single), None if two else user_hint),
        Check("bubblewrap memory, processes, cpu", limited, f"{have['memory']}; {have['processes']}; {have['cpu']}",
              None if limited else "run as root, or on a machine with systemd and cgroup v2"),
        Check("bubblewrap disk", setup.why_no_image is None, have["disk"] + _because(setup.why_no_image),
              None if setup.why_no_image is None else "run as root on a machine with loop devices"),
        Check("bubblewrap system calls", machine is not None, have["system calls"],
              None if machine else "use the docker backend on this processor"),
        Check("bubblewrap works", True, "a sandbox was started"),
    ]  # fmt: skip


def _contained() -> bool:
    return any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))


def _because(reason: str | None) -> str:
    return f" ({_last_line(reason)})" if reason else ""


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else text


def _sysctl(name: str) -> str | None:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return None


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])


assert sys.platform != "win32", "bubblewrap is for Linux"
