"""Our sandbox as one of Inspect's: ``--sandbox mlgym``."""

from __future__ import annotations

import errno
import os
import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, overload

import anyio
from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxConnection,
    SandboxEnvironment,
    SandboxEnvironmentLimits,
    SandboxUnavailableError,
    SandboxUserUnsupportedError,
    sandboxenv,
)
from pydantic import BaseModel

from mlgym_clients.inspect.commands import run_to_end
from mlgym_clients.inspect.options import FILE, SandboxOptions, options_of
from mlgym_sandbox import (
    WORKSPACE,
    Backend,
    Sandbox,
    SandboxError,
    SandboxFileError,
    SandboxLostError,
    SandboxSpec,
    environment,
    get_backend,
)
from mlgym_sandbox.processes import lives, process_started

LABEL = "mlgym.inspect"
"""On every sandbox that Inspect made: which process it was, and on which machine."""
_PROBE_S = 10.0
_CANNOT_BE_RUN = 126
_NOT_FOUND = 127
_automatic: list[str] = []
"""Which backend ``auto`` is, once it was asked: looking makes a sandbox, which is too much for every sample."""
_SAID = (
    ("does not exist", errno.ENOENT),
    ("is not a directory", errno.ENOTDIR),
    ("a directory", errno.EISDIR),
    ("permi", errno.EACCES),
    ("read-only", errno.EACCES),
    ("not for file operations", errno.EACCES),
    ("no space", errno.ENOSPC),
    ("quota", errno.EDQUOT),
)
"""Words of the sandbox on a file, and the number of the error that Python makes of it."""


@sandboxenv(name="mlgym")
class MLGymSandbox(SandboxEnvironment):
    """One sandbox of one sample.

    Args:
        box: the sandbox, connected.
        backend: which made it.
    """

    def __init__(self, box: Sandbox, backend: Backend) -> None:
        super().__init__()
        self._box = box
        self._backend = backend
        self._users: frozenset[str] | None = None

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,  # noqa: A002 - Inspect's name
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """Run a command to its end; of much output the end is kept. See Inspect's ``SandboxEnvironment.exec``.

        Raises:
            SandboxUserUnsupportedError: another user than the sandbox's own: nobody may become one.
            SandboxUnavailableError: the sandbox is gone.
            TimeoutError: it took too long, and was killed with all it started.
            PermissionError: it may not be executed.
        """
        await self._allow(user)
        try:
            ended = await run_to_end(
                self._box,
                cmd,
                given=input.encode() if isinstance(input, str) else input or b"",
                cwd=cwd,
                env=env,
                timeout_s=timeout,
                limit=SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE,
            )
        except SandboxLostError as exc:
            raise SandboxUnavailableError(str(exc)) from exc
        except SandboxFileError as exc:
            return ExecResult(success=False, returncode=_CANNOT_BE_RUN, stdout="", stderr=f"{exc}\n")
        except SandboxError as exc:
            if str(exc).endswith(os.strerror(errno.EACCES)):
                raise PermissionError(str(exc)) from exc
            code = _NOT_FOUND if str(exc).endswith(os.strerror(errno.ENOENT)) else _CANNOT_BE_RUN
            return ExecResult(success=False, returncode=code, stdout="", stderr=f"{exc}\n")
        if ended.reason == "timeout":
            raise TimeoutError(f"the command took longer than {timeout} s and was killed")
        return ExecResult(
            success=ended.exit_code == 0,
            returncode=ended.exit_code,
            stdout=ended.stdout.decode(errors="replace"),
            stderr=ended.stderr.decode(errors="replace"),
        )

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """Write a whole file. See Inspect's ``SandboxEnvironment.write_file``."""
        with _as_python_says(file):
            await self._box.write_file(file, contents.encode() if isinstance(contents, str) else contents)

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        """Return a whole file. See Inspect's ``SandboxEnvironment.read_file``."""
        most = SandboxEnvironmentLimits.MAX_READ_FILE_SIZE
        with _as_python_says(file):
            size = (await self._box.read_file(file, limit=0)).size
            chunk = await self._box.read_file(file, limit=most) if size <= most else None
        if chunk is None or chunk.size > most:
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None)
        return chunk.data.decode() if text else chunk.data

    async def connection(self, *, user: str | None = None) -> SandboxConnection:
        """Return how a person gets a shell in it, which only Docker's sandboxes give.

        Raises:
            NotImplementedError: this one gives none.
            ConnectionError: it is not running.
        """
        if self._backend.name != "docker":
            raise NotImplementedError(f"a sandbox of {self._backend.name} cannot be entered from outside")
        if self._box.lost is not None:
            raise ConnectionError(self._box.lost)
        await self._allow(user)
        name = f"mlgym-{self._box.name}"
        command = ["docker", "exec", "-it", "--user", "1000:1000", "--workdir", WORKSPACE, name, "bash", "-l"]
        return SandboxConnection(type="mlgym", command=shlex.join(command), container=name)

    def default_polling_interval(self) -> float:
        """Return how often Inspect looks after its own services here, seconds: a call costs about a millisecond."""
        return 0.2

    # --- making and removing them

    @classmethod
    def default_concurrency(cls) -> int | None:
        """Return how many there are at a time, if nobody says."""
        return 2 * (os.cpu_count() or 1)

    @classmethod
    def config_files(cls) -> list[str]:
        """Return the names of files that, beside a task, hold the options."""
        return [FILE]

    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        """Return the options that an Inspect log holds."""
        return SandboxOptions.model_validate(config)

    @classmethod
    async def task_init(cls, task_name: str, config: BaseModel | str | None) -> None:
        """Prepare what all samples need, and remove what dead evaluations left.

        Raises:
            ValueError: the options make no sense.
            SandboxError: a sandbox cannot be made here; the message says what mends it.
        """
        options = options_of(config)
        backend = await _backend(options)
        if backend.name != "docker":
            await environment.prepare(options.environment)
        with anyio.move_on_after(_PROBE_S), suppress(SandboxError, OSError):
            await _remove(backend, dead_only=True)

    @classmethod
    async def sample_init(
        cls, task_name: str, config: BaseModel | str | None, metadata: dict[str, str]
    ) -> dict[str, SandboxEnvironment]:
        """Make the sandbox of a sample; see ``task_init`` for what it raises."""
        options = options_of(config)
        backend = await _backend(options)
        spec = SandboxSpec(
            name=f"inspect-{secrets.token_hex(8)}",
            environment=options.environment,
            image=options.image,
            limits=options.limits(),
            mounts=options.shown(),
            env=options.env,
            labels={LABEL: _owner(), "mlgym.inspect.task": task_name},
            ttl_s=options.ttl_s,
        )
        return {"default": cls(await backend.create(spec), backend)}

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: BaseModel | str | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        """Remove the sandbox of a sample, also when the evaluation is cancelled."""
        with anyio.CancelScope(shield=True):
            for each in environments.values():
                await each.as_type(cls)._box.close()

    @classmethod
    async def cli_cleanup(cls, id: str | None) -> None:  # noqa: A002 - Inspect's name
        """Remove the sandbox of that name, or all that evaluations made which are no longer there."""
        for name in ("bubblewrap", "docker"):
            with anyio.move_on_after(_PROBE_S):
                try:
                    for gone in await _remove(get_backend(name), dead_only=id is None, only=id):
                        print(f"removed {gone}")  # noqa: T201 - Inspect's command line
                except (SandboxError, OSError) as exc:
                    print(f"{name}: {exc}")  # noqa: T201

    async def _allow(self, user: str | None) -> None:
        """Refuse commands of another user than the one that all commands run as."""
        if user is None:
            return
        if self._users is None:
            ended = await run_to_end(self._box, ["/bin/sh", "-c", "id -u; id -un"], limit=1000)
            self._users = frozenset(ended.stdout.decode(errors="replace").split())
        if user not in self._users:
            raise SandboxUserUnsupportedError(
                f"nobody becomes {user!r} in a sandbox of mlgym: all commands run as one user without rights"
            )


