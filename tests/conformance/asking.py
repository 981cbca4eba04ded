"""Those of the conformance suite's tools that ask the client something: the way of each protocol era."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from mcp import MCPError
from mcp.server.mcpserver import Context, Resolve, Sample
from mcp.types import (
    INVALID_PARAMS,
    CreateMessageRequest,
    CreateMessageResult,
    ElicitRequest,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    SamplingMessage,
    TextContent,
)
from pydantic import BaseModel, WithJsonSchema

Ctx = Context[Any, Any]

# ------------------------------------------------------------------------------------- before 2026-07-28


class User(BaseModel):
    username: str
    email: str


class Defaults(BaseModel):
    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: Annotated[str, WithJsonSchema({"type": "string", "enum": ["active", "inactive", "pending"]})] = "active"
    verified: bool = True


def _choice(**schema: Any) -> WithJsonSchema:
    return WithJsonSchema(schema)


_OPTIONS = ["option1", "option2", "option3"]
_TITLED = [{"const": f"value{n}", "title": title} for n, title in enumerate(("First", "Second", "Third"), start=1)]
_LEGACY = {"enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]}


class Choices(BaseModel):
    untitledSingle: Annotated[str, _choice(type="string", enum=_OPTIONS)]
    titledSingle: Annotated[str, _choice(type="string", oneOf=_TITLED)]
    legacyEnum: Annotated[str, _choice(type="string", **_LEGACY)]
    untitledMulti: Annotated[list[str], _choice(type="array", items={"type": "string", "enum": _OPTIONS})]
    titledMulti: Annotated[list[str], _choice(type="array", items={"anyOf": _TITLED})]


async def _elicited(ctx: Ctx, message: str, schema: type[BaseModel]) -> str:
    answer = await ctx.elicit(message, schema)
    content = answer.data.model_dump() if answer.action == "accept" else {}
    return f"action={answer.action}, content={json.dumps(content)}"


async def test_elicitation(message: str, ctx: Ctx) -> str:
    """Ask the user who they are."""
    return f"User response: {await _elicited(ctx, message, User)}"


async def test_elicitation_sep1034_defaults(ctx: Ctx) -> str:
    """Ask the user with answers suggested."""
    return f"Elicitation completed: {await _elicited(ctx, 'Check these', Defaults)}"


async def test_elicitation_sep1330_enums(ctx: Ctx) -> str:
    """Ask the user to choose."""
    return f"Elicitation completed: {await _elicited(ctx, 'Choose', Choices)}"


def _question(prompt: str) -> Sample:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    return Sample([message], max_tokens=100)


async def test_sampling(prompt: str, said: Annotated[CreateMessageResult, Resolve(_question)]) -> str:
    """Ask the client's model."""
    return f"LLM response: {said.content}"


# ------------------------------------------------------------------------------------- from 2026-07-28 on

Answers = str | InputRequiredResult


def form(message: str, field: str, kind: str = "string") -> InputRequest:
    schema = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    params = {"message": message, "requestedSchema": schema}
    return ElicitRequest.model_validate({"method": "elicitation/create", "params": params})


def _sample(text: str) -> InputRequest:
    messages = [{"role": "user", "content": {"type": "text", "text": text}}]
    params = {"messages": messages, "maxTokens": 100}
    return CreateMessageRequest.model_validate({"method": "sampling/createMessage", "params": params})


_ROOTS = ListRootsRequest(method="roots/list")


def answered(ctx: Ctx, *keys: str) -> Mapping[str, Any] | None:
    """Return the client's answers, if it gave those that were asked for."""
    given = ctx.input_responses or {}
    for key in keys:
        if key not in given or (isinstance(given[key], ElicitResult) and not given[key].content):
            return None
    return given


def said_in(answer: Any, field: str) -> str:
    return str((answer.content or {}).get(field)) if isinstance(answer, ElicitResult) else str(answer)


async def test_input_required_result_elicitation(ctx: Ctx) -> Answers:
    """Ask for a name."""
    if (given := answered(ctx, "user_name")) is None:
        return InputRequiredResult(input_requests={"user_name": form("What is your name?", "name")})
    return f"Hello, {said_in(given['user_name'], 'name')}!"


async def test_streaming_elicitation(ctx: Ctx) -> Answers:
    """Ask for a name."""
    return await test_input_required_result_elicitation(ctx)


async def test_input_required_result_sampling(ctx: Ctx) -> Answers:
    """Ask the client's model."""
    if (given := answered(ctx, "capital_question")) is None:
        return InputRequiredResult(input_requests={"capital_question": _sample("What is the capital of France?")})
    return given["capital_question"].content.text


async def test_input_required_result_list_roots(ctx: Ctx) -> Answers:
    """Ask for the client's roots."""
    if (given := answered(ctx, "client_roots")) is None:
        return InputRequiredResult(input_requests={"client_roots": _ROOTS})
    return "roots: " + ", ".join(str(root.uri) for root in given["client_roots"].roots)


async def test_input_required_result_request_state(ctx: Ctx) -> Answers:
    """Ask, and want a state back."""
    if answered(ctx, "confirm") is None:
        asked = {"confirm": form("Please confirm", "ok", "boolean")}
        return InputRequiredResult(input_requests=asked, request_state="asked once")
    if ctx.request_state != "asked once":
        raise MCPError(INVALID_PARAMS, "this is not the state that was given out")
    return "state-ok"


async def test_input_required_result_tampered_state(ctx: Ctx) -> Answers:
    """Ask, and want a state back that nobody touched."""
    return await test_input_required_result_request_state(ctx)


async def test_input_required_result_multiple_inputs(ctx: Ctx) -> Answers:
    """Ask three things at once."""
    if answered(ctx, "user_name", "greeting", "client_roots") is None:
        asked = {"user_name": form("What is your name?", "name"), "greeting": _sample("Greet"), "client_roots": _ROOTS}
        return InputRequiredResult(input_requests=asked, request_state="three")
    return "all answered"


async def test_input_required_result_multi_round(ctx: Ctx) -> Answers:
    """Ask one thing after the other."""
    if ctx.request_state == "second":
        if answered(ctx, "step2") is not None:
            return "both answered"
    elif answered(ctx, "step1") is None:
        asked = {"step1": form("Step 1: What is your name?", "name")}
        return InputRequiredResult(input_requests=asked, request_state="first")
    asked = {"step2": form("Step 2: What is your favorite color?", "color")}
    return InputRequiredResult(input_requests=asked, request_state="second")


async def test_input_required_result_capabilities(ctx: Ctx) -> Answers:
    """Ask what the client can answer, only."""
    can = ctx.client_capabilities
    asked: dict[str, InputRequest] = {}
    if can is not None and can.sampling is not None:
        asked["sampled"] = _sample("Anything")
    if can is not None and can.elicitation is not None:
        asked["asked"] = form("Anything?", "anything")
    return InputRequiredResult(input_requests=asked) if asked and not ctx.input_responses else "nothing to ask"


TOOLS = (
    test_elicitation,
    test_elicitation_sep1034_defaults,
    test_elicitation_sep1330_enums,
    test_sampling,
    test_input_required_result_elicitation,
    test_streaming_elicitation,
    test_input_required_result_sampling,
    test_input_required_result_list_roots,
    test_input_required_result_request_state,
    test_input_required_result_tampered_state,
    test_input_required_result_multiple_inputs,
    test_input_required_result_multi_round,
    test_input_required_result_capabilities,
)
