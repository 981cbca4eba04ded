"""The tools, resources and prompts that the conformance suite asks for by name, offered on a real session's endpoint.

The suite says of each what it must do; nothing here is of use to anybody else. The tools go the way of the product's
own: through the session's gate and journal, those of ``LONG`` outside their request and as tasks.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import wave
import zlib
from typing import Annotated, Any

import anyio
import pytest
from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.mcpserver import require_client_extension
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.types import (
    INTERNAL_ERROR,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    Completion,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    InputRequiredResult,
    TextContent,
    TextResourceContents,
)
from pydantic import Field

from mlgym_mcp.serving import long_calls
from mlgym_mcp.serving.tasks_extension import TASKS
from mlgym_mcp.session.calls import CallSpec
from mlgym_mcp.tools.toolbox import BY_NAME, ToolSpec
from tests.conformance import asking
from tests.conformance.asking import Answers, Ctx, answered, form, said_in

LONG = frozenset({"slow_compute", "failing_job", "protocol_error_job", "test_tool_with_task"})
_SHORT_S = 0.05
_JOB_S = 0.8


def _png() -> bytes:
    """One red pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\xff\0\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _wav() -> bytes:
    """Ten silent samples."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(8000)
        sound.writeframes(b"\x80" * 10)
    return buffer.getvalue()


PNG, WAV = _png(), _wav()


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=text)


def _image() -> ImageContent:
    return ImageContent(type="image", data=base64.b64encode(PNG).decode(), mime_type="image/png")


def _embedded(uri: str, mime_type: str, text: str) -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))


# ---------------------------------------------------------------------------------- what tools answer


async def test_simple_text() -> str:
    """Answer with text."""
    return "This is a simple text response for testing."


async def test_image_content() -> ImageContent:
    """Answer with an image."""
    return _image()


async def test_audio_content() -> AudioContent:
    """Answer with a sound."""
    return AudioContent(type="audio", data=base64.b64encode(WAV).decode(), mime_type="audio/wav")


async def test_embedded_resource() -> EmbeddedResource:
    """Answer with a resource."""
    return _embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")


async def test_multiple_content_types() -> list[ContentBlock]:
    """Answer with text, an image and a resource."""
    data = json.dumps({"test": "data", "value": 123})
    return [
        _text("Multiple content types test:"),
        _image(),
        _embedded("test://mixed-content-resource", "application/json", data),
    ]


async def test_error_handling() -> str:
    """Fail."""
    raise ToolError("This tool intentionally returns an error for testing")


async def test_tool_with_progress(ctx: Ctx) -> str:
    """Report progress."""
    for done in (0, 50, 100):
        await ctx.report_progress(done, 100, f"{done} of 100")
        await anyio.sleep(_SHORT_S)
    return "done"


async def test_reconnection(ctx: Ctx) -> str:
    """Take a moment."""
    await ctx.report_progress(1, 2)
    await anyio.sleep(_SHORT_S)
    return "done"


async def test_logging_tool() -> str:
    """Log nothing: the server's log is its own."""
    return "done"


async def json_schema_2020_12_tool(name: str = "") -> str:
    """Take arguments of a schema with many keywords."""
    return name


JSON_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": {"$anchor": "addressDef", "type": "object", "properties": {"city": {"type": "string"}}}},
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "kind": {"enum": ["a", "b"]},
        "phone": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["name"]}, {"required": ["phone"]}]}],
    "if": {"properties": {"kind": {"const": "a"}}, "required": ["kind"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["name"]},
    "additionalProperties": False,
}


