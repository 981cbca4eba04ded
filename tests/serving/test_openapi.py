"""The control API against its own OpenAPI document: what schemathesis finds to send, and what may come back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from mlgym_mcp.serving.auth import load_admin_token
from mlgym_mcp.serving.limits import Limits
from tests.serving.conftest import running_host

_UNBOUNDED = "/api/sessions/{id}/events"
"""A stream that lasts as long as its session: test_control.py follows it."""
_BOUNDED = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def served(own_home: Path, backend: str) -> Iterator[str]:
    """A server in a thread: schemathesis waits for its answers in this one."""
    ready, stop = threading.Event(), threading.Event()
    urls: list[str] = []

    async def serve() -> None:
        async with running_host(backend, limits=Limits(sessions=4, rate=10_000, burst=100_000)) as host:
            urls.append(host.base_url)
            ready.set()
            await anyio.to_thread.run_sync(stop.wait)

    thread = threading.Thread(target=anyio.run, args=(serve,))
    thread.start()
    assert ready.wait(60)
    try:
        yield urls[0]
    finally:
        stop.set()
        thread.join(60)


def test_the_document_is_served_to_everybody_and_names_every_path(served: str) -> None:
    document = httpx.get(f"{served}/api/openapi.json").json()
    assert set(document["paths"]) == {
        "/api/sessions",
        "/api/sessions/{id}",
        "/api/sessions/{id}/events",
        "/api/sessions/{id}/fork",
        "/api/sessions/{id}/restore",
        "/api/sessions/{id}/snapshots",
        "/api/tasks",
        "/api/episodes",
        "/api/health",
        "/metrics",
    }
    assert httpx.get(f"{served}/api/docs").status_code == 200
    for path, methods in document["paths"].items():
        for method in methods.values():
            assert ("security" in method) == (path != "/api/health"), path
            assert method["description"]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_whatever_is_sent_the_answer_is_one_that_the_document_tells(mode: GenerationMode, served: str) -> None:
    headers = {"Authorization": f"Bearer {load_admin_token().value}"}
    schema = schemathesis.openapi.from_url(f"{served}/api/openapi.json")
    tried: set[str] = set()

    def probe(case: schemathesis.Case) -> None:
        tried.add(case.operation.label)
        for name in [name for name in case.headers or {} if name.lower() == "host"]:
            del case.headers[name]  # refused before anything of the document is reached, which test_auth tests
        # which tasks there are is not in the document: a request that fits it may name none
        case.call_and_validate(headers=headers, timeout=30, excluded_checks=[positive_data_acceptance])

    for found in schema.exclude(path=_UNBOUNDED).get_all_operations():
        strategy = found.ok().as_strategy(generation_mode=mode)
        try:
            given(case=strategy)(_BOUNDED(lambda case: probe(case)))()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, "nothing can be wrong with a request that has no parameters"
    assert "POST /api/sessions" in tried
    assert len(tried) >= (7 if mode is GenerationMode.POSITIVE else 5)
    assert httpx.get(f"{served}/api/health").json()["status"] == "ok"
