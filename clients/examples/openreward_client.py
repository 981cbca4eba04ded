"""A client of the Open Reward Standard plays an episode: ``pip install -r requirements/openreward_client.txt``.

Beside the server, where mlgym-mcp is installed: ``python -m mlgym_clients.facades openreward``. Then

    python openreward_client.py http://127.0.0.1:8770 three_sat [CALLS.json]

``CALLS.json`` is a list of calls, ``[["shell", {"command": "ls"}], ["submit", {}]]``.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openreward import OpenReward

CALLS: list[tuple[str, dict[str, Any]]] = [("shell", {"command": "ls -l . /data"}), ("submit", {})]


def policy(prompt: str, tools: list[str], calls: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Decide what to call next. A model would be asked here."""
    yield from calls


def main(url: str, wanted: str, calls: list[Any]) -> None:
    """Play one episode."""
    client = OpenReward(api_key=os.environ.get("MLGYM_FACADE_TOKEN", "none"))
    environment = client.environments.get("mlgym", base_url=url)
    tasks = {task.task_spec["task"]: task for task in environment.list_tasks("mini")}
    with environment.session(tasks[wanted]) as session:
        prompt = session.get_prompt()[0].text
        tools = [tool.name for tool in session.list_tools()]
        total, steps, finished = 0.0, 0, False
        for tool, arguments in policy(prompt, tools, calls):
            output = session.call_tool(tool, arguments)
            total, steps, finished = total + (output.reward or 0.0), steps + 1, output.finished
            print(f"{tool}: {output.blocks[0].text}")
            if finished:
                break
        if not finished and session.is_assistant_message_final():  # the model has said its last word
            output = session.call_terminal_tool()
            total, steps, finished = total + (output.reward or 0.0), steps + 1, output.finished
        print(f"{steps} steps of {len(tools)} tools, reward {total:.2f}, done {finished}")
    client.environments.close()


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[3]).read_text()) if len(sys.argv) > 3 else CALLS
    main(sys.argv[1], sys.argv[2], given)
