"""An agent of the OpenAI Agents SDK attempts a task: ``pip install -r requirements/openai_agents.txt``.

Over HTTP: ``MLGYM_URL`` and ``MLGYM_TOKEN`` are what ``POST /api/sessions`` answered. On stdio: ``--stdio TASK``.
The model is ``MODEL`` at ``OPENAI_BASE_URL`` (by default OpenAI's), with ``OPENAI_API_KEY``.
"""

import asyncio
import os
import sys

from agents import Agent, Runner, set_tracing_disabled
from agents.mcp import MCPServer, MCPServerStdio, MCPServerStreamableHttp

GOAL = "Call get_task and do what it says. Improve on the baseline step by step, validate, and submit once, at the end."


def server() -> MCPServer:
    """Where the task is. A call of ours answers within a minute, whatever it started: longer work goes on as a job.

    The SDK's own limit is 5 s a call. It also lists the tools before every turn, unless it may keep the list.
    """
    if "--stdio" in sys.argv:
        command = os.environ.get("MLGYM_COMMAND", "mlgym-mcp")
        return MCPServerStdio(
            params={"command": command, "args": ["serve", sys.argv[-1]], "env": dict(os.environ)},
            client_session_timeout_seconds=3600,
            cache_tools_list=True,
        )
    token = {"Authorization": f"Bearer {os.environ['MLGYM_TOKEN']}"}
    return MCPServerStreamableHttp(
        params={"url": os.environ["MLGYM_URL"], "headers": token, "timeout": 60},
        client_session_timeout_seconds=3600,
        cache_tools_list=True,
    )


async def main() -> None:
    """Let the agent play."""
    set_tracing_disabled(True)  # else everything is also sent to OpenAI's trace viewer, whichever the model
    async with server() as mlgym:
        agent = Agent(name="researcher", model=os.environ["MODEL"], mcp_servers=[mlgym])
        result = await Runner.run(agent, GOAL, max_turns=200)
    print(result.final_output)


if __name__ == "__main__":
    asyncio.run(main())
