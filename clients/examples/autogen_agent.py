"""An AutoGen agent attempts a task: ``pip install -r requirements/autogen_agent.txt``.

Over HTTP: ``MLGYM_URL`` and ``MLGYM_TOKEN`` are what ``POST /api/sessions`` answered. On stdio: ``--stdio TASK``.
The model is ``MODEL`` at ``OPENAI_BASE_URL`` (by default OpenAI's), with ``OPENAI_API_KEY``.
"""

import asyncio
import os
import sys

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ModelInfo
from autogen_ext.models.openai import OpenAIChatCompletionClient
from autogen_ext.tools.mcp import McpWorkbench, StdioServerParams, StreamableHttpServerParams

GOAL = "Call get_task and do what it says. Improve on the baseline step by step, validate, and submit once, at the end."
ABILITIES = ModelInfo(vision=False, function_calling=True, json_output=True, structured_output=True, family="unknown")


def server() -> StdioServerParams | StreamableHttpServerParams:
    """Where the task is. A call of ours answers within a minute, whatever it started: longer work goes on as a job.

    By default a call may take 5 s on stdio and 5 minutes over HTTP.
    """
    if "--stdio" in sys.argv:
        command, arguments = os.environ.get("MLGYM_COMMAND", "mlgym-mcp"), ["serve", sys.argv[-1]]
        return StdioServerParams(command=command, args=arguments, env=dict(os.environ), read_timeout_seconds=3600)
    token = {"Authorization": f"Bearer {os.environ['MLGYM_TOKEN']}"}
    return StreamableHttpServerParams(url=os.environ["MLGYM_URL"], headers=token, timeout=60, sse_read_timeout=3600)


async def main() -> None:
    """Let the agent play."""
    model = OpenAIChatCompletionClient(model=os.environ["MODEL"], model_info=ABILITIES)
    async with McpWorkbench(server()) as mlgym:
        agent = AssistantAgent("researcher", model, workbench=mlgym, max_tool_iterations=200)
        print((await agent.run(task=GOAL)).messages[-1].content)


if __name__ == "__main__":
    asyncio.run(main())
