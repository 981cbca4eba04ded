"""What Inspect's own Python does for ``test_inspect``: one program, because importing Inspect takes seconds.

``python -m tests.inspect.program LOGS BACKEND`` evaluates the toy task at the server of the environment, or at one of
its own, runs the suite for sandbox providers, and prints what came of both, as one JSON object.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import inspect_ai
from inspect_ai.log import EvalLog
from inspect_ai.model import Model, ModelOutput, ModelUsage, get_model
from inspect_ai.util._sandbox import self_check

from mlgym_clients.inspect.options import SandboxOptions
from mlgym_clients.inspect.sandbox import LABEL, MLGymSandbox
from mlgym_clients.rl.servers import Lease
from mlgym_sandbox import get_backend
from tests.toy import CSV

EXAMPLE = Path(__file__).parents[2] / "clients" / "examples" / "inspect_task.py"
MOCK = "mockllm/model"
CALLS: Mapping[str, list[tuple[str, dict[str, Any]]]] = {
    "good": [
        ("get_task", {}),
        ("write_file", {"path": "submission.csv", "content": CSV}),
        ("shell", {"command": "wc -l < submission.csv"}),
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
    }


def evaluations(logs: str, backend: str) -> dict[str, Any]:
    def run(what: Any, model: Model, **options: Any) -> dict[str, Any]:
        return told(inspect_ai.eval(what, model=model, log_dir=logs, display="none", log_level="error", **options)[0])

    found = {name: run("mlgym_mcp/toy", scripted(*calls)) for name, calls in CALLS.items()}
    arguments = {"task": "toy", "seeds": [3, 4], "budget": {"calls": 1}}
    calls = CALLS["good"][1:]
    found["any task"] = run("mlgym_mcp/attempt", scripted(*calls, *calls), task_args=arguments, max_samples=1)
    found["own agent"] = run(f"{EXAMPLE}@careful", scripted(*CALLS["good"]), task_args={"name": "toy"})
    found["no such preset"] = run("mlgym_mcp/toy", scripted(), task_args={"preset": "huge"})
    fix = ("bash", {"command": "sed -i '$ s/$/)/' sum.py && python3 sum.py && id -u"})
    outcome = ("submit", {"answer": "It is 5050."})
    found["our sandbox"] = run(f"{EXAMPLE}@fix_the_script", scripted(fix, outcome), task_args={"backend": backend})
    return found


Check = Callable[[Any], Awaitable[None]]


async def self_checks(backend: str) -> dict[str, str]:
    """Run the suite that Inspect ships for providers; what came of each check, ``passed`` or the error."""
    options = SandboxOptions(backend=backend, environment="bare")  # type: ignore[arg-type]
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
    left = [found.name for found in await get_backend(backend).find({}) if LABEL in found.labels]
    outcomes["left behind"] = ", ".join(left) or "nothing"
    return outcomes


async def _own_checks(options: SandboxOptions, outcomes: dict[str, str]) -> None:
    """What the suite does not ask and agents do."""
    (box,) = (await MLGymSandbox.sample_init("checks", options, {})).values()
    try:
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


if __name__ == "__main__":
    place, sandbox = sys.argv[1:]
    print(json.dumps({"evaluations": evaluations(place, sandbox), "checks": anyio.run(self_checks, sandbox)}))
