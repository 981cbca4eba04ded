"""Making images: from the host in a moment, and on a base, with the network outside the build."""

from __future__ import annotations

import io
import secrets
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from mlgym_sandbox import environment, host_image, images
from mlgym_sandbox.backends.docker import DockerBackend
from mlgym_sandbox.backends.docker_engine import inspect_image
from mlgym_sandbox.errors import BackendUnavailableError
from mlgym_sandbox.spec import Limits, SandboxSpec
from tests.sandbox.engine import missing

pytestmark = [pytest.mark.anyio]

SMALL = Limits(cpus=1, memory_mb=512, pids=64, storage_mb=16, tmp_mb=16, output_mb=1)


@pytest.mark.docker
async def test_an_image_of_the_host_holds_nothing_and_runs_python(engine: DockerBackend, docker_home: Path) -> None:
    tag = f"mlgym-test-{secrets.token_hex(4)}"
    lines: list[str] = []
    built = await images.build("mlgym-bare", tag=tag, from_host=True, engine=engine.engine, progress=lines.append)
    try:
        assert built.name == tag
        assert built.size_bytes < 10_000
        assert lines
        sandbox = await engine.create(SandboxSpec(name=tag, image=tag, limits=SMALL))
        try:
            _, output = await sandbox.run(
                "command -v python; whoami; stat -c %U /workspace; python -c 'import sys; print(sys.prefix)'", wait_s=20
            )
            assert output.data.decode().split() == [f"{environment.INSIDE}/bin/python", "agent", "agent", "/opt/env"]
        finally:
            await sandbox.close()
    finally:
        await engine.engine.call(lambda client: client.remove_image(tag, force=True))


@pytest.mark.docker
async def test_an_image_whose_environment_is_not_prepared_says_what_to_run(
    engine: DockerBackend, host_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLGYM_HOME", str(tmp_path))
    with pytest.raises(BackendUnavailableError, match=r"mlgym-mcp .*prepare bare"):
        await engine.create(SandboxSpec(name=f"test-{secrets.token_hex(4)}", image=host_image, limits=SMALL))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "mlgym-nothing"}, "there are: mlgym-bare, mlgym-light"),
        ({"name": "mlgym-light", "from_host": True, "from_debian": True}, "choose one"),
        ({"name": "mlgym-light", "base": "x", "from_host": True}, "choose one"),
        ({"name": "mlgym-bare"}, "--from-host"),
    ],
)
async def test_contradictory_wishes_are_refused_before_anything_is_done(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(images.ImageError, match=words):
        await images.build(**arguments)


async def test_an_image_of_the_host_is_refused_for_an_engine_elsewhere() -> None:
    remote = DockerBackend("tcp://192.0.2.1:2376").engine
    with pytest.raises(images.ImageError, match="on this machine"):
        await images.build("mlgym-light", from_host=True, engine=remote)


@pytest.mark.docker
async def test_a_base_without_python_is_refused_and_nothing_stays(engine: DockerBackend) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))
    base = f"mlgym-test-{secrets.token_hex(4)}"
    await engine.engine.call(
        lambda client: client.import_image_from_data(buffer.getvalue(), repository=base, tag="latest")
    )
    try:
        with pytest.raises(images.ImageError, match=f"base image {base} cannot be used.*python3"):
            await images.build("mlgym-light", base=base, engine=engine.engine)
        assert not await engine.engine.call(
            lambda client: client.containers(all=True, filters={"label": "mlgym.role=ask"})
        )
    finally:
        await engine.engine.call(lambda client: client.remove_image(base, force=True))


@pytest.mark.docker
@pytest.mark.slow
async def test_an_image_built_on_a_base_has_the_packages_and_needs_no_network(
    engine: DockerBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Needs a base with Python and pip: `mlgym-mcp images build mlgym-light --from-debian` leaves one."""
    try:
        await engine.engine.call(lambda client: inspect_image(client, images.DEBIAN_BASE))
    except docker.errors.ImageNotFound:
        missing(f"the engine has no base image {images.DEBIAN_BASE}: mlgym-mcp images build --from-debian makes it")
    for file in ("Dockerfile.cpu", "light.txt"):
        (tmp_path / file).write_text((environment.images() / file).read_text())
    (tmp_path / "light.txt").write_text("threadpoolctl==3.8.0\n")
    monkeypatch.setattr(environment, "images", lambda: tmp_path)
    tag = f"mlgym-test-{secrets.token_hex(4)}"
    await images.build("mlgym-light", tag=tag, base=images.DEBIAN_BASE, engine=engine.engine)
    try:
        sandbox = await engine.create(SandboxSpec(name=tag, image=tag, limits=SMALL))
        try:
            _, output = await sandbox.run(
                "python -c 'import threadpoolctl; print(threadpoolctl.__cached__)'; whoami; ls -d /opt/env/**/*.pyc;"
                "stat -c %U /workspace; touch /opt/env/x",
                wait_s=30,
            )
            text = output.data.decode()
            assert "/opt/env/lib/" in text
            assert text.count("agent") == 2
            assert "Read-only" in text or "Permission denied" in text
        finally:
            await sandbox.close()
    finally:
        await engine.engine.call(lambda client: client.remove_image(tag, force=True))


@pytest.mark.parametrize(
    ("full", "kept"), [("3.11.9", ["numpy==2.4.6"]), ("3.12.0", ["numpy==2.5.5"]), ("3.13.1", ["numpy==2.5.5"])]
)
def test_pins_are_chosen_for_the_python_of_the_base(tmp_path: Path, full: str, kept: list[str]) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(
        "# pins\nnumpy==2.4.6 ; python_full_version < '3.12'\nnumpy==2.5.5 ; python_full_version >= '3.12'\n"
        "pywin32==1 ; sys_platform == 'win32'\n"
    )
    subprocess.run([sys.executable, "-I", "-c", images.APPLY_MARKERS, lock, full, "x86_64"], check=True, timeout=60)
    assert [line for line in lock.read_text().splitlines() if line] == kept


def test_wheels_are_chosen_for_the_c_library_of_the_base() -> None:
    glibc = list(images.Target((3, 11, 2), "x86_64", ("glibc", "2.28")).platforms())
    assert glibc[0] == "manylinux_2_28_x86_64"
    assert "manylinux_2_29_x86_64" not in glibc
    assert "manylinux2014_x86_64" in glibc
    assert next(iter(images.Target((3, 12, 0), "aarch64", ("", "")).platforms())) == "musllinux_1_2_aarch64"


def test_the_image_of_the_host_has_no_secret_of_it() -> None:
    with tarfile.open(fileobj=io.BytesIO(host_image.image_tar())) as tar:
        names = {member.name for member in tar}
        files = {member.name for member in tar if member.isreg()}
    assert {"workspace", "tmp", "etc/passwd"} <= names
    assert files == {"etc/passwd", "etc/group"}
