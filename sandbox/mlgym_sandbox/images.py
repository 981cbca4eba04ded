"""Makes the images that sandboxes of the Docker backend run in.

Three ways to the same thing: on a base image from a registry; on a base made here by mmdebstrap; or from this
machine's own ``/usr`` in a moment. Packages are fetched on this machine by pip, with the user's configuration
and certificates, and installed in the build with no network: an engine needs none.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import docker
import docker.errors

from mlgym_sandbox import environment, host_image
from mlgym_sandbox.backends.docker_engine import Engine, explain, inspect_image
from mlgym_sandbox.errors import SandboxError

Progress = Callable[[str], None]

DEFAULT_BASE: Final = "python:3.11-slim"
DEBIAN_BASE: Final = "mlgym-debian"
BUILD_S: Final = 3600.0
_ASK: Final = (
    "import json,platform,sys;"
    "print(json.dumps([list(sys.version_info[:3]),platform.machine(),platform.libc_ver(),sys.platform]))"
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an image is made: its Dockerfile, its lock file, and the prepared environment that equals it."""

    dockerfile: str
    requirements: str
    environment: str


RECIPES: Final[dict[str, Recipe]] = {
    "mlgym-bare": Recipe("Dockerfile.cpu", "", environment.BARE),
    "mlgym-light": Recipe("Dockerfile.cpu", "light.txt", "light"),
    "mlgym-torch": Recipe("Dockerfile.cpu", "torch.txt", "torch"),
    "mlgym-cuda": Recipe("Dockerfile.cuda", "torch.txt", "torch"),
}
"""All images by name. ``mlgym-bare`` has Python and no packages, and is made from the host only."""


class ImageError(SandboxError):
    """An image that could not be made; the message has the builder's last words."""


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """A finished image: its name, the engine's id, its size and the seconds that making it took."""

    name: str
    id: str
    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Target:
    """The Python inside a base image, for choosing wheels."""

    version: tuple[int, int, int]
    machine: str
    libc: tuple[str, str]

    def platforms(self) -> Iterable[str]:
        """Platform tags of wheels that run there, best first."""
        name, version = self.libc
        if name == "glibc" and version:
            minor = int(version.split(".")[1])
            yield from (f"manylinux_2_{n}_{self.machine}" for n in range(minor, 16, -1))
            yield f"manylinux2014_{self.machine}"
        else:
            yield from (f"musllinux_1_{n}_{self.machine}" for n in (2, 1))
        yield f"linux_{self.machine}"


