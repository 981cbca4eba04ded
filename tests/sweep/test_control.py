"""The client of the control API: patient with servers that are busy or away, never with refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anyio
import httpx2
import pytest

from mlgym_clients.agents.calling import ServerLostError
from mlgym_clients.sweep.control import Control, ControlError
from mlgym_mcp.api import SessionRequest, SessionView

pytestmark = pytest.mark.anyio

VIEW = SessionView(
    id="s1",
    task="toy",
    preset="mini",
    seed=0,
    state="preparing",
    detail="",
    episode="e1",
    mcp_url="http://server/sessions/s1/mcp",
    created=0,
    expires=None,
    calls=0,
)
Answer = httpx2.Response | Exception


class Answers(httpx2.AsyncBaseTransport):
    """Answers one after another; remembers the requests."""

    def __init__(self, *answers: Answer | Callable[[], Answer]) -> None:
        self._answers: Iterator[Any] = iter(answers)
        self.requests: list[httpx2.Request] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        self.requests.append(request)
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


def control(answers: Answers, **options: float) -> Control:
    return Control("http://server", "token", transport=answers, **{"patience_s": 30.0, **options})


def view() -> httpx2.Response:
    return httpx2.Response(201, content=VIEW.model_dump_json())


WANTED = SessionRequest(task="toy", idempotency_key="key")


async def test_a_server_that_is_away_or_full_for_a_while_is_asked_again_with_the_same_key() -> None:
    answers = Answers(
        httpx2.ConnectError("refused"),
        httpx2.Response(429, json={"error": "full"}, headers={"Retry-After": "0"}),
        httpx2.Response(503, json={"error": "stopping"}, headers={"Retry-After": "soon"}),
        httpx2.RemoteProtocolError("cut"),
        view(),
    )
    with anyio.fail_after(20):
        async with control(answers) as api:
            assert await api.create(WANTED) == VIEW
    assert len({request.content for request in answers.requests}) == 1
    assert b'"idempotency_key":"key"' in answers.requests[0].content
    assert {request.headers["authorization"] for request in answers.requests} == {"Bearer token"}


async def test_a_server_that_stays_away_or_full_is_lost() -> None:
    with pytest.raises(ServerLostError, match="does not answer: refused"):
        async with control(Answers(httpx2.ConnectError("refused")), patience_s=0) as api:
            await api.create(WANTED)
    with pytest.raises(ServerLostError, match="no room for too long: full"):
        async with control(Answers(httpx2.Response(429, json={"error": "full"})), busy_s=0) as api:
            await api.create(WANTED)
    with pytest.raises(ServerLostError, match="it failed"):
        async with control(Answers(httpx2.Response(500, json={"error": "it failed"}))) as api:
            await api.create(WANTED)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (httpx2.Response(401, json={"error": "no"}), "does not take this admin token"),
        (httpx2.Response(400, json={"error": "there is no task"}), "there is no task"),
        (httpx2.Response(404, content=b"<html>" * 1000), "status 404"),
        (httpx2.Response(422, json=["what"]), "status 422"),
        (httpx2.Response(200, json={"hello": "world"}), "no mlgym-mcp server of this version"),
        (httpx2.Response(200, content=b"\xff\x00"), "no mlgym-mcp server of this version"),
    ],
)
async def test_a_refusal_or_a_strange_answer_is_told_at_once(answer: httpx2.Response, told: str) -> None:
    answers = Answers(answer)
    with pytest.raises(ControlError, match=told) as caught:
        async with control(answers) as api:
            await api.create(WANTED)
    assert len(answers.requests) == 1
    assert len(str(caught.value)) < 3000


async def test_a_session_that_is_not_there_is_none() -> None:
    async with control(Answers(httpx2.Response(404, json={"error": "no such session"}))) as api:
        assert await api.session("s1") is None


async def test_an_answer_that_takes_long_is_waited_for_as_long_as_the_server_lives() -> None:
    fine = httpx2.Response(200, json={})
    answers = Answers(httpx2.ReadTimeout("slow"), fine, httpx2.ReadTimeout("slow"), fine, view())
    async with control(answers, patience_s=0) as api:
        assert await api.end("s1") == VIEW
    assert [request.method for request in answers.requests] == ["DELETE", "GET", "DELETE", "GET", "DELETE"]
    dead = Answers(httpx2.ReadTimeout("slow"), httpx2.ConnectError("dead"))
    async with control(dead, patience_s=0) as api:
        with pytest.raises(ServerLostError):
            await api.end("s1")
