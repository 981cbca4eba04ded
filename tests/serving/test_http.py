"""The host over HTTP: who may come in, and what the control API says."""

from __future__ import annotations

import httpx
import pytest
from mcp import Client

from mlgym_mcp.serving.auth import load_admin_token
from mlgym_sandbox.home import home
from tests.serving.conftest import playing, running_host, text_of

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_home")]
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


async def test_foreign_hosts_and_origins_are_refused_everywhere(backend: str) -> None:
    async with running_host(backend) as host, playing(host) as (_, session), httpx.AsyncClient() as http:
        url = host.mcp_url(session)
        good = await http.post(url, json=INITIALIZE, headers=ACCEPT)
        assert good.status_code == 200
        assert (await http.post(url, json=INITIALIZE, headers={**ACCEPT, "Host": "evil.example"})).status_code == 421
        evil = {**ACCEPT, "Origin": "http://evil.example"}
        assert (await http.post(url, json=INITIALIZE, headers=evil)).status_code == 403
        health = f"{host.base_url}/api/health"
        assert (await http.get(health)).status_code == 200
        assert (await http.get(health, headers={"Host": "evil.example"})).status_code == 421


async def test_an_unknown_session_is_404_and_one_sessions_path_opens_no_other(backend: str) -> None:
    async with running_host(backend) as host, httpx.AsyncClient() as http:
        answer = await http.post(f"{host.base_url}/sessions/{'0' * 32}/mcp", json=INITIALIZE, headers=ACCEPT)
        assert answer.status_code == 404
        async with playing(host) as (a, one), playing(host) as (b, other):
            assert one.id != other.id
            await text_of(a, "write_file", path="mine.txt", content="a")
            assert "mine.txt" not in await text_of(b, "list_files")


async def test_with_tokens_required_only_the_sessions_own_opens_it(backend: str) -> None:
    async with running_host(backend, require_token=True) as host, httpx.AsyncClient() as http:
        one, other = await host.create("toy"), await host.create("toy")
        for headers, status in (
            ({}, 401),
            ({"Authorization": "Bearer wrong"}, 401),
            ({"Authorization": f"Bearer {other.token}"}, 401),
            ({"Authorization": f"Bearer {one.token}"}, 200),
        ):
            answer = await http.post(host.mcp_url(one), json=INITIALIZE, headers={**ACCEPT, **headers})
            assert answer.status_code == status


async def test_the_control_api_makes_shows_and_ends_sessions(backend: str) -> None:
    async with running_host(backend) as host:
        authorized = {"Authorization": f"Bearer {load_admin_token().value}"}
        async with httpx.AsyncClient(base_url=host.base_url, timeout=60) as http:
            assert (await http.post("/api/sessions", json={"task": "toy"})).status_code == 401
            body = {"task": "toy", "seed": 7, "budget": {"calls": 3}, "idempotency_key": "k", "metadata": {"a": 1}}
            made = await http.post("/api/sessions", json=body, headers=authorized)
            assert made.status_code == 201
            view = made.json()
            again = (await http.post("/api/sessions", json=body, headers=authorized)).json()
            assert again["id"] == view["id"], "the same key is the same session"
            async with Client(view["mcp_url"]) as client:
                assert "7" in await text_of(client, "shell", command="echo $MLGYM_SEED")
            shown = (await http.get(f"/api/sessions/{view['id']}", headers=authorized)).json()
            assert shown["state"] == "ready"
            assert shown["token"] is None
            assert [t["id"] for t in (await http.get("/api/tasks", headers=authorized)).json()] == ["toy"]
            ended = (await http.delete(f"/api/sessions/{view['id']}", headers=authorized)).json()
            assert ended["outcome"] in ("abandoned", "scored")
            assert (await http.get("/api/sessions/nope", headers=authorized)).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        ({"task": "nope"}, 400, "there is no task 'nope'"),
        ({"task": "toy", "preset": "huge"}, 400, "has no preset 'huge'"),
        ({"task": "toy", "budget": {"calls": -1}}, 400, "The budget's calls must be a whole number from 1"),
        ({"task": "toy", "budget": {"coffee": 1}}, 400, "coffee"),
        ({"task": "toy", "sandbox": "vm"}, 400, "vm"),
        ({"task": "toy", "color": "red"}, 422, "color: Extra inputs are not permitted"),
        ({}, 422, "task: Field required"),
    ],
)
async def test_bad_requests_are_answered_with_what_was_wrong(
    body: dict[str, object], status: int, expected: str, backend: str
) -> None:
    async with running_host(backend) as host, httpx.AsyncClient(base_url=host.base_url) as http:
        authorized = {"Authorization": f"Bearer {load_admin_token().value}"}
        answer = await http.post("/api/sessions", json=body, headers=authorized)
        assert answer.status_code == status
        assert expected in answer.json()["error"]


async def test_the_admin_token_is_kept_in_a_file_that_only_the_user_can_read() -> None:
    token = load_admin_token().value
    assert token == load_admin_token().value
    assert (home() / "admin.token").stat().st_mode & 0o777 == 0o600
