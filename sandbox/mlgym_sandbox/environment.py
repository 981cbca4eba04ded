"""Prepared Python environments: a virtual environment of pinned packages, shown read-only to sandboxes.

An environment is built once per lock file and interpreter, under a temporary name, and renamed when whole:
whoever sees it sees all of it. It is made with the base interpreter of the running program, so a sandbox
needs no Python of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread
from anyio.abc import Process

from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.home import home
from mlgym_sandbox.locking import locked

INSIDE = "/opt/env"
"""Where a sandbox sees its environment."""
BARE = "bare"
"""The environment with no packages: the interpreter and its standard library. Made in an instant."""

Progress = Callable[[str], None]
P = ParamSpec("P")
T = TypeVar("T")

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_MARKER = "mlgym-environment.json"
_INSTALL_TIMEOUT_S = 3600.0
_STEP_TIMEOUT_S = 900.0
_THREADS = anyio.CapacityLimiter(2)


@dataclass(frozen=True, slots=True)
class Environment:
    """A whole, ready environment.

    Attributes:
        name: ``light``, ``torch``, ``bare``, or another lock file's name.
        path: its folder on this machine; inside a sandbox it is at ``/opt/env``.
        python: its interpreter on this machine.
        base_prefix: the installation the interpreter belongs to; needed at this very path wherever it runs.
    """

    name: str
    path: Path
    python: Path
    base_prefix: Path


class PreparationError(SandboxError):
    """An environment that is unknown or could not be prepared; the message says what to do."""


def images() -> Path:
    """Return the folder of lock files and image recipes, in a checkout or in an installed package.

    Raises:
        PreparationError: neither is there.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "images", package.parent / "images"):
        if folder.is_dir():
            return folder
    raise PreparationError(
        f"the folder of lock files is missing: expected {package / 'images'}; install the package again"
    )


def names() -> tuple[str, ...]:
    """Return the names of all environments that can be prepared."""
    return (BARE, *sorted(file.stem for file in images().glob("*.txt")))


def lock_text(name: str) -> str:
    """Return the pinned requirements of an environment.

    Raises:
        PreparationError: there is none of that name.
    """
    if name == BARE:
        return ""
    if _NAME.fullmatch(name):
        try:
            return (images() / f"{name}.txt").read_text(encoding="utf-8")
        except FileNotFoundError:
            pass
    raise PreparationError(f"there is no environment {name!r}; there are: {', '.join(names())}")


def base_python() -> Path:
    """Return the interpreter that the running program's virtual environment, if any, was made from."""
    prefix = Path(sys.base_prefix).resolve()
    named = prefix / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    if os.access(named, os.X_OK):
        return named
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def _folder(name: str) -> Path:
    """Where the environment is, or would be: one per lock file, Python version, build and place."""
    key = json.dumps([lock_text(name), sys.version, platform.machine(), str(Path(sys.base_prefix).resolve())]).encode()
    return home("environments") / f"{name}-{hashlib.sha256(key).hexdigest()[:16]}"


def _environment(name: str, folder: Path) -> Environment:
    return Environment(name, folder, folder / "bin" / "python", Path(sys.base_prefix).resolve())


def find(name: str) -> Environment | None:
    """Return a prepared environment, or ``None`` when it is not prepared for this lock file and Python."""
    folder = _folder(name)
    return _environment(name, folder) if (folder / _MARKER).is_file() else None


def installed() -> tuple[Environment, ...]:
    """Return all environments that are prepared for this Python and the present lock files."""
    return tuple(found for name in names() if (found := find(name)) is not None)


async def prepare(name: str = "light", progress: Progress | None = None) -> Environment:
    """Return an environment, building it first if it is not there.

    Packages are fetched by pip with the user's own configuration. Safe to call from several processes at
    once: one builds, the others wait. If it is cancelled or killed nothing half-made is ever found.

    Args:
        name: which lock file.
        progress: called with each line of what is going on.

    Raises:
        PreparationError: unknown name, or the packages could not be installed; with pip's last words.
    """
    folder = await _off_loop(_folder, name)
    if (found := await _off_loop(find, name)) is not None:
        return found
    say = progress or (lambda _line: None)
    waiting = partial(say, "another process is preparing this environment; waiting for it")
    async with locked(folder.with_name(f".{folder.name}.lock"), waiting):
        if (found := await _off_loop(find, name)) is not None:
            return found
        for left in folder.parent.glob(f".{folder.name}.*.partial"):
            await _off_loop(shutil.rmtree, left, True)
        building = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
        try:
            await _build(name, building, say)
            await _off_loop(os.rename, building, folder)
        finally:
            with anyio.CancelScope(shield=True):
                await _off_loop(shutil.rmtree, building, True)
    say(f"environment {name} is ready: {folder}")
    return _environment(name, folder)


