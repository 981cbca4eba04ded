"""An agent of Microsoft's Agent Framework attempts a task: ``pip install -r requirements/agent_framework_agent.txt``.

Over HTTP: ``MLGYM_URL`` and ``MLGYM_TOKEN`` are what ``POST /api/sessions`` answered. On stdio: ``--stdio TASK``.
The model is ``MODEL`` at ``OPENAI_BASE_URL`` (by default OpenAI's), with ``OPENAI_API_KEY``.
"""

import asyncio
import os
import sys

from agent_framework import Agent, MCPStdioTool, MCPStreamableHTTPTool
from agent_framework.openai import OpenAIChatCompletionClient

GOAL = "Call get_task and do what it says. Improve on the baseline step by step, validate, and submit once, at the end."


def server() -> MCPStdioTool | MCPStreamableHTTPTool:
    """Where the task is. A call of ours answers within a minute, whatever it started: longer work goes on as a job.

    load_prompts: the prompts of a server would become tools. tool_result_content: text is meant for models, and says
    what the structured results say.
    """
    if "--stdio" in sys.argv:
        return MCPStdioTool(
            name="mlgym",
            command=os.environ.get("MLGYM_COMMAND", "mlgym-mcp"),
            args=["serve", sys.argv[-1]],
            env=dict(os.environ),
            load_prompts=False,
            tool_result_content="content_only",
        )
    token = {"Authorization": f"Bearer {os.environ['MLGYM_TOKEN']}"}
    return MCPStreamableHTTPTool(
        name="mlgym",
        url=os.environ["MLGYM_URL"],
        static_headers=token,
        load_prompts=False,
        tool_result_content="content_only",
    )


async def main() -> None:
    """Let the agent play."""
    async with server() as mlgym:
        client = OpenAIChatCompletionClient(model=os.environ["MODEL"])
        client.function_invocation_configuration["max_iterations"] = 200  # after 40 it would stop calling tools
        print(await Agent(client=client, name="researcher", tools=mlgym).run(GOAL))


if __name__ == "__main__":
    asyncio.run(main())
