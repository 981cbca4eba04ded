"""An AG2 agent attempts a task: ``pip install -r requirements/ag2_agent.txt``.

Over HTTP: ``MLGYM_URL`` and ``MLGYM_TOKEN`` are what ``POST /api/sessions`` answered. On stdio: ``--stdio TASK``.
The model is ``MODEL`` at ``OPENAI_BASE_URL`` (by default OpenAI's), with ``OPENAI_API_KEY``.
"""

import asyncio
import os
import sys

from ag2 import Agent
from ag2.config import OpenAIConfig
from ag2.tools.toolkits.mcp_server import MCPServerConfig, MCPStdioServerConfig, MCPToolkit

GOAL = "Call get_task and do what it says. Improve on the baseline step by step, validate, and submit once, at the end."


def server() -> MCPServerConfig | MCPStdioServerConfig:
    """Where the task is. A call of ours answers within a minute, whatever it started: longer work goes on as a job.

    AG2 connects anew for every tool call (on stdio it starts the command anew): our sessions do not mind.
    """
    if "--stdio" in sys.argv:
        command = os.environ.get("MLGYM_COMMAND", "mlgym-mcp")
        return MCPStdioServerConfig(
            command=command, args=["serve", sys.argv[-1]], env=dict(os.environ), protocol_mode="auto"
        )
    return MCPServerConfig(
        server_url=os.environ["MLGYM_URL"],
        authorization_token=os.environ["MLGYM_TOKEN"],
        connection_timeout=600,  # for every request, not only for the connection
        protocol_mode="auto",  # the protocol of 2026 needs no handshake, which saves two requests a call
    )


async def main() -> None:
    """Let the agent play."""
    model = OpenAIConfig(model=os.environ["MODEL"])
    agent = Agent("researcher", config=model, tools=[MCPToolkit(server())])
    reply = await agent.ask(GOAL)
    print(reply.body)


if __name__ == "__main__":
    asyncio.run(main())
