"""The MCP conformance suite against the endpoint of a real session: host, guards, dispatcher, gate and journal.

The suite runs once in each form, all at the same time; it mostly waits. What it finds is judged check by check, for
it leaves to itself what it does not score (the Tasks extension, header validation).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from mlgym_mcp.session.journal import read_journal
from mlgym_sandbox import environment
from tests.conformance.conftest import Node, Ran
from tests.conformance.fixtures import offer
from tests.serving.conftest import episode_folder, make_home, running_host
from tests.toy import make_toy

NOT_OFFERED = Path(__file__).with_name("not-offered.yml")
PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"


@dataclass(frozen=True)
class Form:
    """A version of the suite and what of it is run."""

    version: str
    arguments: tuple[str, ...]
    passed: int
    """Checks that pass: fewer means that something is no longer looked at."""

    @property
    def name(self) -> str:
        return f"{self.version}, {self.arguments[-1]}"


FORMS = (
    Form("0.1", ("--suite", "active"), 36),
    Form("0.2", ("--requirements", "2025-11-25"), 77),
    Form("0.2", ("--requirements", "2026-07-28"), 193),
)
ENTRY = re.compile(r"  - (?P<scenario>[a-z0-9-]+) # (?P<reason>\S.{15,})")


@dataclass(frozen=True)
class Found:
    """What one run of the suite found."""

    ran: Ran
    failed: dict[str, list[str]]
    """Scenario to what was wrong."""
    passed: int
    journalled: set[str]
    """Tools whose calls are in the session's journal."""


async def _run(node: Node, form: Form, backend: str, folder: Path, patch: pytest.MonkeyPatch) -> Found:
    async with running_host(backend) as host:
        session = await host.create("toy")
        endpoint = host.endpoint(session.id)
        assert endpoint is not None
        offer(endpoint._server, patch)
        program = f"node_modules/conformance-{form.version}/dist/index.js"
        where = ("--url", host.mcp_url(session), "--output-dir", str(folder))
        baseline = ("--expected-failures", str(NOT_OFFERED))
        with anyio.fail_after(90):
            ran = await node.run(program, "server", *where, *baseline, *form.arguments)
        tools = {event["tool"] for event in read_journal(episode_folder(session)) if event.type == "call"}
    failed: dict[str, list[str]] = {}
    passed = 0
    for path in sorted(folder.glob("*/checks.json")):
        scenario = re.sub(r"^server-|-\d{4}-\d\d-\d\dT.*$", "", path.parent.name)
        for check in json.loads(path.read_text()):
            passed += check["status"] == "SUCCESS"
            if check["status"] == "FAILURE":
                failed.setdefault(scenario, []).append(f"{check['id']}: {check.get('errorMessage')}")
    return Found(ran, failed, passed, tools)


@pytest.fixture(scope="module")
def found(
    node: Node, light: environment.Environment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Found]]:
    """What each form of the suite found."""
    folder = tmp_path_factory.mktemp("suite")
    make_home(folder / "home", light)
    backend = "bubblewrap" if shutil.which("bwrap") else "process"
    results: dict[str, Found] = {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLGYM_HOME", str(folder / "home"))
        patch.setenv("MLGYM_TASKS", str(make_toy(folder / "tasks")))

        async def one(form: Form) -> None:
            results[form.name] = await _run(node, form, backend, folder / form.name.replace(", ", "-"), patch)

        async def every_one() -> None:
            async with anyio.create_task_group() as tasks:
                for form in FORMS:
                    tasks.start_soon(one, form)

        anyio.run(every_one)
        yield results


def not_offered() -> dict[str, str]:
    """Scenario to the reason why we fail it."""
    lines = NOT_OFFERED.read_text().splitlines()
    entries = [line for line in lines if line.lstrip().startswith("- ")]
    matched = [ENTRY.fullmatch(line) for line in entries]
    without = [line for line, match in zip(entries, matched, strict=True) if match is None]
    assert not without, f"each wants a reason: {without}"
    return {match["scenario"]: match["reason"] for match in matched if match is not None}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_the_suite_finds_nothing_missing_but_what_is_not_offered(form: Form, found: dict[str, Found]) -> None:
    result = found[form.name]
    unexpected = {scenario: what for scenario, what in result.failed.items() if scenario not in not_offered()}
    assert not unexpected
    assert result.ran.code == 0, result.ran.out[-2000:] + result.ran.err[-2000:]
    assert result.passed == form.passed


def test_what_is_not_offered_has_its_reason_and_does_fail(found: dict[str, Found]) -> None:
    failed = {scenario for result in found.values() for scenario in result.failed}
    assert set(not_offered()) == failed, "an entry that no longer fails has to go"


def test_the_suites_calls_went_through_the_sessions_journal(found: dict[str, Found]) -> None:
    for form in FORMS:
        assert {"test_simple_text", "test_tool_with_progress"} <= found[form.name].journalled
    assert {"slow_compute", "failing_job"} <= found[FORMS[-1].name].journalled


def test_the_page_about_conformance_says_what_is_so() -> None:
    page = PAGE.read_text()
    for form in FORMS:
        assert re.search(rf"\| {form.passed} \|", page), f"{form.name}: {form.passed} checks"
    for scenario in not_offered():
        assert f"`{scenario}`" in page


def test_the_lock_file_pins_every_program_and_names_no_registry() -> None:
    lock = json.loads(NOT_OFFERED.with_name("package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert not [name for name, package in packages.items() if "resolved" in package]
    wanted = json.loads(NOT_OFFERED.with_name("package.json").read_text())
    pinned = lock["packages"][""]
    for kind in ("dependencies", "optionalDependencies"):
        assert pinned[kind] == wanted[kind], "npm install --omit-lockfile-registry-resolved renews the lock file"
