"""A language model on loopback that plays scripts, for real agents of others: chat completions, responses, messages,
and Google's contents.

The model's name says which script; how far a conversation is, the conversation itself says. So it keeps no state, and
any number of agents may use one at the same time.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.clients.endpoints import Endpoint, Fails, Says, Turn, respond, serving

FINAL = "Everything is submitted."
"""What the model says when its script is played."""


@dataclass(frozen=True)
class Does:
    """One tool call; an argument may be computed from all that the conversation says so far."""

    tool: str
    arguments: Mapping[str, Any | Callable[[str], Any]] = field(default_factory=dict)


Script = Sequence[Does | Sequence[Does]]
"""A model's answers, one after another: a call each, or several calls at once."""


def last_job(said: str) -> str:
    """The job that was spoken of last, as an argument of ``Does``."""
    return re.findall(r"\[job (\w+) is still running", said)[-1]


class ScriptedModel(Endpoint):
    """Answers by script.

    Args:
        scripts: by the last part of a model's name. Other models, and whoever offers none of a script's tools (clients
            also ask for titles and the like), just get an answer in words.

    Attributes:
        url: of the server, without ``/v1``.
        asked: all requests' bodies, in order.
        elsewhere: what else was asked for, as ``METHOD PATH``.
    """

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        super().__init__()
        self.scripts = scripts
        self.elsewhere: list[str] = []

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._openai, methods=["POST"]),
                Route("/v1/responses", self._responses, methods=["POST"]),
                Route("/v1/messages", self._anthropic, methods=["POST"]),
                Route("/v1/messages/count_tokens", self._count, methods=["POST"]),
                Route("/v1beta/models/{call:path}", self._google, methods=["POST"]),
                Route("/{path:path}", self._elsewhere, methods=["GET", "POST", "PUT", "DELETE"]),
            ]
        )

    async def _next(self, request: Request) -> Turn:
        body = await request.json()
        if "call" in request.path_params:  # Google's: the model is in the path, as MODEL:METHOD
            body = {"model": request.path_params["call"].partition(":")[0], **body}
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        return self.answer(body)

    def answer(self, body: Mapping[str, Any]) -> Says | Fails:
        """What the model says next in a conversation, by any of the protocols."""
        offered = _offered(body)
        script = self.scripts.get(str(body["model"]).rpartition("/")[2], ())
        if not any(_find(call.tool, offered) for turn in script for call in _calls(turn)):
            return Says("Fine.")
        made = _made(body)
        turn = _turn(script, made)
        if turn is None:
            ending = "final_answer" in offered  # smolagents wants its answer as a call
            return Says(calls=[("final_answer", {"answer": FINAL})], first=made) if ending else Says(FINAL)
        said = json.dumps(body, ensure_ascii=False)
        calls = []
        for call in turn:
            name = _find(call.tool, offered)
            if name is None:
                return Fails(400, {"error": {"message": f"no tool {call.tool} among {sorted(offered)}"}})
            values = {key: value(said) if callable(value) else value for key, value in call.arguments.items()}
            calls.append((name, values))
        return Says(calls=calls, first=made)

    async def _responses(self, request: Request) -> Response:
        turn = await self._next(request)
        body = self.asked[-1]
        if isinstance(turn, Fails):
            return respond(turn, False, None)
        assert isinstance(turn, Says)
        whole = _response(turn, _offered(body))
        if not body.get("stream", False):
            return JSONResponse(whole)
        return StreamingResponse(iter(_response_events(whole)), media_type="text/event-stream")

    async def _count(self, request: Request) -> Response:
        return JSONResponse({"input_tokens": 100})

    async def _elsewhere(self, request: Request) -> Response:
        self.elsewhere.append(f"{request.method} {request.url.path}")
        return JSONResponse({"error": {"message": "not here", "type": "not_found_error"}}, 404)


@asynccontextmanager
async def scripted_model(**scripts: Script) -> AsyncIterator[ScriptedModel]:
    """A scripted model on a free loopback port; models are called as the arguments are."""
    model = ScriptedModel(scripts)
    async with serving(model):
        yield model


def _calls(turn: Does | Sequence[Does]) -> Sequence[Does]:
    return (turn,) if isinstance(turn, Does) else turn


