"""Makes a task's own submissions, by ``gold(ctx)`` (the perfect one) and ``plain(ctx)`` of its ``grader.py``.

It reads the vault, so it runs where graders run: in a process of its own, by the light environment's Python. Used
by ``tasks check`` and by tests only; no session ever asks for it.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import anyio

from mlgym_mcp.catalog.catalog import Task
from mlgym_mcp.catalog.errors import TaskError
from mlgym_mcp.catalog.prepared import Prepared

_TIMEOUT_S: Final = 120.0
_PROGRAM: Final = """
import base64, importlib.util, json, os, sys
from pathlib import Path
order = json.load(sys.stdin)
sys.stdout = sys.stderr
folder = order["package"]
spec = importlib.util.spec_from_file_location(
    "mlgym_mcp", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder])
package = sys.modules["mlgym_mcp"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from mlgym_mcp.catalog.confined import load_function
from mlgym_mcp.grading.api import GradeContext
ctx = GradeContext(task=order["task"], preset=order["preset"], params=order["params"], split=order["split"],
    submission=Path("/nonexistent"), public_folder=Path(order["public"]), private_folder=Path(order["private"]),
    secret=bytes.fromhex(order["secret"]))
files = load_function(Path(order["folder"]), order["module"] + ":" + order["function"])(ctx)
encoded = None if files is None else {name: base64.b64encode(data).decode() for name, data in files.items()}
json.dump(encoded, sys.__stdout__)
"""


async def gold(
    task: Task, prepared: Prepared, python: Path, *, split: Literal["val", "test"] = "test"
) -> dict[str, bytes] | None:
    """Return the files of the perfect submission, or ``None`` for a task that has none, such as a game.

    Args and raises: as :func:`own_submission`.
    """
    return await own_submission("gold", task, prepared, python, split=split)


async def own_submission(
    function: Literal["gold", "plain"],
    task: Task,
    prepared: Prepared,
    python: Path,
    *,
    split: Literal["val", "test"] = "test",
) -> dict[str, bytes] | None:
    """Return the files of a submission that the task's grader makes itself.

    Args:
        function: ``gold``, the perfect one, or ``plain``, the simplest legal one (players and weights).
        task: the task.
        prepared: its data.
        python: the light environment's interpreter.
        split: for which the submission shall be perfect.

    Raises:
        TaskError: the grader has no such function that works.
    """
    order = {
        "package": str(Path(__file__).resolve().parent.parent),
        "folder": str(task.folder),
        "function": function,
        "module": task.spec.grader.entrypoint.partition(":")[0],
        "task": task.id,
        "preset": prepared.preset,
        "params": dict(task.preset(prepared.preset).params),
        "split": split,
        "public": str(prepared.public),
        "private": str(prepared.private),
        "secret": prepared.world().hex(),
    }
    command = [str(python), "-I", "-B", "-c", _PROGRAM]
    try:
        with anyio.fail_after(_TIMEOUT_S):
            done = await anyio.run_process(
                command, input=json.dumps(order).encode(), check=False, env={"LANG": "C.UTF-8"}, stderr=subprocess.PIPE
            )
    except TimeoutError:
        raise TaskError(f"{function}() of {task.id} did not finish within {_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise TaskError(f"{function}() of {task.id} cannot be run with {python}: {error}") from error
    if done.returncode:
        raise TaskError(f"{function}() of {task.id} failed:\n{done.stderr[-4000:].decode(errors='replace')}")
    encoded: Mapping[str, str] | None = json.loads(done.stdout)
    if encoded is None:
        return None
    return {name: base64.b64decode(data) for name, data in encoded.items()}