@contextmanager
def _as_python_says(file: str) -> Iterator[None]:
    """Turn what the sandbox says of a file into the errors that Python has for it."""
    try:
        yield
    except SandboxLostError as exc:
        raise SandboxUnavailableError(str(exc)) from exc
    except SandboxFileError as exc:
        why = str(exc).removeprefix(file).strip()
        raise OSError(next((number for words, number in _SAID if words in why), errno.EIO), why, file) from exc


async def _backend(options: SandboxOptions) -> Backend:
    """Return the backend that the options ask for.

    Raises:
        BackendUnavailableError: it cannot be used here.
    """
    if options.backend != "auto":
        return get_backend(options.backend, unsafe=options.unsafe)
    if not _automatic:
        _automatic.append(await _best())
    return get_backend(_automatic[0])


async def _best() -> str:
    """Return docker where an engine makes sandboxes, else bubblewrap."""
    try:
        docker = get_backend("docker")
        with anyio.fail_after(_PROBE_S):
            checks = await docker.probe()
        if checks and all(check.ok for check in checks if check.name != "gpu"):
            return docker.name
    except (SandboxError, OSError, TimeoutError):
        pass
    return "bubblewrap"


def _owner() -> str:
    pid = os.getpid()
    return f"{os.uname().nodename}:{pid}:{process_started(pid)}"


def _is_dead(owner: str) -> bool:
    """Whether the evaluation that made a sandbox ran on this machine and is over."""
    machine, _, process = owner.rpartition(":")[0].rpartition(":")
    started = owner.rpartition(":")[2]
    known = process.isdigit() and started.isdigit() and machine == os.uname().nodename
    return known and not lives(int(process), int(started))


async def _remove(backend: Backend, *, dead_only: bool, only: str | None = None) -> list[str]:
    """Remove sandboxes that Inspect made; return their names."""
    removed = []
    for found in await backend.find({}):
        owner = found.labels.get(LABEL)
        if owner is None or (only is not None and found.name != only) or (dead_only and not _is_dead(owner)):
            continue
        await backend.remove(found.name)
        removed.append(found.name)
    return removed
