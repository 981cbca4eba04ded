"""The Docker engine, spoken to from an event loop: every call in a thread, with a deadline and clear errors."""

from __future__ import annotations

import functools
import os
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
import docker
import docker.errors
import requests.exceptions
from docker.context import ContextAPI
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env

from mlgym_sandbox.backends.docker_stream import EngineAddress
from mlgym_sandbox.cdi import cdi_devices
from mlgym_sandbox.errors import BackendUnavailableError, SandboxError

T = TypeVar("T")

CALL_S: Final = 30.0
"""How long an ordinary call to the engine may take."""
THREADS: Final = 32
SOME_VERSION: Final = "1.41"
"""Any version of the API: only for asking which one the engine speaks."""
DEFAULT_SOCKET: Final = "unix:///var/run/docker.sock"


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the engine says of itself; sizes in bytes."""

    version: str
    system: str
    cpus: int
    memory_bytes: int
    cgroup_version: str
    memory_limit: bool
    pids_limit: bool
    runtimes: frozenset[str] = frozenset()
    """Ways to run a container that it is configured with; NVIDIA's is called ``nvidia``."""
    cdi: frozenset[str] | None = None
    """Devices by their CDI names, or ``None`` when it knows nothing of CDI."""


class Engine:
    """One Docker engine (or podman's Docker-compatible service).

    Args:
        host: address; by default ``DOCKER_HOST`` with its TLS variables, else the docker command's current
            context, else the usual socket.
        environ: where those variables are read; default: the process's environment.
    """

    def __init__(self, host: str | None = None, environ: Mapping[str, str] | None = None) -> None:
        self._settings: dict[str, Any] | None = {"base_url": host} if host else None
        self._environ = environ
        self._client: docker.APIClient | None = None
        self._close: Callable[[], object] | None = None
        self._info: EngineInfo | None = None
        self._lock = threading.Lock()
        self._limiter = anyio.CapacityLimiter(THREADS)

    @property
    def settings(self) -> dict[str, Any]:
        """The SDK's ``base_url`` and ``tls``."""
        if self._settings is None:
            self._settings = _settings(os.environ if self._environ is None else self._environ)
        return self._settings

    @property
    def url(self) -> str:
        """Where the engine is expected, for messages."""
        return str(self.settings["base_url"])

    @functools.cached_property
    def address(self) -> EngineAddress:
        """Where to open attach streams."""
        tls = self.settings.get("tls")
        return EngineAddress(self.url, _ssl_context(tls) if isinstance(tls, TLSConfig) else None)

    async def call(
        self,
        do: Callable[[docker.APIClient], T],
        *,
        deadline_s: float = CALL_S,
        undo: Callable[[docker.APIClient], object] | None = None,
    ) -> T:
        """Run ``do`` with the SDK's client in a thread.

        A thread cannot be stopped: when this call is cancelled or runs out of time the thread goes on, and
        calls ``undo`` if what it did succeeded after all. The caller still undoes what was done *before* the
        cancellation, so nothing falls between.

        Raises:
            BackendUnavailableError: the engine does not answer.
            SandboxError: it did not finish within ``deadline_s`` seconds.
            docker.errors.APIError: it answered with an error.
        """
        abandoned = threading.Event()

        def work() -> T:
            client = self._connect()
            result = do(client)
            if undo is not None and abandoned.is_set():
                try:
                    undo(client)
                except (docker.errors.DockerException, requests.exceptions.RequestException):
                    pass  # nobody is left to tell; labels let a later sweep find it
            return result

        try:
            with anyio.fail_after(deadline_s):
                return await anyio.to_thread.run_sync(work, limiter=self._limiter, abandon_on_cancel=True)
        except TimeoutError as error:
            raise SandboxError(
                f"the Docker engine at {self.url} did not finish within {deadline_s:g} s; see its log, or restart it"
            ) from error
        except docker.errors.APIError:
            raise
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
            await self.aclose()
            if "paramiko" in str(error):  # what the SDK says when it cannot speak ssh
                raise BackendUnavailableError(
                    f"an engine at {self.url} needs paramiko: pip install 'docker[ssh]'"
                ) from error
            raise BackendUnavailableError(
                f"the Docker engine at {self.url} does not answer ({_innermost(error)}); "
                "start it (systemctl start docker, or Docker Desktop), or set DOCKER_HOST to one that runs"
            ) from error
        finally:
            abandoned.set()

    async def info(self) -> EngineInfo:
        """Return what the engine says of itself (asked once)."""
        if self._info is None:
            said = await self.call(lambda client: client.info())
            self._info = EngineInfo(
                version=str(said.get("ServerVersion", "?")),
                system=f"{said.get('OSType', '?')}/{said.get('Architecture', '?')}",
                cpus=int(said.get("NCPU") or 1),
                memory_bytes=int(said.get("MemTotal") or 0),
                cgroup_version=str(said.get("CgroupVersion", "1")),
                memory_limit=bool(said.get("MemoryLimit", True)),
                pids_limit=bool(said.get("PidsLimit", True)),
                runtimes=frozenset(said.get("Runtimes") or ()),
                cdi=self._cdi(said),
            )
        return self._info

    def _cdi(self, said: Mapping[str, Any]) -> frozenset[str] | None:
        """Newer engines list the devices; older ones with CDI only say where the specifications are."""
        if (listed := said.get("DiscoveredDevices")) is not None:
            return frozenset(str(device.get("ID")) for device in listed if device.get("Source") == "cdi")
        folders = said.get("CDISpecDirs") or ()
        return cdi_devices([Path(folder) for folder in folders]) if folders and self.address.local else None

    async def aclose(self) -> None:
        """Close idle connections. The engine can still be used afterwards."""
        with anyio.move_on_after(5, shield=True):
            await anyio.to_thread.run_sync(self._drop, limiter=self._limiter, abandon_on_cancel=True)

    def _drop(self) -> None:
        """Forget the client, so that the next call begins with fresh connections."""
        with self._lock:
            close, self._close, self._client = self._close, None, None
        if close is not None:
            close()

    def _connect(self) -> docker.APIClient:
        # The SDK never closes a socket that it could not connect: look first.
        if self.address.local:
            with socket.socket(socket.AF_UNIX) as trial:
                trial.settimeout(10)
                trial.connect(self.url.partition("://")[2])
        with self._lock:
            if self._client is None:
                self._client = self._make()
                # A backend is made and dropped freely; its connections close with it.
                self._close = weakref.finalize(self, self._client.close)
            return self._client

    def _make(self) -> docker.APIClient:
        ssh = self.url.startswith("ssh://")
        options = {**self.settings, "timeout": 60, "max_pool_size": THREADS, "use_ssh_client": ssh}
        # Negotiated here and not by the SDK's "auto", which would leave its connection open when it fails.
        asking = docker.APIClient(**options, version=SOME_VERSION)
        try:
            version = str(asking.version(api_version=False)["ApiVersion"])
        finally:
            asking.close()
        return docker.APIClient(**options, version=version)


