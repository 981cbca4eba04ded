"""The perfect submission, made by a task's own grader from the hidden data: only to prove the task."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from mlgym_mcp.grading.errors import GraderError

if TYPE_CHECKING:
    from mlgym_mcp.catalog import Prepared, Task

_TIMEOUT_S = 300.0

_PROGRAM = """
import base64, importlib.util, json, os, sys
facts = json.load(sys.stdin)
spec = importlib.util.spec_from_file_location("mlgym_mcp", os.path.join(facts["package"], "__init__.py"),
    submodule_search_locations=[facts["package"]])
package = sys.modules["mlgym_mcp"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from pathlib import Path
from mlgym_mcp.grading.api import GradeContext
sys.path.append(facts["folder"])
import grader
context = GradeContext(task=facts["task"], preset=facts["preset"], params=facts["params"], split="test",
    submission=Path("/nonexistent"), public_folder=Path(facts["public"]), private_folder=Path(facts["private"]),
    secret=bytes.fromhex(facts["secret"]))
made = grader.gold(context) if hasattr(grader, "gold") else None
print(json.dumps(None if made is None else {k: base64.b64encode(v).decode() for k, v in made.items()}))
"""


async def gold_submission(task: Task, preset: str, prepared: Prepared, python: Path | None) -> dict[str, bytes] | None:
    """Return the files of a submission that cannot be beaten, or ``None`` where there is none (games).

    Raises:
        GraderError: the task's ``gold`` failed.
    """
    facts: dict[str, Any] = {
        "package": str(Path(__file__).resolve().parent.parent),
        "folder": str(task.folder),
        "task": task.id,
        "preset": preset,
        "params": dict(task.preset(preset).params),
        "public": str(prepared.public),
        "private": str(prepared.private),
        "secret": prepared.world().hex(),
    }
    command = [str(python or sys.executable), "-I", "-B", "-c", _PROGRAM]
    with anyio.fail_after(_TIMEOUT_S):
        done = await anyio.run_process(command, input=json.dumps(facts).encode(), check=False, stderr=subprocess.PIPE)
    if done.returncode != 0:
        raise GraderError(f"the perfect submission of {task.id} could not be made: {done.stderr.decode()[-500:]}")
    made = json.loads(done.stdout)
    return None if made is None else {name: base64.b64decode(text) for name, text in made.items()}
