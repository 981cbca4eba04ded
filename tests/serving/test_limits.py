"""What one client can take from the others: sessions, requests, bytes, connections."""

from __future__ import annotations

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client

from mlgym_mcp.serving.auth import load_admin_token
from mlgym_mcp.serving.limits import Admission, BodyError, FullError, Limits, RateLimiter, take_body
from tests.serving.conftest import running_host, text_of
from tests.serving.control_client import ACCEPT, INITIALIZE, admin_of, bearer, raw

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_home")]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 3)), max_size=200))
def test_no_client_gets_more_than_its_burst_and_its_rate(requests: list[tuple[str, float]]) -> None:
    clock = Clock()
    limiter = RateLimiter(Limits(rate=2, burst=5), clock)
    passed: dict[str, int] = {}
    for client, pause in requests:
        clock.now += pause
        wait_s = limiter.wait_s(client)
        assert 0 <= wait_s <= 0.5 + 1e-9
        passed[client] = passed.get(client, 0) + (wait_s == 0)
        assert passed[client] <= 5 + 2 * clock.now + 1e-6


def test_a_client_that_waits_as_told_is_served_and_others_are_not_held_up() -> None:
    clock = Clock()
    limiter = RateLimiter(Limits(rate=2, burst=1), clock)
    assert limiter.wait_s("a") == 0
    wait_s = limiter.wait_s("a")
    assert wait_s > 0
    assert limiter.wait_s("b") == 0
    clock.now += wait_s
    assert limiter.wait_s("a") == 0


def test_a_million_addresses_cost_no_more_memory_than_the_limit() -> None:
    limiter = RateLimiter(Limits(clients=100))
    for i in range(10_000):
        limiter.wait_s(f"10.0.{i >> 8}.{i & 255}")
    assert len(limiter) == 100


@pytest.mark.parametrize("name", ["sessions", "preparing", "rate", "burst", "body", "head_s"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_limit_that_limits_nothing_or_everything_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"limit {name} must be a positive number"):
        Limits(**{name: value})


def test_places_are_held_while_sessions_come_and_given_back_when_they_fail() -> None:
    live = [2, 0]
    admission = Admission(Limits(sessions=4, preparing=2), lambda: (live[0], live[1]))
    with admission.one(), admission.one():
        with pytest.raises(FullError, match="full"), admission.one():
            pass
    with pytest.raises(RuntimeError), admission.one():
        raise RuntimeError
    with admission.one(), admission.one():
        pass
    live[:] = [2, 2]
    with pytest.raises(FullError, match="being prepared") as refused, admission.one():
        pass
    assert refused.value.retry_after_s == 2


async def test_a_body_that_comes_too_slowly_or_says_it_is_too_large_is_not_waited_for() -> None:
    async def never() -> dict[str, object]:
        await anyio.sleep_forever()
        return {}

    with pytest.raises(BodyError) as slow:
        await take_body([], never, 10, 0.01)
    assert slow.value.status == 408
    for size in (b"11", b"-1", b"9" * 5000, b"ten", b""):
        with pytest.raises(BodyError) as large:
            await take_body([(b"content-length", size)], never, 10, 5)
        assert large.value.status == 413


@pytest.mark.parametrize("path", ["/api/sessions", "/sessions/{id}/mcp"])
async def test_a_body_of_100_mb_is_refused_before_it_is_sent(path: str, backend: str) -> None:
    async with running_host(backend, require_token=True) as host:
        session = await host.create("toy")
        token = session.token if "mcp" in path else load_admin_token().value
        head = (
            f"POST {path.format(id=session.id)} HTTP/1.1\r\nHost: 127.0.0.1:1\r\nContent-Type: application/json\r\n"
            f"Accept: application/json, text/event-stream\r\nAuthorization: Bearer {token}\r\n"
        )
        told = await raw(host, f"{head}Content-Length: 104857600\r\n\r\n{{".encode())
        assert told.startswith(b"HTTP/1.1 413")
        chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        untold = await raw(host, f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk * 9)
        assert untold == b"" or untold.startswith(b"HTTP/1.1 413"), "refused, or cut off while still sending"
        assert session.over is None
        assert b"413" in host.metrics.text()


async def test_a_stranger_is_refused_before_the_server_reads_what_he_sends(backend: str) -> None:
    async with running_host(backend) as host:
        head = b"POST /api/sessions HTTP/1.1\r\nHost: 127.0.0.1:1\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n{"
        assert (await raw(host, head)).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /api/health HTTP/1.1\r\n", b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1:1\r\nX: " + b"y" * 100],
)
async def test_a_head_that_never_ends_is_cut_off(sent: bytes, backend: str) -> None:
    async with running_host(backend, limits=Limits(head_s=0.3)) as host:
        assert b" 200 " not in await raw(host, sent or b"G")


