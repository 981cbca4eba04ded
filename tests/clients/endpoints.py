"""Model endpoints on loopback that play a script: wire formats of OpenAI, Anthropic and Google, and their faults."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mlgym_mcp.serving.listening import listen
from mlgym_mcp.session.owning import owned_tasks


@dataclass(frozen=True)
class Says:
    """An answer: text, calls as (name, arguments), tokens (in, out, cached). ``raw``: arguments go out as they are.

    ``first`` is the number of the first call, where ids are to be unique in a conversation.
    """

    text: str = ""
    calls: Sequence[tuple[str, Any]] = ()
    usage: tuple[int, int, int] | None = (1000, 50, 0)
    raw: bool = False
    first: int = 0


@dataclass(frozen=True)
class Fails:
    """An HTTP error."""

    status: int
    body: dict[str, Any] = field(default_factory=lambda: {"error": {"message": "scripted fault"}})
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cuts:
    """A stream that breaks off: cleanly (the answer is just not complete), or in the middle of a chunk."""

    says: Says = Says("I will now")
    clean: bool = False


@dataclass(frozen=True)
class Garbles:
    """A body that is no answer."""

    body: bytes = b'{"choices": [{"mess'
    content_type: str = "application/json"


Turn = Says | Fails | Cuts | Garbles


class Endpoint:
    """Plays the turns one after another; the last one again and again. Keeps what it was asked."""

    def __init__(self, *turns: Turn, key: str = "") -> None:
        self.turns = list(turns)
        self.key = key
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._openai, methods=["POST"]),
                Route("/v1/messages", self._anthropic, methods=["POST"]),
                Route("/v1beta/models/{call:path}", self._google, methods=["POST"]),
            ]
        )

    async def _next(self, request: Request) -> Turn:
        body = await request.json()
        assert isinstance(body, dict)
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        given = request.headers.get("authorization") or request.headers.get("x-api-key")
        given = given or request.headers.get("x-goog-api-key") or ""
        if self.key and given.removeprefix("Bearer ") != self.key:
            return Fails(401, {"error": {"message": f"Incorrect API key provided: {given}", "code": "invalid_api_key"}})
        return self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]

    async def _openai(self, request: Request) -> Response:
        turn = await self._next(request)
        streamed = self.asked[-1].get("stream", False)
        return respond(turn, streamed, openai_events if streamed else openai_answer, "data: [DONE]\n\n")

    async def _anthropic(self, request: Request) -> Response:
        turn = await self._next(request)
        streamed = self.asked[-1].get("stream", False)
        return respond(turn, streamed, anthropic_events if streamed else anthropic_answer)

    async def _google(self, request: Request) -> Response:
        turn = await self._next(request)
        streamed = "stream" in request.path_params["call"]
        return respond(turn, streamed, google_events if streamed else google_answer)


def respond(turn: Turn, streamed: bool, make: Any, last: str = "") -> Response:
    if isinstance(turn, Fails):
        return JSONResponse(turn.body, turn.status, turn.headers)
    if isinstance(turn, Garbles):
        return Response(turn.body, media_type=turn.content_type)
    if not streamed:
        return JSONResponse(make(turn.says if isinstance(turn, Cuts) else turn))

    async def stream() -> AsyncIterator[str]:
        events = list(make(turn.says if isinstance(turn, Cuts) else turn))
        if isinstance(turn, Cuts):
            for event in events[:-1][:2]:
                yield event
            if not turn.clean:
                raise ConnectionResetError("scripted")
            return
        for event in events:
            yield event
        yield last

    return StreamingResponse(stream(), media_type="text/event-stream")


def dumped(arguments: Any, raw: bool) -> str:
    return arguments if raw else json.dumps(arguments)


def openai_usage(says: Says) -> dict[str, Any] | None:
    if says.usage is None:
        return None
    tokens_in, tokens_out, cached = says.usage
    return {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def openai_answer(says: Says) -> dict[str, Any]:
    calls = [
        {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": dumped(arguments, says.raw)}}
        for i, (name, arguments) in enumerate(says.calls, says.first)
    ]
    message = {"role": "assistant", "content": says.text or None, **({"tool_calls": calls} if calls else {})}
    finish = "tool_calls" if calls else "stop"
    choice = {"index": 0, "message": message, "finish_reason": finish}
    base = {"id": "c", "object": "chat.completion", "created": 1, "model": "scripted", "choices": [choice]}
    return base | ({"usage": usage} if (usage := openai_usage(says)) else {})


def openai_events(says: Says) -> Iterator[str]:
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}

    def event(delta: dict[str, Any], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return f"data: {json.dumps({**base, 'choices': [choice]})}\n\n"

    yield event({"role": "assistant", "content": ""})
    for start in range(0, len(says.text), 50_000):
        yield event({"content": says.text[start : start + 50_000]})
    for i, (name, arguments) in enumerate(says.calls):
        text = dumped(arguments, says.raw)
        yield event({"tool_calls": [{"index": i, "id": f"call_{says.first + i}", "type": "function",
                                     "function": {"name": name, "arguments": ""}}]})  # fmt: skip
        for piece in (text[: len(text) // 2], text[len(text) // 2 :]):
            yield event({"tool_calls": [{"index": i, "function": {"arguments": piece}}]})
    yield event({}, "tool_calls" if says.calls else "stop")
    if usage := openai_usage(says):
        yield f"data: {json.dumps({**base, 'choices': [], 'usage': usage})}\n\n"


def anthropic_usage(says: Says) -> dict[str, int]:
    tokens_in, tokens_out, cached = says.usage or (0, 0, 0)
    return {
        "input_tokens": tokens_in - cached,
        "output_tokens": tokens_out,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
    }


def anthropic_answer(says: Says) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": says.text}] if says.text else []
    content += [
        {"type": "tool_use", "id": f"toolu_{i}", "name": name, "input": arguments}
        for i, (name, arguments) in enumerate(says.calls, says.first)
    ]
    return {
        "id": "m", "type": "message", "role": "assistant", "model": "scripted", "content": content,
        "stop_reason": "tool_use" if says.calls else "end_turn", "stop_sequence": None, "usage": anthropic_usage(says),
    }  # fmt: skip


def anthropic_events(says: Says) -> Iterator[str]:
    def event(kind: str, **fields: Any) -> str:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"

    whole = anthropic_answer(says)
    yield event("message_start", message={**whole, "content": [], "stop_reason": None})
    for i, block in enumerate(whole["content"]):
        empty = {"text": ""} if block["type"] == "text" else {"input": {}}
        yield event("content_block_start", index=i, content_block={**block, **empty})
        if block["type"] == "text":
            yield event("content_block_delta", index=i, delta={"type": "text_delta", "text": block["text"]})
        else:
            text = json.dumps(block["input"])
            for piece in (text[:3], text[3:]):
                yield event("content_block_delta", index=i, delta={"type": "input_json_delta", "partial_json": piece})
        yield event("content_block_stop", index=i)
    ended = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield event("message_delta", delta=ended, usage=whole["usage"])
    yield event("message_stop")


def google_answer(says: Says) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"text": says.text}] if says.text else []
    parts += [{"functionCall": {"name": name, "args": arguments}} for name, arguments in says.calls]
    tokens_in, tokens_out, cached = says.usage or (0, 0, 0)
    return {
        "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {
            "promptTokenCount": tokens_in, "candidatesTokenCount": tokens_out,
            "cachedContentTokenCount": cached, "totalTokenCount": tokens_in + tokens_out,
        },
        "modelVersion": "scripted", "responseId": "r",
    }  # fmt: skip


def google_events(says: Says) -> Iterator[str]:
    whole = google_answer(says)
    (candidate,) = whole["candidates"]
    for part in candidate["content"]["parts"]:
        piece = {"candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}]}
        yield f"data: {json.dumps(piece)}\r\n\r\n"
    empty = {"role": "model", "parts": [{"text": ""}]}
    yield f"data: {json.dumps({**whole, 'candidates': [{**candidate, 'content': empty}]})}\r\n\r\n"


class Quiet(uvicorn.Server):
    """A server that leaves the test's signals alone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def running(*turns: Turn, key: str = "") -> AsyncIterator[Endpoint]:
    """A scripted endpoint on a free loopback port."""
    endpoint = Endpoint(*turns, key=key)
    async with serving(endpoint):
        yield endpoint


@asynccontextmanager
async def serving(endpoint: Endpoint) -> AsyncIterator[None]:
    """Serve an endpoint on a free loopback port."""
    listener = listen("127.0.0.1", 0)
    server = Quiet(
        uvicorn.Config(endpoint.app(), ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1)
    )
    stopped = anyio.Event()
    async with owned_tasks() as tasks:

        async def serve() -> None:
            await server.serve([listener])
            stopped.set()

        tasks.start_soon(serve)
        endpoint.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            yield
        finally:
            server.should_exit = True
            with anyio.CancelScope(shield=True):
                await stopped.wait()
            listener.close()
