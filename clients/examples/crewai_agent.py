"""A CrewAI crew attempts a task: ``pip install -r requirements/crewai_agent.txt``.

Over HTTP: ``MLGYM_URL`` and ``MLGYM_TOKEN`` are what ``POST /api/sessions`` answered. On stdio: ``--stdio TASK``.
The model is ``MODEL`` at ``OPENAI_BASE_URL`` (by default OpenAI's), with ``OPENAI_API_KEY``.
"""

import os
import sys

from crewai import LLM, Agent, Crew, Task
from crewai_tools import MCPServerAdapter
from mcp import StdioServerParameters

GOAL = "Call get_task and do what it says. Improve on the baseline step by step, validate, and submit once, at the end."


def server() -> StdioServerParameters | dict[str, object]:
    """Where the task is. A call of ours answers within a minute, whatever it started: longer work goes on as a job."""
    if "--stdio" in sys.argv:
        command = os.environ.get("MLGYM_COMMAND", "mlgym-mcp")
        return StdioServerParameters(command=command, args=["serve", sys.argv[-1]], env=dict(os.environ))
    token = {"Authorization": f"Bearer {os.environ['MLGYM_TOKEN']}"}
    return {"url": os.environ["MLGYM_URL"], "transport": "streamable-http", "headers": token, "sse_read_timeout": 3600}


def main() -> None:
    """Let the crew play."""
    # Not Agent(mcps=[...]): that connects anew for every call, gives up after 30 s, and names tools after the URL.
    with MCPServerAdapter(server(), connect_timeout=60) as tools:
        agent = Agent(
            role="researcher",
            goal="The best score that the budget allows",
            backstory="You know machine learning well.",
            llm=LLM(model=f"openai/{os.environ['MODEL']}", base_url=os.environ.get("OPENAI_BASE_URL")),
            tools=tools,
            max_iter=200,
        )
        task = Task(description=GOAL, expected_output="What was tried, and the score.", agent=agent)
        print(Crew(agents=[agent], tasks=[task]).kickoff())


if __name__ == "__main__":
    main()
