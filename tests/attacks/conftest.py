"""The whole product under attack: one server process for all tests, real sandboxes of every backend, real clients.

After each test the server is asked, in another session, whether it is well. When all are done the server is stopped
and nothing of it may be left on the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import docker
import httpx
import pytest
from mcp import Client

from mlgym_mcp.catalog.adversarial import Adversarial
from mlgym_mcp.session.journal import Event, read_journal
from mlgym_sandbox import environment, get_backend, images
from mlgym_sandbox.backends.docker import DockerBackend
from mlgym_sandbox.errors import SandboxError
from tests import toy, toy_player
from tests.sandbox.engine import missing
from tests.serving.conftest import CLI, light, make_home, text_of

__all__ = ["light"]  # a fixture

TOY = (
    toy.TASK.replace("max_bytes = 100000", "max_bytes = 100000\nautosubmit = false")
    .replace("max_calls = 3", "max_calls = 1000")
    .replace("memory_mb = 512", "memory_mb = 256")
    .replace("session_s = 600", "session_s = 3600")
    .replace("steps = 40", "steps = 100000")
)
_GATED_GRADER = """\
import time
from pathlib import Path
PLACE = Path({place!r})
inner = {{}}
exec(compile({grader!r}, "grader", "exec"), inner)

def grade(ctx):
    (PLACE / "arrived").touch()
    while not (PLACE / "go").exists():
        time.sleep(0.01)
    return inner["grade"](ctx)
"""
MEMORY_MB = 400
"""The server's resident memory may never have been larger."""


def gated_grader(place: Path) -> str:
    """Return the toy's grader, which says in a folder that it has ``arrived``, and goes on when ``go`` is there."""
    return _GATED_GRADER.format(place=str(place), grader=toy.GRADER)


