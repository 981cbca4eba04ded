"""An Agno agent attempts a task: ``pip install -r requirements/agno_agent.txt``.

Over HTTP: ``MLGYM_URL`` and ``MLGYM_TOKEN`` are what ``POST /api/sessions`` answered. On stdio: ``--stdio TASK``.
The model is ``MODEL`` at ``OPENAI_BASE_URL`` (by default OpenAI's), with ``OPENAI_API_KEY``.
"""

import asyncio
import os
import sys

from agno.agent import Agent
from agno.models.openai import OpenAIChat
from agno.tools.mcp import MCPTools
from mcp import StdioServerParameters

GOAL = "Call get_task and do what it says. Improve on the baseline step by step, validate, and submit once, at the end."


def server() -> MCPTools:
    """Where the task is. A call of ours answers within a minute, whatever it started: longer work goes on as a job.

    Agno's own limit is 10 s a call. By default it speaks the protocol of 2025, with a ping before every call.
    """
    if "--stdio" in sys.argv:
        command = os.environ.get("MLGYM_COMMAND", "mlgym-mcp")  # not as MCPTools(command): that refuses most programs
        parameters = StdioServerParameters(command=command, args=["serve", sys.argv[-1]], env=dict(os.environ))
        return MCPTools(transport="stdio", server_params=parameters, timeout_seconds=3600, protocol_mode="auto")
    token = {"Authorization": f"Bearer {os.environ['MLGYM_TOKEN']}"}
    return MCPTools(url=os.environ["MLGYM_URL"], headers=token, timeout_seconds=3600, protocol_mode="auto")


async def main() -> None:
    """Let the agent play."""
    async with server() as mlgym:
        agent = Agent(model=OpenAIChat(id=os.environ["MODEL"]), tools=[mlgym], telemetry=False)
        print((await agent.arun(GOAL)).content)


if __name__ == "__main__":
    asyncio.run(main())
