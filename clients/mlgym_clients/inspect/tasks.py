"""Our tasks as Inspect's: a sample is a session, its tools are the session's, its score is the session's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from uuid import uuid4

from inspect_ai import Task
from inspect_ai.agent import AgentState, as_solver, react
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import CORRECT, INCORRECT, Score, Scorer, Target, accuracy, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.tool import MCPServer

from mlgym_clients.inspect.sessions import close_session, open_session, session_of
from mlgym_mcp.api import SessionRequest

_GOAL = (
    "Attempt the machine-learning task of this session. Call get_task, look at the files and the baseline, improve on "
    "it step by step, validate what you try, and call submit once, when the budget is nearly spent or you cannot "
    "improve any more."
)
_NUDGE = "You called no tool. Call one of the tools now; when you are done, call submit."
_MOST_NUDGES = 3
_BETTER = "better"
_INFRASTRUCTURE = "infrastructure_error"
_NOTHING = "The model stopped without submitting anything, and what it left cannot be graded."


class SessionFailedError(Exception):
    """A session ended by a failure that is not the agent's: its sample has no score."""


def attempts_at(
    task: str,
    *,
    preset: str = "mini",
    seeds: int | Sequence[int] = 1,
    budget: Mapping[str, int | float] | None = None,
    server: str | None = None,
    sandbox: str | None = None,
    version: str | int = 0,
) -> Task:
    """Return attempts at a task, as a task of Inspect's: a sample for each seed.

    Args:
        task: which.
        preset: its size.
        seeds: how many, or which.
        budget: limits in place of the preset's own: ``{"calls": 40}``.
        server: URL of the server to attempt it at; default: ``$MLGYM_SERVER``, else one of the evaluation's own. Its
            admin token is looked for in ``$MLGYM_ADMIN_TOKEN``.
        sandbox: docker or bubblewrap; default: as the server was started.
        version: of the task.

    Raises:
        ValueError: a seed or limit makes no sense.
    """
    chosen = range(seeds) if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if not chosen:
        raise ValueError(f"at least one seed is needed, got {seeds!r}")
    requests = [
        SessionRequest(task=task, preset=preset, seed=seed, budget=dict(budget or {}), sandbox=sandbox)
        for seed in chosen
    ]
    samples = [Sample(id=f"seed-{each.seed}", input=_GOAL, metadata={"seed": each.seed}) for each in requests]
    return Task(
        dataset=MemoryDataset(samples, name=f"mlgym/{task}"),
        setup=begin_session(task, preset, dict(budget or {}), server, sandbox),
        solver=researcher(),
        cleanup=_clean_up,
        scorer=[final_score(), better_than_baseline()],
        version=version,
        metadata={"preset": preset},
    )


def session_server(state: TaskState) -> MCPServer:
    """Return the tools of a sample's session, for a solver of one's own: ``react(tools=[session_server(state)], ...)``.

    Raises:
        LookupError: the sample has no session.
    """
    return session_of(state.uuid).server()


@solver
def begin_session(
    task: str, preset: str, budget: dict[str, int | float], server: str | None, sandbox: str | None
) -> Solver:
    """Make the session of a sample, and give its tools to whatever solver comes."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        wanted = SessionRequest(
            task=task,
            preset=preset,
            seed=int(state.metadata["seed"]),
            budget=budget,
            sandbox=sandbox,
            metadata={"agent": "inspect", "model": str(state.model), "sample": state.uuid},
            idempotency_key=f"inspect-{uuid4().hex}",
        )
        opened = await open_session(state.uuid, server, wanted)
        state.metadata["episode"] = opened.view.episode
        state.tools.extend(await opened.server().tools())
        return state

    return solve


@solver
def researcher() -> Solver:
    """Let the model call the session's tools until the session is over; told three times to go on, it may stop."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        session = session_of(state.uuid)
        silent = 0

        async def go_on(agent: AgentState) -> bool | str:
            nonlocal silent
            if await session.over():
                return False
            if agent.output.message.tool_calls:
                silent = 0
                return True
            silent += 1
            return _NUDGE if silent <= _MOST_NUDGES else False

        # submit=False: the session's own tool submits, and Inspect's would be of the same name.
        agent = react(tools=[session.server()], submit=False, on_continue=go_on)
        return await as_solver(agent)(state, generate)

    return solve


@scorer(metrics=[mean(), stderr()])
def final_score() -> Scorer:
    """Score with the session's own final score; an attempt without a valid one is left out of the mean."""

    async def score(state: TaskState, target: Target) -> Score:
        opened = session_of(state.uuid)
        left_open = not await opened.over()
        session = await opened.ended()
        final = session.score
        facts = {"episode": session.episode, "outcome": session.outcome, "calls": session.calls}
        if session.outcome == _INFRASTRUCTURE:
            raise SessionFailedError(session.detail)
        if final is None:
            return Score(value=math.nan, explanation=_NOTHING if left_open else session.detail, metadata=facts)
        facts |= final.model_dump(mode="json", exclude={"details", "validations_left", "message"}, exclude_none=True)
        facts["higher_is_better"] = await opened.higher_is_better()
        value = final.score if final.valid and final.score is not None else math.nan
        # As the answer it is in the list of samples, where an explanation is not.
        return Score(value=value, answer=final.message, explanation=final.message, metadata=facts)

    return score


@scorer(metrics=[accuracy(), stderr()])
def better_than_baseline() -> Scorer:
    """Say whether the final score is clearly better than what the given baseline reaches: by two standard errors."""

    async def score(state: TaskState, target: Target) -> Score:
        final = (await session_of(state.uuid).ended()).score
        if final is None:
            return Score(value=INCORRECT, explanation="there is no final score")
        return Score(value=CORRECT if final.against_baseline == _BETTER else INCORRECT, explanation=final.message)

    return score


async def _clean_up(state: TaskState) -> None:
    await close_session(state.uuid)
