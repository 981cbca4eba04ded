"""A smolagents agent attempts a task: ``pip install -r requirements/smolagents_agent.txt``.

Over HTTP: ``MLGYM_URL`` and ``MLGYM_TOKEN`` are what ``POST /api/sessions`` answered. On stdio: ``--stdio TASK``.
The model is ``MODEL`` at ``OPENAI_BASE_URL`` (by default OpenAI's), with ``OPENAI_API_KEY``.
"""

import os
import sys

from mcp import StdioServerParameters
from smolagents import MCPClient, OpenAIServerModel, ToolCallingAgent

GOAL = "Call get_task and do what it says. Improve on the baseline step by step, validate, and submit once, at the end."


def server() -> StdioServerParameters | dict[str, object]:
    """Where the task is. A call of ours answers within a minute, whatever it started: longer work goes on as a job."""
    if "--stdio" in sys.argv:
        command = os.environ.get("MLGYM_COMMAND", "mlgym-mcp")
        return StdioServerParameters(command=command, args=["serve", sys.argv[-1]], env=dict(os.environ))
    token = {"Authorization": f"Bearer {os.environ['MLGYM_TOKEN']}"}
    return {"url": os.environ["MLGYM_URL"], "transport": "streamable-http", "headers": token, "sse_read_timeout": 3600}


def main() -> None:
    """Let the agent play."""
    # The session's own limit is 5 s on paper, and none in fact as long as it is an int: None is what is meant.
    no_limit = {"client_session_timeout_seconds": None, "connect_timeout": 60}
    # False: tools answer with text that is meant for models; True would give them the bare JSON where there is some.
    with MCPClient(server(), adapter_kwargs=no_limit, structured_output=False) as tools:
        for schema in (schema for tool in tools for schema in tool.inputs.values()):
            schema["nullable"] = "default" in schema  # else smolagents refuses calls that leave it out
        model = OpenAIServerModel(os.environ["MODEL"])
        agent = ToolCallingAgent(tools=tools, model=model, max_steps=200, max_tool_threads=1, verbosity_level=0)
        print(agent.run(GOAL))


if __name__ == "__main__":
    main()
