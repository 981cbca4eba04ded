"""A client of OpenEnv plays an episode: ``pip install -r requirements/openenv_client.txt``.

Beside the server, where mlgym-mcp is installed: ``python -m mlgym_clients.facades openenv``. Then

    python openenv_client.py http://127.0.0.1:8770 three_sat [CALLS.json]

``CALLS.json`` is a list of calls, ``[["shell", {"command": "ls"}], ["submit", {}]]``.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openenv.core.env_server.mcp_types import CallToolAction
from openenv.core.mcp_client import MCPToolClient

CALLS: list[tuple[str, dict[str, Any]]] = [("shell", {"command": "ls -l . /data"}), ("submit", {})]


def policy(instruction: str, tools: list[str], calls: list[Any]) -> Iterator[CallToolAction]:
    """Decide what to call next. A model would be asked here."""
    for tool, arguments in calls:
        yield CallToolAction(tool_name=tool, arguments=arguments)


async def main(url: str, task: str, calls: list[Any]) -> None:
    """Play one episode."""
    token = os.environ.get("MLGYM_FACADE_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else None
    # A call of ours answers within a minute, a grading when it is done: more patience than the default of 60 seconds.
    async with MCPToolClient(base_url=url, message_timeout_s=3600, headers=headers) as env:
        first = await env.reset(task=task, seed=0)
        tools = [tool.name for tool in await env.list_tools()]
        total = 0.0
        for action in policy(first.observation.instruction, tools, calls):
            step = await env.step(action)
            total += step.reward or 0.0
            print(f"{action.tool_name}: {step.observation.result['data']}")
            if step.done:
                break
        print(f"{(await env.state()).step_count} steps of {len(tools)} tools, reward {total:.2f}, done {step.done}")


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[3]).read_text()) if len(sys.argv) > 3 else CALLS
    asyncio.run(main(sys.argv[1], sys.argv[2], given))
