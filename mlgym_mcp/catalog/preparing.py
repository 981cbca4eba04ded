"""Prepares a task's data: sources, generator, vault. All of it appears at once, or nothing does."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.abc import UNIXSocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from mlgym_mcp.catalog import sources
from mlgym_mcp.catalog.catalog import Task
from mlgym_mcp.catalog.confined import boot
from mlgym_mcp.catalog.errors import DataError
from mlgym_mcp.catalog.prepared import (
    MANIFEST,
    Manifest,
    Places,
    Prepared,
    ensure_world,
    find_prepared,
    prepared,
    survey,
    walk,
)
from mlgym_sandbox import environment
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.locking import locked

Progress = Callable[[float, str], None]
P = ParamSpec("P")
T = TypeVar("T")

_BOOT: Final = boot("mlgym_mcp.catalog.building")
_LIMITER: Final = CapacityLimiter(2)
_LOG_BYTES: Final = 4000
_LINE_BYTES: Final = 1 << 16
_FETCHED: Final = 0.6
"""The share of the progress that fetching sources takes, when there are any."""


async def prepare(
    task: Task,
    preset: str,
    *,
    progress: Progress | None = None,
    python: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Prepared:
    """Return a preset's data, making it first if it is missing or broken.

    Safe to call from several processes at once: one builds, the others wait. Killed or cancelled at any
    moment it leaves nothing that could be taken for data; downloads go on where they stopped.

    Args:
        task: the task.
        preset: which preset.
        progress: told the fraction done, and what is being done.
        python: the interpreter for the generator; default: that of the data's environment, prepared if need be.
        environ: where addresses of mirrors are read; default: the process's environment.

    Raises:
        TaskError: no such preset; DataError, SourceError: the data cannot be had, with the reason.
        OSError: no disk.
    """
    say = progress or (lambda _fraction, _text: None)
    task.preset(preset)
    if (found := await _off_loop(find_prepared, task, preset)) is not None:
        return found
    secret = await _off_loop(ensure_world, task)
    places = Places.of(task, preset, secret)
    lock = places.public.with_name(f".{preset}.lock")
    async with locked(lock, lambda: say(0.0, f"another process is preparing {task.id}/{preset}; waiting for it")):
        if (found := await _off_loop(find_prepared, task, preset)) is not None:
            return found
        await _off_loop(_sweep, preset, places)
        return await _prepare(task, preset, places, secret, say, python, environ)


async def _prepare(
    task: Task,
    preset: str,
    places: Places,
    secret: bytes,
    say: Progress,
    python: Path | None,
    environ: Mapping[str, str] | None,
) -> Prepared:
    data = task.preset(preset).data
    wanted = [task.lock.source(name) for name in data.sources]
    share = _FETCHED if wanted else 0.0
    files: dict[str, Path] = {}
    if wanted:
        files = await sources.fetch(wanted, progress=lambda done, text: say(share * done, text), environ=environ)
    tag = f".{preset}.{secrets.token_hex(4)}.partial"
    public, vault = places.public.with_name(tag), places.vault.with_name(tag)
    try:
        for folder in (public, vault, vault / "private"):
            folder.mkdir(mode=0o700)
        if data.kind != "none":
            order = {
                "task": task.id,
                "preset": preset,
                "params": dict(task.preset(preset).params),
                "folder": str(task.folder),
                "entrypoint": data.generator,
                "timeout_s": data.timeout_s,
                "public": str(public),
                "private": str(vault / "private"),
                "secret": secret.hex(),
                "sources": {name: str(path) for name, path in files.items()},
            }
            interpreter = python or await _interpreter(data.environment, say)
            log = vault / "generator.log"
            await _generate(interpreter, order, log, lambda done, text: say(share + (0.95 - share) * done, text))
            log.unlink()
        say(0.97, "checking")
        sums = {source.name: await _off_loop(sources.known_checksum, source) for source in wanted}
        manifest = await _off_loop(_seal, task, preset, places.recipe, sums, public, vault)
        await _off_loop(_publish, public, vault, places)
    finally:
        with anyio.CancelScope(shield=True):
            for folder in (public, vault):
                await _off_loop(shutil.rmtree, folder, True)
    say(1.0, f"the data of {task.id}/{preset} is ready")
    return prepared(task, preset, places, manifest)


async def _interpreter(name: str, say: Progress) -> Path:
    try:
        return (await environment.prepare(name, lambda line: say(0.0, line))).python
    except SandboxError as error:
        raise DataError(f"the Python environment that makes the data cannot be prepared: {error}") from error


async def _generate(python: Path, order: Mapping[str, Any], log: Path, say: Progress) -> None:
    """Run a generator to its end in a process of its own."""
    task = order["task"]
    last: dict[str, Any] = {}
    try:
        with anyio.fail_after(order["timeout_s"]):
            async with _process(python, log) as control:
                await control.send(json.dumps(order).encode() + b"\n")
                lines = BufferedByteReceiveStream(control)
                with contextlib.suppress(anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError):
                    while "done" not in last:
                        last = json.loads(await lines.receive_until(b"\n", _LINE_BYTES))
                        if "fraction" in last:
                            say(float(last["fraction"]), str(last["text"]))
    except TimeoutError:
        raise DataError(f"the generator of {task} did not finish within {order['timeout_s']:g} s") from None
    except OSError as error:
        raise DataError(f"the generator of {task} cannot be run with {python}: {error}") from error
    if last.get("done") is not True:
        text = (await _off_loop(log.read_bytes))[-_LOG_BYTES:].decode(errors="replace").strip()
        reason = last.get("error", "it was killed")
        raise DataError(f"the generator of {task} failed: {reason}" + (f"\n{text}" if text else ""))


@contextlib.asynccontextmanager
async def _process(python: Path, log: Path) -> Any:
    """A generator's process and our end of its channel; it dies when the block ends, or we do."""
    ours, theirs = socket.socketpair()
    alive_read, alive_write = os.pipe()
    try:
        ours.setblocking(False)
        with log.open("wb") as out:
            package = Path(__file__).resolve().parent.parent
            process = await anyio.open_process(
                [str(python), "-I", "-B", "-c", _BOOT, str(package), str(theirs.fileno()), str(alive_read)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env=_environment(log.parent),
                start_new_session=True,
                pass_fds=(theirs.fileno(), alive_read),
            )
        theirs.close()
        try:
            async with await UNIXSocketStream.from_socket(ours) as control:
                yield control
        finally:
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                with anyio.move_on_after(5):
                    await process.wait()
                await process.aclose()
    finally:
        theirs.close()
        ours.close()
        os.close(alive_read)
        os.close(alive_write)


def _environment(folder: Path) -> dict[str, str]:
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    base = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(folder)}
    return base | dict.fromkeys(threads, "1")