def _settings(environ: Mapping[str, str]) -> dict[str, Any]:
    if environ.get("DOCKER_HOST"):
        return {"base_url": environ["DOCKER_HOST"], **kwargs_from_env(environment=dict(environ))}
    try:
        context = ContextAPI.get_current_context()
    except Exception:  # noqa: BLE001  # a broken ~/.docker must not stop an engine at the usual place
        context = None
    if context is None or not context.Host:
        return {"base_url": DEFAULT_SOCKET}
    settings: dict[str, Any] = {"base_url": str(context.Host).replace("http+unix://", "unix://")}
    if isinstance(context.TLSConfig, TLSConfig):
        settings["tls"] = context.TLSConfig
    return settings


def _ssl_context(tls: TLSConfig) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca_cert or None)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert:
        context.load_cert_chain(*tls.cert)
    return context


def _innermost(error: BaseException) -> str:
    """The cause at the bottom of a chain of library errors: the one that says what happened."""
    seen = {id(error)}
    while (inner := error.__cause__ or error.__context__) is not None and id(inner) not in seen:
        seen.add(id(inner))
        error = inner
    return str(error) or type(error).__name__


def explain(error: docker.errors.APIError) -> str:
    """The engine's own words in an error."""
    return str(error.explanation or error).strip().rstrip(".")


def inspect_image(client: docker.APIClient, name: str) -> dict[str, Any]:
    """What the engine knows of an image. Raises its ``ImageNotFound``."""
    return dict(client.inspect_image(name))  # type: ignore[no-untyped-call]