async def test_headers(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Take an argument that is named in a header, too."""
    return region


async def test_missing_capability(ctx: Ctx) -> str:
    """Want sampling of the client."""
    if ctx.client_capabilities is None or ctx.client_capabilities.sampling is None:
        data = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "this tool wants sampling", data)
    return "sampling it is"


async def test_trigger_tool_change(ctx: Ctx) -> str:
    """Say that the tools are others now."""
    await ctx.notify_tools_changed()
    return "done"


async def test_trigger_prompt_change(ctx: Ctx) -> str:
    """Say that the prompts are others now."""
    await ctx.notify_prompts_changed()
    return "done"


# ------------------------------------------------------------------------------------------------- tasks


async def greet(name: str) -> str:
    """Greet."""
    return f"Hello, {name}!"


async def slow_compute(seconds: float = 1, label: str = "") -> str:
    """Take so many seconds."""
    await anyio.sleep(seconds)
    return f"{label} took {seconds} s"


async def failing_job(ctx: Ctx) -> str:
    """Fail after a while, for clients that take tasks."""
    require_client_extension(ctx, TASKS)
    await anyio.sleep(_JOB_S)
    raise ToolError("it failed, as it always does")


async def protocol_error_job() -> str:
    """Break after a while."""
    await anyio.sleep(_JOB_S)
    raise MCPError(INTERNAL_ERROR, "it broke, as it always does")


async def test_tool_with_task(ctx: Ctx) -> Answers:
    """Ask at once, then take a while, for clients that take tasks."""
    require_client_extension(ctx, TASKS)
    if (given := answered(ctx, "user_name")) is None:
        return InputRequiredResult(input_requests={"user_name": form("What is your name?", "name")})
    await anyio.sleep(_JOB_S)
    return f"done, {said_in(given['user_name'], 'name')}"


TOOLS = (
    *asking.TOOLS,
    test_simple_text,
    test_image_content,
    test_audio_content,
    test_embedded_resource,
    test_multiple_content_types,
    test_error_handling,
    test_tool_with_progress,
    test_reconnection,
    test_logging_tool,
    json_schema_2020_12_tool,
    test_headers,
    test_missing_capability,
    test_trigger_tool_change,
    test_trigger_prompt_change,
    greet,
    slow_compute,
    failing_job,
    protocol_error_job,
    test_tool_with_task,
)


# ------------------------------------------------------------------------------------ resources, prompts


def _add_resources(server: MCPServer[Any]) -> None:
    @server.resource("test://static-text", description="A text.", mime_type="text/plain")
    def static_text() -> str:
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", description="An image.", mime_type="image/png")
    def static_binary() -> bytes:
        return PNG

    @server.resource("test://template/{id}/data", description="A template.", mime_type="application/json")
    def template(id: str) -> str:  # noqa: A002 - the suite's name
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


def _add_prompts(server: MCPServer[Any]) -> None:
    @server.prompt(description="No arguments.")
    def test_simple_prompt() -> str:
        return "This is a simple prompt for testing."

    @server.prompt(description="Two arguments.")
    def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
        return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"

    @server.prompt(description="A resource.")
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
        embedded = _embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
        return [UserMessage(embedded), UserMessage("Please process the embedded resource above.")]

    @server.prompt(description="An image.")
    def test_prompt_with_image() -> list[UserMessage]:
        return [UserMessage(_image()), UserMessage("Please analyze the image above.")]

    @server.prompt(description="Asks first.")
    def test_input_required_result_prompt(ctx: Ctx) -> Answers:
        if (given := answered(ctx, "user_context")) is None:
            asked = {"user_context": form("What context should the prompt use?", "context")}
            return InputRequiredResult(input_requests=asked)
        return f"Use this: {said_in(given['user_context'], 'context')}"

    @server.completion()
    async def complete(ref: Any, argument: Any, context: Any) -> Completion:
        return Completion(values=[name for name in ("paris", "park", "party") if name.startswith(argument.value)])


def offer(server: MCPServer[Any], patch: pytest.MonkeyPatch) -> None:
    """Offer all of it on one session's server, and let the session carry the tools out as it does its own."""
    for function in TOOLS:
        name = function.__name__
        brief = name not in LONG
        spec = ToolSpec(function, name, CallSpec("shared", counted=False), brief, False, brief)
        patch.setitem(BY_NAME, name, spec)
        server.add_tool(function, structured_output=False)
    server._tool_manager._tools["json_schema_2020_12_tool"].parameters = JSON_SCHEMA
    patch.setattr(long_calls, "LONG", long_calls.LONG | LONG)
    patch.setattr(long_calls, "_QUICK_S", 0.1)
    _add_resources(server)
    _add_prompts(server)
