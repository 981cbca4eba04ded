"""What Inspect's own Python does for ``test_inspect``: one program, because importing Inspect takes seconds.

``python -m tests.inspect.program evaluations LOGS BACKEND`` evaluates the toy task at the server of the environment, or
at one of its own; ``... checks OPTIONS...`` runs the suite for sandbox providers in sandboxes with such options, each a
JSON object. Both print what came of it, as one JSON object.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import inspect_ai
from inspect_ai import task_with
from inspect_ai.agent import as_solver, react
from inspect_ai.event import ModelEvent, ToolEvent
from inspect_ai.log import EvalLog
from inspect_ai.model import Model, ModelOutput, ModelUsage, get_model
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.tool import mcp_tools
from inspect_ai.util import SandboxEnvironment
from inspect_ai.util._sandbox import self_check

from mlgym_clients.inspect.options import SandboxOptions
from mlgym_clients.inspect.sandbox import LABEL, MLGymSandbox
from mlgym_clients.inspect.tasks import attempts_at, session_server
from mlgym_clients.rl.servers import Lease
from mlgym_sandbox import get_backend
from tests.toy import CSV

EXAMPLE = Path(__file__).parents[2] / "clients" / "examples" / "inspect_task.py"
MOCK = "mockllm/model"
CALLS: Mapping[str, list[tuple[str, dict[str, Any]]]] = {
    "good": [
        ("get_task", {}),
        ("write_file", {"path": "submission.csv", "content": CSV}),
        ("shell", {"command": "wc -l < submission.csv; python3 -c 'print(20_000 * chr(97))'"}),
        ("validate", {}),
        ("submit", {}),
    ],
    "forgets to submit": [("write_file", {"path": "submission.csv", "content": CSV})],
    "does nothing": [],
}


def scripted(*calls: tuple[str, dict[str, Any]]) -> Model:
    """A model that makes these calls, one in a turn, and has nothing but words then."""
    outputs = [ModelOutput.for_tool_call(MOCK, name, arguments) for name, arguments in calls]
    outputs += [ModelOutput.from_content(MOCK, "Done.") for _ in range(9)]
    for output in outputs:  # or it would be counted, with a table that is downloaded first
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    return get_model(MOCK, custom_outputs=outputs)


@solver
def picky() -> Solver:
    """An agent with some of the session's tools."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        agent = react(tools=[mcp_tools(session_server(state), tools=["*_file"])], submit=False)
        return await as_solver(agent)(state, generate)

    return solve


def told(log: EvalLog) -> dict[str, Any]:
    """What a test asks of a log, by its first sample."""
    assert log.samples, log.error and log.error.traceback
    assert Lease().address.token not in log.model_dump_json(), "secrets stay out of logs"
    sample = log.samples[0]
    values = {name: score.value for name, score in (sample.scores or {}).items()}
    return {
        "status": log.status,
        "error": sample.error and sample.error.message,
        "task": log.eval.task,
        "version": log.eval.task_version,
        "samples": [str(each.id) for each in log.samples],
        "values": {n: None if isinstance(v, float) and math.isnan(v) else v for n, v in values.items()},
        "facts": {name: score.metadata for name, score in (sample.scores or {}).items()},
        "metrics": [metric for score in (log.results.scores if log.results else []) for metric in score.metrics],
        "tools": [message.function for message in sample.messages if message.role == "tool"],
        "texts": [message.text for message in sample.messages if message.role == "tool"],
        "explanations": {name: score.explanation for name, score in (sample.scores or {}).items()},
        "offered": sorted({tool.name for each in sample.events if isinstance(each, ModelEvent) for tool in each.tools}),
        "views": {each.function: _drawn(each) for each in sample.events if isinstance(each, ToolEvent)},
    }


def _drawn(call: ToolEvent) -> list[str]:
    """How Inspect's page draws a call: its title, what it shows of the arguments, and the result."""
    view = call.view
    result = "text" if isinstance(call.result, str) else "Markdown"
    return [view.title or "", view.content, result] if view else ["", "", result]


def evaluations(logs: str, backend: str) -> dict[str, Any]:
    def run(what: Any, model: Model, **options: Any) -> dict[str, Any]:
        return told(inspect_ai.eval(what, model=model, log_dir=logs, display="none", log_level="error", **options)[0])

    found = {name: run("mlgym_mcp/toy", scripted(*calls)) for name, calls in CALLS.items()}
    arguments = {"task": "toy", "seeds": [3, 4], "budget": {"calls": 1}}
    calls = CALLS["good"][1:]
    found["any task"] = run("mlgym_mcp/attempt", scripted(*calls, *calls), task_args=arguments, max_samples=1)
    edit = ("edit_file", {"path": "start.py", "old": "print", "new": "# ```\nprint"})
    found["own agent"] = run(f"{EXAMPLE}@careful", scripted(edit, *CALLS["good"]), task_args={"name": "toy"})
    some = run(task_with(attempts_at("toy"), solver=picky()), scripted(*CALLS["forgets to submit"]))
    found["some of the tools"] = some
    found["no such preset"] = run("mlgym_mcp/toy", scripted(), task_args={"preset": "huge"})
    fix = ("bash", {"command": "sed -i '$ s/$/)/' sum.py && python3 sum.py && id -u"})
    outcome = ("submit", {"answer": "It is 5050."})
    found["our sandbox"] = run(f"{EXAMPLE}@fix_the_script", scripted(fix, outcome), task_args={"backend": backend})
    return found