async def build(
    name: str,
    *,
    tag: str | None = None,
    base: str | None = None,
    from_debian: bool = False,
    from_host: bool = False,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> BuiltImage:
    """Make an image, replacing an older one of its name.

    Args:
        name: ``mlgym-light``, ``mlgym-torch``, ``mlgym-cuda`` (or ``mlgym-bare``, with ``from_host``).
        tag: what to call it on the engine; by default ``name``.
        base: image to build on; any with Python 3.9 or newer and pip. By default Python's official slim image,
            which the engine pulls.
        from_debian: make the base here with mmdebstrap (needs root or user namespaces, and Debian's mirror).
        from_host: use this machine's ``/usr`` and a prepared environment; only for an engine on this machine.
        progress: called with each line of what is going on.
        engine: where; by default the engine that ``DOCKER_HOST`` or the docker command's context names.

    Raises:
        ImageError: unknown name, contradictory arguments, or a step failed.
        BackendUnavailableError: the engine does not answer.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        raise ImageError(f"there is no image {name!r}; there are: {', '.join(RECIPES)}")
    if (base is not None) + from_debian + from_host > 1:
        raise ImageError("choose one of --base, --from-debian and --from-host")
    if not recipe.requirements and not from_host:
        raise ImageError(f"{name} has no packages to build; make it with --from-host")
    engine, say, begun = engine or Engine(), progress or (lambda _line: None), time.monotonic()
    tag = tag or name
    if from_host:
        await _import_host(engine, tag, recipe, say)
    else:
        if from_debian:
            base = await make_debian_base(engine, say)
        await _build(engine, tag, recipe, base or DEFAULT_BASE, say)
    about = await engine.call(lambda client: inspect_image(client, tag))
    return BuiltImage(tag, str(about["Id"]), int(about["Size"]), time.monotonic() - begun)


async def _import_host(engine: Engine, name: str, recipe: Recipe, say: Progress) -> None:
    if not engine.address.local:
        raise ImageError(f"an image made from the host needs an engine on this machine; {engine.url} may be another")
    if not Path("/usr/bin/env").exists():
        raise ImageError("this machine keeps its programs elsewhere than in /usr; build with --base instead")
    await environment.prepare(recipe.environment, say)
    await _import(engine, name, host_image.image_tar(), host_image.image_changes(recipe.environment))
    say(f"image {name} is ready: made from this machine's /usr")


async def _import(engine: Engine, name: str, data: Any, changes: Sequence[str]) -> None:
    def work(client: docker.APIClient) -> None:
        answer = client.import_image_from_data(data, repository=name, tag="latest", changes=list(changes))
        for line in str(answer).splitlines():
            if "error" in (said := json.loads(line)):
                raise ImageError(f"the engine did not take the image {name}: {said['error']}")

    try:
        await engine.call(work, deadline_s=BUILD_S)
    except docker.errors.APIError as error:
        raise ImageError(f"the engine did not take the image {name}: {explain(error)}") from error


async def make_debian_base(engine: Engine, say: Progress) -> str:
    """Make a base image of Debian's own Python with mmdebstrap, from the mirror that apt uses.

    Raises:
        ImageError: mmdebstrap is missing or failed.
    """
    mmdebstrap = shutil.which("mmdebstrap")
    if mmdebstrap is None:
        raise ImageError("mmdebstrap is not installed: sudo apt-get install mmdebstrap")
    suite = await anyio.to_thread.run_sync(_debian_suite)
    with tempfile.TemporaryDirectory(prefix="mlgym-base-") as folder:
        rootfs = Path(folder, "rootfs.tar")
        say(f"making a base of Debian {suite} with mmdebstrap (a minute or two)")
        packages = "python3,python3-pip,python3-venv,ca-certificates,procps"
        leave_out = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
        command = [mmdebstrap, "--variant=minbase", f"--include={packages}", "--aptopt=APT::Install-Recommends false"]
        command += [f"--dpkgopt=path-exclude={path}" for path in leave_out]
        await _run([*command, suite, str(rootfs)], say)
        with rootfs.open("rb") as stream:  # noqa: ASYNC230  # opening a local file does not wait
            await _import(
                engine,
                DEBIAN_BASE,
                stream,
                [
                    "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "ENV LANG=C.UTF-8",
                    'CMD ["python3"]',
                    "LABEL mlgym.image=1",
                ],
            )
    return DEBIAN_BASE


def _debian_suite() -> str:
    """The release of this machine when it is Debian, else the present stable one."""
    try:
        words = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    except OSError:
        words = {}
    if words.get("ID", "").strip('"') == "debian" and (suite := words.get("VERSION_CODENAME", "").strip('"')):
        return suite
    return "stable"


async def _build(engine: Engine, name: str, recipe: Recipe, base: str, say: Progress) -> None:
    target = await _look_into(engine, base, say)
    source = environment.images()
    with tempfile.TemporaryDirectory(prefix="mlgym-image-") as folder:
        context = Path(folder)
        for file in (recipe.dockerfile, recipe.requirements):
            await anyio.to_thread.run_sync(shutil.copyfile, source / file, context / file)
        await _fetch_wheels(context, recipe.requirements, target, say)
        arguments = {"BASE_IMAGE": base, "REQUIREMENTS": recipe.requirements}
        await engine.call(
            lambda client: _build_here(client, name, context, recipe.dockerfile, arguments, say), deadline_s=BUILD_S
        )


def _build_here(
    client: docker.APIClient, name: str, context: Path, dockerfile: str, arguments: dict[str, str], say: Progress
) -> None:
    last: list[str] = []
    unfinished = {"dangling": True, "label": ["mlgym.image"]}
    lines = client.build(
        path=str(context),
        dockerfile=dockerfile,
        tag=name,
        buildargs=arguments,
        network_mode="none",
        rm=True,
        forcerm=True,  # a failed step would leave its container behind
        decode=True,
    )
    try:
        for line in lines:
            if "error" in line:
                raise ImageError("\n".join([f"building {name} failed: {line['error']}", *last]))
            for text in str(line.get("stream", "")).splitlines():
                if text.strip():
                    say(text)
                    last = [*last[-7:], text]
    finally:
        # The stage that held the wheels, and the image that this one replaces: hundreds of megabytes.
        client.prune_images(filters=unfinished)  # type: ignore[no-untyped-call]


async def _look_into(engine: Engine, base: str, say: Progress) -> Target:
    """Ask the base image's Python what it is, pulling the image if the engine does not have it."""

    def pull(client: docker.APIClient) -> None:
        try:
            inspect_image(client, base)
        except docker.errors.ImageNotFound:
            say(f"pulling {base}")
            repository, _, tag = base.partition(":") if "@" not in base else (base, "", "")
            client.pull(repository, tag or None)

    def ask(client: docker.APIClient) -> str:
        container = client.create_container(
            base,
            entrypoint=["python3", "-I", "-S", "-c", _ASK],
            command=[],
            labels={"mlgym": "1", "mlgym.role": "ask"},
            host_config=client.create_host_config(network_mode="none"),
        )["Id"]
        try:
            client.start(container)
            client.wait(container, timeout=60)
            return str(client.logs(container, stdout=True, stderr=True).decode("utf-8", "replace"))
        finally:
            client.remove_container(container, force=True, v=True)

    try:
        await engine.call(pull, deadline_s=BUILD_S)
        answer = await engine.call(ask, deadline_s=120)
    except docker.errors.APIError as error:
        raise ImageError(
            f"the base image {base} cannot be used: {explain(error)}; "
            "with no registry, build with --from-debian or --from-host"
        ) from error
    try:
        version, machine, libc, _ = json.loads(answer.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise ImageError(f"the base image {base} has no working python3: {answer.strip()[-300:]}") from error
    return Target((version[0], version[1], version[2]), machine, (libc[0], libc[1]))


async def _fetch_wheels(context: Path, requirements: str, target: Target, say: Progress) -> None:
    """Download the pinned wheels for the base's Python into ``wheels/`` of the build context."""
    short = f"{target.version[0]}{target.version[1]}"
    full = ".".join(map(str, target.version))
    async with _pip(say) as pip:
        lock = context / requirements
        # pip judges `; python_full_version < ...` by the Python it runs in, not by the one asked for.
        await _run([pip[0], "-I", "-c", APPLY_MARKERS, str(lock), full, target.machine], say)
        command = [*pip, "download", "--quiet", "--only-binary=:all:", "--dest", str(context / "wheels")]
        command += ["--implementation", "cp", "--python-version", full, "--abi", f"cp{short}", "--abi", "abi3"]
        command += ["--abi", "none"]
        for platform in target.platforms():
            command += ["--platform", platform]
        say(f"downloading the packages of {requirements} for Python {full} on {target.machine}")
        await _run([*command, "--requirement", str(lock)], say)


APPLY_MARKERS: Final = """
import sys
from pathlib import Path
from pip._vendor.packaging.requirements import Requirement
lock, full, machine = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
there = {"python_full_version": full, "python_version": full.rpartition(".")[0], "platform_machine": machine,
         "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "implementation_name": "cpython"}
kept = []
for line in lock.read_text().splitlines():
    line = line.partition("#")[0].strip()
    if line and not line.startswith("-"):
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate(there):
            continue
        wanted.marker = None
        line = str(wanted)
    kept.append(line)
lock.write_text("\\n".join(kept) + "\\n")
"""


@asynccontextmanager
async def _pip(say: Progress) -> AsyncIterator[list[str]]:
    """A Python that has pip: ours, the base one, or a throw-away environment with the pip that Python brings."""
    for python in dict.fromkeys((sys.executable, str(environment.base_python()), shutil.which("python3") or "")):
        if python and await _succeeds([python, "-I", "-c", "import pip._vendor.packaging"]):
            yield [python, "-m", "pip"]
            return
    with tempfile.TemporaryDirectory(prefix="mlgym-pip-") as folder:
        say("making an environment with pip")
        await _run([str(environment.base_python()), "-I", "-m", "venv", folder], say)
        yield [f"{folder}/bin/python", "-m", "pip"]


async def _succeeds(command: Sequence[str]) -> bool:
    try:
        with anyio.fail_after(60):
            return (await anyio.run_process(command, check=False, stdin=subprocess.DEVNULL)).returncode == 0
    except (OSError, TimeoutError):
        return False


async def _run(command: Sequence[str], say: Progress) -> None:
    """Run a command, its output line by line to ``say``.

    Raises:
        ImageError: it failed, with its last words, or took too long.
    """
    last: list[str] = []
    try:
        with anyio.fail_after(BUILD_S):
            async with await anyio.open_process(command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT) as process:
                if process.stdout is not None:
                    rest = b""
                    async for data in process.stdout:
                        *whole, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
                        for line in whole:
                            if text := line.decode("utf-8", "replace").rstrip():
                                say(text)
                                last = [*last[-7:], text]
                code = await process.wait()
    except TimeoutError as error:
        raise ImageError(f"`{command[0]}` took longer than {BUILD_S:g} s and was stopped") from error
    if code:
        raise ImageError("\n".join([f"`{Path(command[0]).name}` failed with exit code {code}:", *last]))


async def installed(engine: Engine | None = None) -> list[str]:
    """Return the names of the images of ours that the engine has.

    Raises:
        BackendUnavailableError: the engine does not answer.
    """
    engine = engine or Engine()
    found = await engine.call(lambda client: client.images(filters={"label": "mlgym.image=1"}))
    return sorted({tag for image in found for tag in image.get("RepoTags") or () if tag != "<none>:<none>"})
