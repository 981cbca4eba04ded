"""Our sandbox, tried with the suite that Inspect ships for those who write one, and with what that leaves out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.frameworks.environments import python_of
from tests.sandbox.engine import docker_home, engine, host_image, missing

__all__ = ["docker_home", "engine", "host_image"]  # fixtures

ROOT = Path(__file__).parents[2]
EXEMPT = {
    # The suite makes a user as root. In our sandbox there is no root to become, and that is what it is for: the check
    # that asks for a user whom there cannot be passes, since the provider says that it supports none.
    "test_exec_as_user": "SandboxUserUnsupportedError: nobody becomes 'root' in a sandbox of mlgym",
}
OF_THE_SUITE = 44
"""So many checks it has in the release that is pinned: should they hide from us, this test would pass too easily."""


@pytest.fixture(scope="module")
def suites(request: pytest.FixtureRequest, docker_home: Path) -> dict[str, dict[str, str]]:
    """What came of all checks, by backend: of those that are here, in one process."""
    backends: dict[str, dict[str, str]] = {}
    if shutil.which("bwrap") is not None:
        backends["bubblewrap"] = {"environment": "bare"}
    with suppress(pytest.skip.Exception):
        backends["docker"] = {"image": request.getfixturevalue("host_image")}
    given = [json.dumps({"backend": name, **options}) for name, options in backends.items()]
    path = os.pathsep.join(map(str, (ROOT, ROOT / "sandbox", ROOT / "clients")))
    ran = subprocess.run(
        [str(python_of("inspect_task")), "-m", "tests.inspect.program", "checks", *given],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-6000:]
    told: dict[str, dict[str, str]] = json.loads(ran.stdout)
    return told


@pytest.fixture(
    params=[
        pytest.param("bubblewrap", marks=pytest.mark.bubblewrap),
        pytest.param("docker", marks=pytest.mark.docker),
    ]
)
def backend(request: pytest.FixtureRequest, suites: dict[str, dict[str, str]]) -> str:
    if request.param not in suites:
        missing(f"needs {request.param}")
    name: str = request.param
    return name


@pytest.fixture
def checks(backend: str, suites: dict[str, dict[str, str]]) -> dict[str, str]:
    """What came of each check."""
    return suites[backend]


def test_the_provider_passes_the_suite_that_inspect_ships_for_providers(checks: dict[str, str]) -> None:
    suite = {name: outcome for name, outcome in checks.items() if name.startswith("test_")}
    assert len(suite) == OF_THE_SUITE
    failures = {name: outcome for name, outcome in suite.items() if outcome != "passed"}
    assert failures.keys() == EXEMPT.keys(), failures
    assert all(failures[name].startswith(why) for name, why in EXEMPT.items()), failures


def test_the_provider_does_what_the_suite_does_not_ask(backend: str, checks: dict[str, str]) -> None:
    own = {name: outcome for name, outcome in checks.items() if not name.startswith("test_")}
    assert own == {
        "a shell for a person": "1000\n/workspace\n" if backend == "docker" else "none",
        "no such program": "127",
        "no such folder": "126",
        "a flood": f"{10 * 2**20} the end",
        "both at once": "3000000 3000000",
        "left in the background": "not waited for, alive",
        "cancelled": "dead",
        "input that nobody reads": "0",
        "/proc": "refused",
        "a sandbox that is gone": "SandboxUnavailableError",
        "left behind": "nothing",
    }