@dataclass
class Server:
    """A server process with its home, and what was made in it."""

    home: Path
    tasks: Path
    image: str
    url: str = ""
    process: subprocess.Popen[str] | None = None
    sessions: list[str] = field(default_factory=list)
    bystanders: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "MLGYM_HOME": str(self.home), "MLGYM_TASKS": str(self.tasks), "COLUMNS": "200"}

    def start(self) -> None:
        arguments = [*CLI, "serve", "toy", "--http", "127.0.0.1:0", "--sandbox", "bubblewrap"]
        log = self.home / "server.log"
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=self.environment,
            )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"(http://\S+)/sessions/(\w+)/mcp", line):
                self.url = found[1]
                self.sessions.append(found[2])
                self.bystanders = {"bubblewrap": f"{found[1]}/sessions/{found[2]}/mcp"}
            if "ready" in line:
                return
        raise AssertionError(f"the server did not start: {log.read_text()[-2000:]}")

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()

    def api(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        token = (self.home / "admin.token").read_text().strip()
        answer = httpx.request(
            method, f"{self.url}/api{path}", json=body, headers={"Authorization": f"Bearer {token}"}, timeout=60
        )
        assert answer.status_code < 300, answer.text
        return answer.json()

    def create(self, task: str, backend: str, **options: Any) -> dict[str, Any]:
        made: dict[str, Any] = self.api("POST", "/sessions", {"task": task, "sandbox": backend, **options})
        self.sessions.append(made["id"])
        return made

    def memory_mb(self, which: str = "VmHWM") -> float:
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{which}:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024

    def events(self, session: Mapping[str, Any]) -> list[Event]:
        return list(read_journal(self.home / "episodes" / session["episode"]))

    def vault(self, task: str, name: str) -> Any:
        (found,) = (self.home / "vault").glob(f"{task}/**/{name}")
        return json.loads(found.read_text())

    async def bystander_is_well(self, backend: str) -> None:
        """Another session, on the same backend, works as if nothing had happened."""
        assert self.process is not None
        assert self.process.poll() is None, "the server has died"
        if backend not in self.bystanders:
            self.bystanders[backend] = self.create("toy", backend)["mcp_url"]
        with anyio.fail_after(20):
            async with Client(self.bystanders[backend]) as client:
                said = await text_of(client, "shell", command="echo x > proof && cat proof")
        assert said == "x\n[exit 0 after " + said.rpartition(" after ")[2]


@pytest.fixture(scope="session")
def image(light: environment.Environment) -> Iterator[str]:
    """An image of this machine's /usr and the prepared environment, or nothing where no engine answers."""
    backend = DockerBackend()
    tag = f"mlgym-attacks-{secrets.token_hex(4)}"
    try:
        anyio.run(backend.engine.info)
        anyio.run(partial(images.build, "mlgym-light", tag=tag, from_host=True, engine=backend.engine))
    except SandboxError:
        yield ""
        anyio.run(backend.aclose)
        return
    yield tag
    anyio.run(backend.aclose)
    client = docker.APIClient(**backend.engine.settings, version="auto")
    client.remove_image(tag, force=True)
    client.close()


def make_server(folder: Path, light: environment.Environment, image: str) -> Server:
    """A server's home and tasks, not started: the toy, one whose grader waits for a file, and one with players."""
    home, tasks, gate = folder / "home", folder / "tasks", folder / "gate"
    make_home(home, light)
    for place in (tasks, gate):
        place.mkdir(parents=True, mode=0o700)
    pinned = f'[presets.mini]\nimage = "{image}"' if image else "[presets.mini]"
    toy.make_toy(tasks, task=TOY.replace("[presets.mini]", pinned))
    gated = toy.make_toy(folder, task=TOY.replace("[presets.mini]", pinned).replace('"toy"', '"gated"')) / "toy"
    (gated / "grader.py").write_text(gated_grader(gate))
    gated.rename(tasks / "gated")
    toy_player.make_toy_player(tasks, task=toy_player.TASK.replace("[presets.mini]", pinned))
    return Server(home, tasks, image)


def leftovers(server: Server) -> list[str]:
    """Whatever of a server's sessions is still on the machine."""
    marks = [str(server.home), *(session[:12] for session in server.sessions)]

    def ours(text: str) -> bool:
        return any(mark in text for mark in marks)

    found = [f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if ours(line)]
    for process in Path("/proc").glob("[0-9]*"):
        for part in ("cmdline", "cgroup", "mountinfo", "environ"):
            with contextlib.suppress(OSError):
                if ours((process / part).read_bytes().decode(errors="replace")):
                    found.append(f"process {process.name} by its {part}: {(process / 'comm').read_text().strip()}")
                    break
    for loop in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if ours(loop.read_text()):
                found.append(f"loop device {loop}")
    for folder, folders, _ in os.walk("/sys/fs/cgroup"):
        found += [f"cgroup {folder}/{name}" for name in folders if ours(name)]
    if server.image:
        client = docker.APIClient(**DockerBackend().engine.settings, version="auto")
        found += [f"container {c['Names']}" for c in client.containers(all=True) if ours(str(c["Names"]))]
        found += [f"volume {v['Name']}" for v in client.volumes().get("Volumes") or [] if ours(v["Name"])]
        client.close()
    return found


@pytest.fixture(scope="session")
def server(light: environment.Environment, image: str) -> Iterator[Server]:
    """The server that all attacks are made on; at the end it is healthy, small, and leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix="mlgym-attacks-") as folder:
        made = make_server(Path(folder), light, image)
        made.start()
        try:
            yield made
            assert made.process is not None
            assert made.process.poll() is None, "the server has died"
            peak = made.memory_mb()
            assert made.api("GET", "/health")["status"] == "ok"
        finally:
            made.stop()
        assert peak < MEMORY_MB, f"the server once had {peak:.0f} MiB"
        assert "Traceback" not in (log := (made.home / "server.log").read_text()), log[-4000:]
        deadline = time.monotonic() + 10  # the kernel takes its time with namespaces
        while (found := leftovers(made)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not found, found
        assert not list((made.home / "run" / "sessions").glob("*.json"))


def backends(*names: str) -> pytest.MarkDecorator:
    """Parametrise a test (or the fixture ``where``) over sandbox backends."""
    marks = {"bubblewrap": pytest.mark.bubblewrap, "docker": pytest.mark.docker}
    return pytest.mark.parametrize("where", [pytest.param(name, marks=marks[name]) for name in names], indirect=True)


both = backends("bubblewrap", "docker")


@pytest.fixture(scope="session")
def bubblewrap_works() -> str | None:
    verdict = anyio.run(get_backend("bubblewrap").probe)[-1]
    return None if verdict.ok else f"{verdict.detail}; {verdict.mend}"


@pytest.fixture
def where(request: pytest.FixtureRequest, image: str, bubblewrap_works: str | None) -> str:
    """The backend of this test: bubblewrap unless it is made for both."""
    name: str = getattr(request, "param", "bubblewrap")
    if bubblewrap_works is not None:
        missing(bubblewrap_works)
    if name == "docker" and not image:
        missing("no Docker engine answers, or it has not this machine's files")
    return name


@dataclass
class Arena:
    """One test's view of the server: sessions of its own on one backend."""

    server: Server
    backend: str

    @asynccontextmanager
    async def playing(
        self, task: str = "toy", mode: str = "auto", **options: Any
    ) -> AsyncIterator[tuple[Client, dict[str, Any]]]:
        """A connected client of a new session, which is deleted afterwards."""
        made = self.server.create(task, self.backend, **options)
        failure: Exception | None = None
        try:
            async with Client(made["mcp_url"], mode=mode) as client:
                try:
                    yield client, made
                except Exception as exc:
                    failure = exc  # the client would wrap it in groups, of which nobody wants to read
        finally:
            self.server.api("DELETE", f"/sessions/{made['id']}")
        if failure is not None:
            raise failure


@pytest.fixture
async def arena(server: Server, where: str) -> AsyncIterator[Arena]:
    """A place to attack from; afterwards the server and another session must be well."""
    yield Arena(server, where)
    await server.bystander_is_well(where)


async def alive(client: Client) -> None:
    """The attacked session itself still runs commands."""
    with anyio.fail_after(20):
        assert "still here\n[exit 0" in await text_of(client, "shell", command="echo still here")


def python(code: str) -> str:
    """A command line that runs a program given as text."""
    return f"python3 -B - <<'END_OF_PROGRAM'\n{code}\nEND_OF_PROGRAM"


def expected(case: Adversarial) -> frozenset[str]:
    """How a hostile submission may end. An ordinary user's sandbox does not even let the largest files be made."""
    return case.expect | {"missing"} if case.commands and os.geteuid() != 0 else case.expect
