"""Inspect's react agent attempts a task: ``pip install -r requirements/inspect.txt``.

Over HTTP: ``MLGYM_URL`` and ``MLGYM_TOKEN`` are what ``POST /api/sessions`` answered. On stdio: ``--stdio TASK``.
The model is ``MODEL`` at ``OPENAI_BASE_URL`` (by default OpenAI's), with ``OPENAI_API_KEY``.
"""

import os
import sys

import inspect_ai
from inspect_ai.agent import react
from inspect_ai.dataset import Sample
from inspect_ai.tool import MCPServer, mcp_server_http, mcp_server_stdio

GOAL = "Call get_task and do what it says. Improve on the baseline step by step, validate, and submit once, at the end."


def server() -> MCPServer:
    """Where the task is. A call of ours answers within a minute, whatever it started: longer work goes on as a job."""
    if "--stdio" in sys.argv:
        command = os.environ.get("MLGYM_COMMAND", "mlgym-mcp")
        return mcp_server_stdio(name="mlgym", command=command, args=["serve", sys.argv[-1]], env=dict(os.environ))
    url, token = os.environ["MLGYM_URL"], os.environ["MLGYM_TOKEN"]
    return mcp_server_http(name="mlgym", url=url, authorization=token, timeout=60, sse_read_timeout=3600)


def main() -> None:
    """Let the agent play."""
    # submit=False: the task's own tool submits, and Inspect's would be of the same name. The attempt is then over when
    # the model has nothing to call any more.
    task = inspect_ai.Task(name="mlgym", dataset=[Sample(input=GOAL)], solver=react(tools=[server()], submit=False))
    (log,) = inspect_ai.eval(task, model=f"openai/{os.environ['MODEL']}", display="none", message_limit=400)
    if log.status != "success" or not log.samples:
        sys.exit(f"{log.status}: {log.error.message if log.error else 'no sample'}")
    print(log.samples[0].output.completion)


if __name__ == "__main__":
    main()
