"""Our tasks in Inspect with an agent of one's own, and a task of one's own in our sandbox.

``pip install 'mlgym-mcp[inspect]'``, then for instance

    inspect eval inspect_task.py@careful --model openai/gpt-5 -T name=three_sat -T seeds=3
    inspect eval inspect_task.py@fix_the_script --model openai/gpt-5 -T backend=docker

Without an agent of one's own no file is needed: ``inspect eval mlgym_mcp/three_sat``.
"""

from inspect_ai import Task, task, task_with
from inspect_ai.agent import as_solver, react
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import Generate, Solver, TaskState, basic_agent, solver
from inspect_ai.tool import bash
from inspect_ai.util import SandboxEnvironmentSpec

from mlgym_clients.inspect.options import SandboxOptions
from mlgym_clients.inspect.tasks import attempts_at, session_server

CAREFUL = "Validate only what is better by your own measure, and write down every result with note_write."


@solver
def careful_agent() -> Solver:
    """An agent of one's own with the tools of the sample's session."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        # submit=False: the session's own tool submits, and Inspect's would be of the same name.
        agent = react(prompt=CAREFUL, tools=[session_server(state)], submit=False)
        return await as_solver(agent)(state, generate)

    return solve


@task
def careful(name: str = "three_sat", seeds: int = 1) -> Task:
    """Attempts at a task of ours."""
    return task_with(attempts_at(name, seeds=seeds), solver=careful_agent())


@task
def fix_the_script(backend: str = "auto") -> Task:
    """A task of one's own; what the model runs, it runs in our sandbox."""
    options = SandboxOptions(backend=backend, memory_mb=1024, storage_mb=256)
    sample = Sample(
        input="Run `python3 sum.py`, mend it, and submit the number that it prints.",
        target="5050",
        files={"sum.py": "print(sum(range(1, 101))\n"},
        sandbox=SandboxEnvironmentSpec("mlgym", options),
    )
    return Task(dataset=[sample], solver=basic_agent(tools=[bash(timeout=60)]), scorer=includes())
