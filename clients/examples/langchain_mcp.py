"""A LangChain agent attempts a task, by LangChain's own adapter: ``pip install -r requirements/langchain_mcp.txt``.

Over HTTP: ``MLGYM_URL`` and ``MLGYM_TOKEN`` are what ``POST /api/sessions`` answered. On stdio: ``--stdio TASK``.
The model is ``MODEL`` at ``OPENAI_BASE_URL`` (by default OpenAI's), with ``OPENAI_API_KEY``.
"""

import asyncio
import os
import sys
import warnings

from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it says that it is a beta
    from langchain.mcp import MCPAdapter

GOAL = "Call get_task and do what it says. Improve on the baseline step by step, validate, and submit once, at the end."


def server() -> Client:
    """Where the task is. No time-out needs raising: calls have none, and a call of ours answers within a minute."""
    if "--stdio" in sys.argv:
        command = os.environ.get("MLGYM_COMMAND", "mlgym-mcp")
        return Client(StdioTransport(command, ["serve", sys.argv[-1]], env=dict(os.environ)))
    return Client(StreamableHttpTransport(os.environ["MLGYM_URL"], auth=os.environ["MLGYM_TOKEN"]))


async def main() -> None:
    """Let the agent play."""
    model = ChatOpenAI(model=os.environ["MODEL"])
    async with MCPAdapter(server()) as adapter:
        agent = create_agent(model, await adapter.list_tools())
        result = await agent.ainvoke({"messages": [("user", GOAL)]}, {"recursion_limit": 1000})
    print(result["messages"][-1].content)


if __name__ == "__main__":
    asyncio.run(main())