async def test_a_head_without_end_is_cut_off_by_its_size(backend: str) -> None:
    async with running_host(backend) as host:
        head = b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1:1\r\n" + b"X-A: y\r\n" * 1_200_000
        assert b" 200 " not in await raw(host, head, seconds=8)


async def test_slow_heads_do_not_end_a_connection_whose_request_is_at_work(backend: str) -> None:
    async with running_host(backend, limits=Limits(head_s=0.3)) as host:
        session = await host.create("toy")
        async with Client(host.mcp_url(session)) as client:
            assert "late" in await text_of(client, "shell", command="sleep 1; echo late")


async def test_a_body_that_never_comes_is_answered_408(backend: str) -> None:
    async with running_host(backend, limits=Limits(body_s=0.2)) as host:
        token = load_admin_token().value
        head = (
            f"POST /api/sessions HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: application/json\r\nContent-Length: 20\r\nConnection: close\r\n\r\n{"
        )
        assert (await raw(host, head.encode())).startswith(b"HTTP/1.1 408")


async def test_too_many_requests_are_answered_429_and_another_sessions_agent_does_not_notice(backend: str) -> None:
    async with running_host(backend, limits=Limits(rate=1, burst=10)) as host:
        one, other = await host.create("toy"), await host.create("toy")
        async with httpx.AsyncClient(headers=ACCEPT) as http:
            answers = [await http.post(host.mcp_url(one), json=INITIALIZE) for _ in range(20)]
            assert {answer.status_code for answer in answers} == {200, 429}
            late = next(answer for answer in answers if answer.status_code == 429)
            assert int(late.headers["retry-after"]) >= 1
            assert (await http.post(host.mcp_url(other), json=INITIALIZE)).status_code == 200


async def test_a_full_server_says_so_and_has_room_again_when_a_session_ends(backend: str) -> None:
    async with running_host(backend, limits=Limits(sessions=2)) as host, admin_of(host) as http:
        body = {"task": "toy", "idempotency_key": "first"}
        first = (await http.post("/api/sessions", json=body)).json()
        assert (await http.post("/api/sessions", json={"task": "toy"})).status_code == 201
        full = await http.post("/api/sessions", json={"task": "toy"})
        assert full.status_code == 429
        assert int(full.headers["retry-after"]) > 0
        assert "2 live sessions" in full.json()["error"]
        again = await http.post("/api/sessions", json=body)
        assert (again.status_code, again.json()["id"]) == (200, first["id"]), "no new session, so there is room"
        await http.delete(f"/api/sessions/{first['id']}")
        assert (await http.post("/api/sessions", json={"task": "toy"})).status_code == 201


async def test_one_wrong_token_after_another_is_slowed_down(backend: str) -> None:
    async with running_host(backend, limits=Limits(rate=1, burst=10)) as host:
        async with httpx.AsyncClient(base_url=host.base_url, headers=bearer("x" * 20)) as http:
            answers = [(await http.get("/api/sessions")).status_code for _ in range(15)]
        assert answers[0] == 401
        assert answers[-1] == 429