async def _build(name: str, building: Path, say: Progress) -> None:
    say(f"making the environment {name} with {base_python()}")
    command = [str(base_python()), "-I", "-m", "venv", "--without-pip", "--symlinks", str(building)]
    await _run(command, say, _STEP_TIMEOUT_S)
    if lock_text(name).strip():
        lock = images() / f"{name}.txt"
        await _run([*await _installer(building), "-r", str(lock)], say, _INSTALL_TIMEOUT_S)
        say("compiling")
        command = [str(building / "bin" / "python"), "-I", "-m", "compileall", "-q", "-q", "-j", "0"]
        command += ["-s", str(building), "-p", INSIDE, "--invalidation-mode", "unchecked-hash"]
        # A few packages ship files that are no valid Python on purpose, so a failure here means nothing.
        await _run([*command, str(building / "lib")], say, _STEP_TIMEOUT_S, check=False)
    await _off_loop(_settle, name, building)


def _settle(name: str, building: Path) -> None:
    """Make the tree movable and readable by other users, then mark it whole."""
    config = building / "pyvenv.cfg"
    kept = [line for line in config.read_text().splitlines() if not line.startswith(("command", "prompt"))]
    config.write_text("\n".join(kept) + "\n")
    ours, theirs = str(building).encode(), INSIDE.encode()
    for script in (building / "bin").iterdir():
        if script.name.lower().startswith("activate"):
            script.unlink()
        elif script.is_file() and not script.is_symlink():
            data = script.read_bytes()
            if data.startswith(b"#!") and ours in data:
                script.write_bytes(data.replace(ours, theirs))
    (building / _MARKER).write_text(json.dumps({"name": name, "python": platform.python_version()}) + "\n")
    # A sandbox may run as another user than the one whose umask made these.
    for root, _folders, files in os.walk(building):
        os.chmod(root, 0o755)  # noqa: PTH101,S103 - thousands of files: no Path each
        for file in files:
            path = f"{root}/{file}"
            mode = os.lstat(path).st_mode
            if mode & 0o170000 == 0o100000:
                os.chmod(path, 0o755 if mode & 0o100 else 0o644)  # noqa: PTH101


async def _installer(building: Path) -> list[str]:
    """The command that installs into the new environment: the first that is here."""
    python = str(building / "bin" / "python")
    flags = ["--no-input", "--disable-pip-version-check", "--no-compile", "--progress-bar", "off"]
    for candidate in dict.fromkeys((sys.executable, str(base_python()))):
        # ``--python`` came with pip 22.3: older ones refuse it here.
        if await _works([candidate, "-m", "pip", "--python", python, "--version"]):
            return [candidate, "-m", "pip", "--python", python, "install", *flags]
    for uv in ([sys.executable, "-m", "uv"], ["uv"]):
        if await _works([*uv, "--version"]):
            return [*uv, "pip", "install", "--python", python]
    if await _works([python, "-I", "-m", "ensurepip"]):
        return [python, "-m", "pip", "install", *flags]
    raise PreparationError(
        "no pip was found to install packages with; install one: sudo apt install python3-pip python3-venv"
    )


def _clean_environment() -> Mapping[str, str]:
    unwanted = {
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONDONTWRITEBYTECODE",
        "VIRTUAL_ENV",
        "PIP_TARGET",
        "PIP_PREFIX",
    }
    return {k: v for k, v in os.environ.items() if k not in unwanted} | {"PYTHONNOUSERSITE": "1"}


async def _works(command: Sequence[str]) -> bool:
    try:
        await _run(command, lambda _line: None, 120.0)
    except (PreparationError, OSError):
        return False
    return True


async def _run(command: Sequence[str], say: Progress, timeout_s: float, *, check: bool = True) -> None:
    """Run a command, its output line by line to ``say``; it dies with us when we are cancelled."""
    last: list[str] = []
    try:
        with anyio.fail_after(timeout_s):
            async with _process(command) as process:
                async for line in _lines(process):
                    say(line)
                    last = [*last[-7:], line]
                code = await process.wait()
    except TimeoutError:
        raise PreparationError(
            f"`{_shown(command)}` took longer than {timeout_s:.0f} s and was stopped; try again"
        ) from None
    if code and check:
        raise PreparationError(f"`{_shown(command)}` failed with exit code {code}:\n" + "\n".join(last))


def _shown(command: Sequence[str]) -> str:
    return " ".join(command)


@asynccontextmanager
async def _process(command: Sequence[str]) -> AsyncIterator[Process]:
    process = await anyio.open_process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_clean_environment(),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                try:
                    os.killpg(process.pid, 9)  # pip's and the compiler's own children too
                except ProcessLookupError:
                    pass
            await process.aclose()


async def _lines(process: Process) -> AsyncIterator[str]:
    assert process.stdout is not None
    rest = b""
    async for data in process.stdout:
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace").rstrip()
        rest = rest[-65536:]
    if rest:
        yield rest.decode(errors="replace").rstrip()


async def _off_loop(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await anyio.to_thread.run_sync(lambda: work(*args, **kwargs), limiter=_THREADS)
