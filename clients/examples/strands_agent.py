"""A Strands agent attempts a task: ``pip install -r requirements/strands_agent.txt``.

Over HTTP: ``MLGYM_URL`` and ``MLGYM_TOKEN`` are what ``POST /api/sessions`` answered. On stdio: ``--stdio TASK``.
The model is ``MODEL`` at ``OPENAI_BASE_URL`` (by default OpenAI's), with ``OPENAI_API_KEY``.
"""

import os
import sys

from mcp import StdioServerParameters, stdio_client
from strands import Agent
from strands.models.openai import OpenAIModel
from strands.tools.mcp import MCPClient

GOAL = "Call get_task and do what it says. Improve on the baseline step by step, validate, and submit once, at the end."


def server() -> MCPClient:
    """Where the task is. A call of ours answers within a minute, whatever it started: longer work goes on as a job."""
    if "--stdio" in sys.argv:
        command = os.environ.get("MLGYM_COMMAND", "mlgym-mcp")
        parameters = StdioServerParameters(command=command, args=["serve", sys.argv[-1]], env=dict(os.environ))
        return MCPClient(lambda: stdio_client(parameters), startup_timeout=60)
    token = {"Authorization": f"Bearer {os.environ['MLGYM_TOKEN']}"}
    return MCPClient(url=os.environ["MLGYM_URL"], headers=token, startup_timeout=60)


def main() -> None:
    """Let the agent play."""
    with server() as mlgym:
        model = OpenAIModel(model_id=os.environ["MODEL"])
        agent = Agent(model=model, tools=mlgym.list_tools_sync(), callback_handler=None)
        print(str(agent(GOAL)).strip())


if __name__ == "__main__":
    main()
