"""A Pydantic AI agent attempts a task: ``pip install -r requirements/pydantic_ai_agent.txt``.

Over HTTP: ``MLGYM_URL`` and ``MLGYM_TOKEN`` are what ``POST /api/sessions`` answered. On stdio: ``--stdio TASK``.
The model is ``MODEL`` at ``OPENAI_BASE_URL`` (by default OpenAI's), with ``OPENAI_API_KEY``.
"""

import asyncio
import os
import sys

from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.usage import UsageLimits

GOAL = "Call get_task and do what it says. Improve on the baseline step by step, validate, and submit once, at the end."


def server() -> MCPToolset:
    """Where the task is. A call of ours answers within a minute, whatever it started: longer work goes on as a job."""
    options = {
        "include_instructions": True,  # what the server says of itself
        "init_timeout": 60,  # 5 s by default: too little where the server has yet to be started
        "read_timeout": 3600,
        "max_retries": 10,  # by default the second mistake in calling a tool ends the run
    }
    if "--stdio" in sys.argv:
        command = os.environ.get("MLGYM_COMMAND", "mlgym-mcp")
        return MCPToolset(StdioTransport(command, ["serve", sys.argv[-1]], env=dict(os.environ)), **options)
    token = {"Authorization": f"Bearer {os.environ['MLGYM_TOKEN']}"}
    return MCPToolset(os.environ["MLGYM_URL"], headers=token, **options)


async def main() -> None:
    """Let the agent play."""
    agent = Agent(f"openai-chat:{os.environ['MODEL']}", toolsets=[server()])
    async with agent:  # one connection for the whole attempt
        result = await agent.run(GOAL, usage_limits=UsageLimits(request_limit=200))
    print(result.output)


if __name__ == "__main__":
    asyncio.run(main())
