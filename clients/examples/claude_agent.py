"""An agent of the Claude Agent SDK attempts a task: ``pip install -r requirements/claude_agent_sdk.txt``.

Over HTTP: ``MLGYM_URL`` and ``MLGYM_TOKEN`` are what ``POST /api/sessions`` answered. On stdio: ``--stdio TASK``.
The model is ``MODEL`` at ``ANTHROPIC_BASE_URL`` (by default Anthropic's), with ``ANTHROPIC_API_KEY``.
"""

import asyncio
import os
import sys
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions, ResultMessage, query

GOAL = "Call get_task and do what it says. Improve on the baseline step by step, validate, and submit once, at the end."


def server() -> dict[str, Any]:
    """Where the task is. While a call runs we report progress, and then Claude's time-out (5 minutes) never comes."""
    if "--stdio" in sys.argv:
        command = os.environ.get("MLGYM_COMMAND", "mlgym-mcp")
        return {"type": "stdio", "command": command, "args": ["serve", sys.argv[-1]], "env": dict(os.environ)}
    token = {"Authorization": f"Bearer {os.environ['MLGYM_TOKEN']}"}
    return {"type": "http", "url": os.environ["MLGYM_URL"], "headers": token}


async def main() -> None:
    """Let the agent play."""
    options = ClaudeAgentOptions(
        model=os.environ["MODEL"],
        mcp_servers={"mlgym": server()},
        strict_mcp_config=True,  # no servers that this user has configured elsewhere
        tools=[],  # no tools of Claude's own: its shell would be one on this machine, outside the sandbox
        allowed_tools=["mcp__mlgym"],
        setting_sources=[],
        max_turns=200,
    )
    async for message in query(prompt=GOAL, options=options):
        if isinstance(message, ResultMessage):
            print(message.result)


if __name__ == "__main__":
    asyncio.run(main())
