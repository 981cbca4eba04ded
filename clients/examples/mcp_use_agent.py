"""An mcp-use agent attempts a task: ``pip install -r requirements/mcp_use_agent.txt``.

Over HTTP: ``MLGYM_URL`` and ``MLGYM_TOKEN`` are what ``POST /api/sessions`` answered. On stdio: ``--stdio TASK``.
The model is ``MODEL`` at ``OPENAI_BASE_URL`` (by default OpenAI's), with ``OPENAI_API_KEY``.
"""

import asyncio
import os
import sys

from langchain_openai import ChatOpenAI
from mcp_use import MCPAgent, MCPClient

GOAL = "Call get_task and do what it says. Improve on the baseline step by step, validate, and submit once, at the end."


def server() -> dict[str, object]:
    """Where the task is. A call of ours answers within a minute, whatever it started: longer work goes on as a job."""
    if "--stdio" in sys.argv:
        command = os.environ.get("MLGYM_COMMAND", "mlgym-mcp")
        return {"command": command, "args": ["serve", sys.argv[-1]], "env": dict(os.environ)}
    token = {"Authorization": f"Bearer {os.environ['MLGYM_TOKEN']}"}
    return {"url": os.environ["MLGYM_URL"], "headers": token, "timeout": 60, "sse_read_timeout": 3600}


async def main() -> None:
    """Let the agent play.

    It is also shown the server's resources and prompts, as tools: "status" is then the resource, which says the same.
    """
    client = MCPClient({"mcpServers": {"mlgym": server()}})
    agent = MCPAgent(llm=ChatOpenAI(model=os.environ["MODEL"]), client=client, max_steps=200)
    print(await agent.run(GOAL))
    await client.close_all_sessions()


if __name__ == "__main__":
    asyncio.run(main())
