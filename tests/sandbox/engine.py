"""The Docker engine that tests use: the one that ``DOCKER_HOST`` or the docker command names.

Without one the tests that need it are skipped, except in CI, where it is a failure: `.ci/engine run pytest`
starts one for the time of the tests.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import docker
import pytest

from mlgym_sandbox import images
from mlgym_sandbox.backends.docker import DockerBackend
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.home import home

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / ".ci" / "engine"


def missing(what: str) -> None:
    """Skip the test, or fail it in CI: there everything is expected to be there."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session")
def docker_home() -> Iterator[Path]:
    """A data folder for all Docker tests: the image made from the host refers to its prepared environment.

    It is the data folder of all later tests of this process, too: what is prepared already is linked into it.
    """
    prepared = home("environments")
    with tempfile.TemporaryDirectory(prefix="mlgym-test-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLGYM_HOME", folder)
        for made in prepared.iterdir():
            if made.is_dir() and not made.name.endswith(".partial"):
                (home("environments") / made.name).symlink_to(made)
        yield Path(folder)


@pytest.fixture(scope="session")
def engine(docker_home: Path) -> Iterator[DockerBackend]:
    """A backend whose engine answers."""
    backend = DockerBackend()
    try:
        anyio.run(backend.engine.info)
    except SandboxError as error:
        missing(str(error))
    yield backend
    anyio.run(backend.prune)
    anyio.run(backend.aclose)


@pytest.fixture(scope="session")
def host_image(engine: DockerBackend, docker_home: Path) -> Iterator[str]:
    """An image with Python and no packages, made from this machine's /usr."""
    tag = f"mlgym-test-{secrets.token_hex(4)}"
    if not engine.engine.address.local:
        missing(f"the engine at {engine.engine.url} is on another machine: no image can be made from this one")
    anyio.run(partial(images.build, "mlgym-bare", tag=tag, from_host=True, engine=engine.engine))
    yield tag
    client = docker.APIClient(**engine.engine.settings, version="auto")
    client.remove_image(tag, force=True)
    client.close()
