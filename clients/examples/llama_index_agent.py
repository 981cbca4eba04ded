"""A LlamaIndex agent attempts a task: ``pip install -r requirements/llama_index_agent.txt``.

Over HTTP: ``MLGYM_URL`` and ``MLGYM_TOKEN`` are what ``POST /api/sessions`` answered. On stdio: ``--stdio TASK``.
The model is ``MODEL`` at ``OPENAI_BASE_URL`` (by default OpenAI's), with ``OPENAI_API_KEY``.
"""

import asyncio
import os
import sys

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.llms.openai_like import OpenAILike
from llama_index.tools.mcp import BasicMCPClient, McpToolSpec

GOAL = "Call get_task and do what it says. Improve on the baseline step by step, validate, and submit once, at the end."


def server() -> BasicMCPClient:
    """Where the task is. A call of ours answers within a minute, whatever it started: longer work goes on as a job.

    LlamaIndex connects anew for every tool call (on stdio it starts the command anew): our sessions do not mind.
    Its default time-out is 30 s, less than a call may take.
    """
    if "--stdio" in sys.argv:
        command = os.environ.get("MLGYM_COMMAND", "mlgym-mcp")
        return BasicMCPClient(command, args=["serve", sys.argv[-1]], env=dict(os.environ), timeout=600)
    token = {"Authorization": f"Bearer {os.environ['MLGYM_TOKEN']}"}
    return BasicMCPClient(os.environ["MLGYM_URL"], headers=token, timeout=600, sse_read_timeout=3600)


async def main() -> None:
    """Let the agent play."""
    tools = await McpToolSpec(client=server()).to_tool_list_async()
    model = OpenAILike(
        model=os.environ["MODEL"],
        api_base=os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1"),
        api_key=os.environ["OPENAI_API_KEY"],
        is_chat_model=True,
        is_function_calling_model=True,
    )
    agent = FunctionAgent(tools=tools, llm=model, system_prompt="You know machine learning well.", timeout=None)
    print(await agent.run(GOAL, max_iterations=200))


if __name__ == "__main__":
    asyncio.run(main())