def _turn(script: Script, made: int) -> Sequence[Does] | None:
    """The calls that come after so many; None when all were made."""
    for turn in script:
        if made <= 0:
            return _calls(turn)
        made -= len(_calls(turn))
    return None


def _offered(body: Mapping[str, Any]) -> dict[str, str]:
    """The tools by name, each with its namespace, which only the protocol of responses has."""
    offered = {}
    for tool in body.get("tools") or ():
        if tool.get("type") == "namespace":
            offered.update({inner["name"]: tool["name"] for inner in tool["tools"]})
        elif "functionDeclarations" in tool:
            offered.update({inner["name"]: "" for inner in tool["functionDeclarations"]})
        elif (name := tool.get("name") or tool.get("function", {}).get("name")) is not None:
            offered[name] = ""
    return offered


def _find(tool: str, offered: Mapping[str, str]) -> str | None:
    """The tool under the name that a client gives it: many put the server's name before it."""
    if tool in offered:
        return tool
    return next((name for name in offered if re.search(rf"[_./-]{tool}$", name)), None)


def _made(body: Mapping[str, Any]) -> int:
    """How many calls a conversation has."""
    made = 0
    messages = body.get("messages", body.get("input", ()))
    for message in () if isinstance(messages, str) else messages:
        made += len(message.get("tool_calls") or ()) + (message.get("type") == "function_call")
        content = message.get("content")
        for block in content if isinstance(content, list) else [{"type": "text", "text": str(content)}]:
            made += block.get("type") == "tool_use"
            if message.get("role") == "assistant":  # smolagents tells of calls in words
                made += str(block.get("text", "")).count("'type': 'function'")
    return made + sum("functionCall" in part for content in body.get("contents", ()) for part in content["parts"])


def _response(says: Says, offered: Mapping[str, str]) -> dict[str, Any]:
    words = {"type": "output_text", "text": says.text, "annotations": [], "logprobs": []}
    items: list[dict[str, Any]] = []
    if says.text:
        message = {"type": "message", "id": "msg_0", "role": "assistant", "status": "completed", "content": [words]}
        items.append(message)
    for i, (name, arguments) in enumerate(says.calls, says.first):
        call = {"type": "function_call", "id": f"fc_{i}", "call_id": f"call_{i}", "status": "completed", "name": name}
        within = {"namespace": offered[name]} if offered[name] else {}
        items.append({**call, **within, "arguments": json.dumps(arguments)})
    usage = {
        "input_tokens": 100, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 7, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 107,
    }  # fmt: skip
    return {
        "id": f"resp_{says.first}", "object": "response", "created_at": 1, "status": "completed", "error": None,
        "incomplete_details": None, "instructions": None, "metadata": {}, "model": "scripted", "output": items,
        "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "usage": usage,
    }  # fmt: skip


def _response_events(whole: Mapping[str, Any]) -> Iterator[str]:
    number = 0

    def event(kind: str, **fields: Any) -> str:
        nonlocal number
        number += 1
        return f"event: {kind}\ndata: {json.dumps({'type': kind, 'sequence_number': number - 1, **fields})}\n\n"

    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    yield event("response.created", response=begun)
    for index, item in enumerate(whole["output"]):
        where = {"output_index": index, "item_id": item["id"]}
        empty = {"content": []} if item["type"] == "message" else {"arguments": ""}
        yield event("response.output_item.added", output_index=index, item={**item, **empty, "status": "in_progress"})
        if item["type"] == "message":
            (words,) = item["content"]
            spoken = {**where, "content_index": 0, "logprobs": []}
            part = {**where, "content_index": 0}
            yield event("response.content_part.added", **part, part={**words, "text": ""})
            yield event("response.output_text.delta", **spoken, delta=words["text"])
            yield event("response.output_text.done", **spoken, text=words["text"])
            yield event("response.content_part.done", **part, part=words)
        else:
            yield event("response.function_call_arguments.delta", **where, delta=item["arguments"])
            named = {"name": item["name"], "arguments": item["arguments"]}
            yield event("response.function_call_arguments.done", **where, **named)
        yield event("response.output_item.done", output_index=index, item=item)
    yield event("response.completed", response=whole)