def _seal(task: Task, preset: str, recipe: str, sums: Mapping[str, str], public: Path, vault: Path) -> Manifest:
    """Set modes, make all of it durable, write the manifest."""
    manifest = Manifest(
        task=task.id,
        version=task.spec.task.version,
        preset=preset,
        recipe=recipe,
        sources=sums,
        public=survey(public),
        private=survey(vault / "private"),
    )
    hidden = {facts.sha256: name for name, facts in manifest.private.items() if facts.bytes}
    for name, facts in manifest.public.items():
        if facts.sha256 in hidden:
            raise DataError(f"the generator of {task.id} published its private file {hidden[facts.sha256]} as {name}")
    # A sandbox may run as another user; the folder above lets nobody else near.
    for folder, file_mode, folder_mode in ((public, 0o644, 0o755), (vault, 0o600, 0o700)):
        for _, path in walk(folder):
            path.chmod(file_mode)
            _sync(path)
        for below in _folders(folder):
            below.chmod(folder_mode)
            _sync(below)
    path = vault / MANIFEST
    path.write_text(json.dumps(manifest.as_json(), indent=1) + "\n", encoding="utf-8")
    path.chmod(0o600)
    _sync(path)
    _sync(vault)
    return manifest


def _publish(public: Path, vault: Path, places: Places) -> None:
    """Give both folders their names: the vault first, so that data that can be seen can be graded."""
    vault.rename(places.vault)
    public.rename(places.public)
    for folder in (places.vault.parent, places.public.parent):
        _sync(folder)


def _sweep(preset: str, places: Places) -> None:
    """Remove what earlier, killed preparations left, and data that is broken; we hold the lock."""
    for parent in {places.public.parent, places.vault.parent}:
        for left in parent.glob(f".{preset}.*.partial"):
            shutil.rmtree(left, ignore_errors=True)
    for place in (places.public, places.vault):
        if place.exists():
            away = place.with_name(f".{preset}.{secrets.token_hex(4)}.partial")
            place.rename(away)
            shutil.rmtree(away, ignore_errors=True)


def _folders(folder: Path) -> Iterator[Path]:
    for root, _, _ in os.walk(folder, topdown=False):
        yield Path(root)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _off_loop(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await to_thread.run_sync(lambda: work(*args, **kwargs), limiter=_LIMITER)