Check = Callable[[Any], Awaitable[None]]


async def self_checks(options: SandboxOptions) -> dict[str, str]:
    """Run the suite that Inspect ships for providers; what came of each check, ``passed`` or the error."""
    every: dict[str, Check] = {name: check for name, check in vars(self_check).items() if name.startswith("test_")}
    outcomes: dict[str, str] = {}

    async def in_one_sandbox(some: dict[str, Check]) -> None:
        made = await MLGymSandbox.sample_init("checks", options, {})
        try:
            for name, check in some.items():
                try:
                    await check(made["default"])
                    outcomes[name] = "passed"
                except Exception as error:
                    outcomes[name] = f"{type(error).__name__}: {error}"
        finally:
            await MLGymSandbox.sample_cleanup("checks", options, made, False)

    await MLGymSandbox.task_init("checks", options)
    async with anyio.create_task_group() as tasks:
        for name in [name for name in every if "timeout" in name]:  # they mostly wait, and may do so together
            tasks.start_soon(in_one_sandbox, {name: every.pop(name)})
        tasks.start_soon(in_one_sandbox, every)
        tasks.start_soon(_own_checks, options, outcomes)
    mine = f":{os.getpid()}:"  # an engine may have those of others, too
    left = [b.name for b in await get_backend(options.backend).find({}) if mine in b.labels.get(LABEL, "")]
    outcomes["left behind"] = ", ".join(left) or "nothing"
    return outcomes


async def _own_checks(options: SandboxOptions, outcomes: dict[str, str]) -> None:
    """What the suite does not ask and agents do."""
    (box,) = (await MLGymSandbox.sample_init("checks", options, {})).values()
    try:
        outcomes["a shell for a person"] = await _entered(box)
        outcomes["no such program"] = repr((await box.exec(["no-such-program"])).returncode)
        outcomes["no such folder"] = repr((await box.exec(["ls"], cwd="/nowhere")).returncode)
        flood = await box.exec(["bash", "-c", "yes | head -c 30000000; echo the end"], timeout=60)
        outcomes["a flood"] = f"{len(flood.stdout)} {flood.stdout[-8:].strip()}"
        both = await box.exec(["bash", "-c", "yes e | head -c 3000000 >&2 & yes o | head -c 3000000; wait"], timeout=60)
        outcomes["both at once"] = f"{len(both.stdout)} {len(both.stderr)}"
        begun = anyio.current_time()
        await box.exec(["bash", "-c", "sleep 300 & echo $! > pid"], timeout=60)
        outcomes["left in the background"] = "waited" if anyio.current_time() - begun > 5 else "not waited for"
        alive = await box.exec(["bash", "-c", 'kill -0 "$(cat pid)" && echo alive'])
        outcomes["left in the background"] += f", {alive.stdout.strip()}"
        with anyio.move_on_after(0.5):
            await box.exec(["bash", "-c", "echo $$ > mine; sleep 300"])
        dead = await box.exec(["bash", "-c", 'kill -0 "$(cat mine)"'])
        outcomes["cancelled"] = "dead" if not dead.success else "goes on"
        ignored = await box.exec(["true"], input="x" * 5_000_000)
        outcomes["input that nobody reads"] = repr(ignored.returncode)
        try:
            await box.read_file("/proc/self/environ")
        except PermissionError:
            outcomes["/proc"] = "refused"
        await box.as_type(MLGymSandbox)._box.close()
        try:
            await box.exec(["true"])
        except Exception as error:
            outcomes["a sandbox that is gone"] = type(error).__name__
    finally:
        await MLGymSandbox.sample_cleanup("checks", options, {"default": box}, True)


async def _entered(box: SandboxEnvironment) -> str:
    """Who and where a person is with the command that Inspect shows them, which wants a terminal."""
    try:
        connection = await box.connection()
    except NotImplementedError:
        return "none"
    command = [word for word in shlex.split(connection.command) if word != "-it"]
    return (await anyio.run_process([*command, "-c", "id -u; pwd"])).stdout.decode()


async def all_checks(given: list[str]) -> dict[str, dict[str, str]]:
    """Run them with all options at the same time: they mostly wait."""
    found: dict[str, dict[str, str]] = {}

    async def run(options: SandboxOptions) -> None:
        found[options.backend] = await self_checks(options)

    async with anyio.create_task_group() as tasks:
        for each in given:
            tasks.start_soon(run, SandboxOptions.model_validate_json(each))
    return found


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    print(json.dumps(evaluations(*rest) if what == "evaluations" else anyio.run(all_checks, rest)))
