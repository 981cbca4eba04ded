"""An agent of forty lines, over version 1 of the mcp package: ``pip install -r requirements/old_protocol.txt``.

Over HTTP: ``MLGYM_URL`` and ``MLGYM_TOKEN`` are what ``POST /api/sessions`` answered. On stdio: ``--stdio TASK``.
The model is ``MODEL`` at ``OPENAI_BASE_URL`` (by default OpenAI's), with ``OPENAI_API_KEY``.
"""

import asyncio
import json
import os
import sys
from contextlib import AbstractAsyncContextManager
from typing import Any

from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamablehttp_client
from mcp.types import Tool
from openai import AsyncOpenAI

GOAL = "Call get_task and do what it says. Improve on the baseline step by step, validate, and submit once, at the end."


def server() -> AbstractAsyncContextManager[Any]:
    """Where the task is. A call of ours answers within a minute, whatever it started: longer work goes on as a job."""
    if "--stdio" in sys.argv:
        command = os.environ.get("MLGYM_COMMAND", "mlgym-mcp")
        return stdio_client(StdioServerParameters(command=command, args=["serve", sys.argv[-1]], env=dict(os.environ)))
    token = {"Authorization": f"Bearer {os.environ['MLGYM_TOKEN']}"}
    return streamablehttp_client(os.environ["MLGYM_URL"], headers=token, timeout=60, sse_read_timeout=3600)


def as_function(tool: Tool) -> dict[str, Any]:
    """Return a tool as models are told of it."""
    return {"name": tool.name, "description": tool.description, "parameters": tool.inputSchema}


async def main() -> None:
    """Let the model play until it calls nothing any more."""
    model, messages = AsyncOpenAI(), [{"role": "user", "content": GOAL}]
    async with server() as (read, write, *_), ClientSession(read, write) as mlgym:
        await mlgym.initialize()
        tools = [{"type": "function", "function": as_function(tool)} for tool in (await mlgym.list_tools()).tools]
        while True:
            asked = model.chat.completions.create(model=os.environ["MODEL"], messages=messages, tools=tools)
            message = (await asked).choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            for call in message.tool_calls or ():
                result = await mlgym.call_tool(call.function.name, json.loads(call.function.arguments))
                text = "\n".join(block.text for block in result.content if block.type == "text")
                messages.append({"role": "tool", "tool_call_id": call.id, "content": text})
            if not message.tool_calls:
                print(message.content)
                return


if __name__ == "__main__":
    asyncio.run(main())
