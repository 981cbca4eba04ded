"""Inspect's ``.eval`` logs, which ``inspect view`` opens: one log for each task, preset, agent and model.

A sample is an episode: its id is the seed, its epoch counts the episodes with that seed. An episode without a score
has none here either, so means are over what was scored; how it ended stands in the sample's metadata.
"""

from __future__ import annotations

import importlib.util
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from mlgym_mcp import __version__
from mlgym_mcp.records.exports.files import Names
from mlgym_mcp.records.exports.trajectory import Call, Mark, Said, Trajectory, Turn, iso

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample

_MISSING = "Inspect's logs are written by its own library: pip install 'mlgym-mcp[inspect]'"


def write_inspect(trajectories: Iterable[Trajectory], out: Path) -> list[Path]:
    """Write logs into a folder, which is made if missing.

    Raises:
        OSError: they cannot be written.
        ValueError: inspect-ai is not installed.
    """
    if importlib.util.find_spec("inspect_ai") is None:
        raise ValueError(_MISSING)
    from inspect_ai.log import write_eval_log

    groups: dict[tuple[str, ...], list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        groups[trajectory.task, trajectory.preset, trajectory.agent, trajectory.model].append(trajectory)
    out.mkdir(parents=True, exist_ok=True)
    names, files = Names(), []
    for key, group in groups.items():
        log = as_log(group)
        stamp = datetime.fromtimestamp(group[0].started, UTC).strftime("%Y-%m-%dT%H-%M-%S+00-00").replace("+", "-")
        path = out / f"{names.take(f'{stamp}_{key[0]}-{key[1]}-{key[2]}_{log.eval.task_id}')}.eval"
        part = path.with_suffix(".part.eval")
        try:
            write_eval_log(log, str(part), format="eval")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        files.append(path)
    return files


def as_log(group: Sequence[Trajectory]) -> EvalLog:
    """Return the episodes of one agent at one task and preset as a log."""
    from inspect_ai.log import (
        EvalConfig,
        EvalDataset,
        EvalLog,
        EvalMetric,
        EvalPlan,
        EvalPlanStep,
        EvalResults,
        EvalScore,
        EvalSpec,
        EvalStats,
    )
    from inspect_ai.model import ModelUsage

    first, model = group[0], _model(group[0])
    key = f"{first.task}/{first.preset}/{first.agent}/{model}"
    epochs: dict[int, int] = defaultdict(int)
    samples: list[EvalSample] = []
    for trajectory in group:
        epochs[trajectory.seed] += 1
        samples.append(_sample(trajectory, model, epochs[trajectory.seed]))
    finals = [final.value for t in group if (final := t.final) is not None and final.value is not None]
    scores = []
    if finals:
        metrics = {"mean": EvalMetric(name="mean", value=sum(finals) / len(finals))}
        if len(finals) > 1:
            metrics["stderr"] = EvalMetric(name="stderr", value=_stderr(finals))
        name = _scorer(first)
        scores.append(
            EvalScore(
                name=name,
                scorer=name,
                scored_samples=len(finals),
                unscored_samples=len(group) - len(finals),
                metrics=metrics,
            )
        )
    usage = sum((_usage(t) for t in group), ModelUsage())
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=iso(first.started),
            task=f"mlgym/{first.task}",
            task_id=_id(f"task {key}"),
            run_id=_id(f"run {key} {first.episode}"),
            eval_id=_id(f"eval {key} {first.episode}"),
            task_version=first.task_version or 0,
            task_args={"preset": first.preset},
            dataset=EvalDataset(name=f"mlgym/{first.task}", samples=len(epochs), sample_ids=[*map(_sample_id, epochs)]),
            model=model,
            solver=first.agent,
            config=EvalConfig(epochs=max(epochs.values())),
            packages={"mlgym-mcp": __version__},
        ),
        plan=EvalPlan(steps=[EvalPlanStep(solver=first.agent)]),
        results=EvalResults(total_samples=len(group), completed_samples=len(group), scores=scores),
        stats=EvalStats(
            started_at=iso(min(t.started for t in group)),
            completed_at=iso(max(t.ended for t in group)),
            model_usage={model: usage} if usage.total_tokens else {},
        ),
        samples=samples,
    )


def _sample(trajectory: Trajectory, model: str, epoch: int) -> EvalSample:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ModelOutput

    told = _Told(trajectory, model)
    final = trajectory.final
    seconds = max(trajectory.ended - trajectory.started, 0.0)
    usage = _usage(trajectory)
    asked = next((step.text for step in trajectory.steps if isinstance(step, Said) and step.role == "user"), "")
    return EvalSample(
        id=_sample_id(trajectory.seed),
        epoch=epoch,
        input=asked,
        target="",
        messages=told.messages,
        output=told.output or ModelOutput(model=model),
        scores=None if final is None else {_scorer(trajectory): _score(final)},
        events=told.events,
        model_usage={model: usage} if usage.total_tokens else {},
        metadata=trajectory.about() | {"reason": trajectory.reason},
        started_at=iso(trajectory.started),
        completed_at=iso(trajectory.ended),
        total_time=seconds,
        working_time=seconds,
        uuid=_id(trajectory.episode),
    )


class _Told:
    """The messages and events of one episode, in Inspect's words."""

    def __init__(self, trajectory: Trajectory, model: str) -> None:
        self.messages: list[Any] = []
        self.events: list[Any] = []
        self.output: Any = None
        self._model = model
        marks = list(trajectory.marks)
        self._before = trajectory.started
        for step in trajectory.steps:
            while marks and marks[0].t < step.t:
                self._mark(marks.pop(0))
            if isinstance(step, Said):
                self._said(step)
            else:
                self._turn(step, trajectory.from_messages)
        for mark in marks:
            self._mark(mark)

    def _said(self, said: Said) -> None:
        from inspect_ai.model import ChatMessageSystem, ChatMessageUser

        kind = ChatMessageSystem if said.role == "system" else ChatMessageUser
        self.messages.append(kind(content=said.text))
        self._before = max(self._before, said.t)

    def _turn(self, turn: Turn, spoken: bool) -> None:
        from inspect_ai.event import ModelEvent
        from inspect_ai.model import (
            ChatCompletionChoice,
            ChatMessageAssistant,
            ContentReasoning,
            ContentText,
            GenerateConfig,
            ModelOutput,
        )
        from inspect_ai.tool import ToolCall

        calls = [ToolCall(id=c.id, function=c.tool, arguments=dict(c.arguments)) for c in turn.calls]
        content: Any = turn.text
        if turn.thinking:
            content = [ContentReasoning(reasoning=turn.thinking), ContentText(text=turn.text)]
        message = ChatMessageAssistant(content=content, tool_calls=calls or None, model=self._model, source="generate")
        stop: Any = "tool_calls" if calls else "stop"
        self.output = ModelOutput(
            model=self._model,
            choices=[ChatCompletionChoice(message=message, stop_reason=stop)],
            usage=None if turn.tokens is None else _tokens(turn),
        )
        if spoken:
            begun = min(self._before, turn.t)
            self.events.append(
                ModelEvent(
                    model=self._model,
                    input=list(self.messages),
                    tools=[],
                    tool_choice="auto",
                    config=GenerateConfig(),
                    output=self.output,
                    timestamp=_time(begun),
                    completed=_time(turn.t),
                    working_time=turn.t - begun,
                )
            )
        self.messages.append(message)
        for call in turn.calls:
            self._call(call)
        self._before = max(self._before, turn.t)

    def _call(self, call: Call) -> None:
        from inspect_ai.event import ToolEvent
        from inspect_ai.model import ChatMessageTool
        from inspect_ai.tool import ToolCallError

        seconds = call.seconds or 0.0
        begun = _time(call.started)
        error = ToolCallError("unknown", call.text) if call.outcome in ("error", "cancelled") else None
        self.events.append(
            ToolEvent(
                id=call.id,
                function=call.tool,
                arguments=dict(call.arguments),
                result=call.text,
                error=error,
                timestamp=begun,
                completed=begun + timedelta(seconds=seconds),
                working_time=seconds,
            )
        )
        self.messages.append(ChatMessageTool(content=call.text, tool_call_id=call.id, function=call.tool, error=error))
        self._before = max(self._before, call.started + seconds)

    def _mark(self, mark: Mark) -> None:
        from inspect_ai.event import ScoreEvent

        self.events.append(
            ScoreEvent(
                score=_score(mark), intermediate=mark.kind == "validate" or not mark.valid, timestamp=_time(mark.t)
            )
        )


def _score(mark: Mark) -> Any:
    from inspect_ai.scorer import Score

    told = mark.reason or f"{mark.metric} of the {'validation' if mark.kind == 'validate' else 'test'} split"
    facts = {"kind": mark.kind, "baseline": mark.baseline, "higher_is_better": mark.higher_is_better}
    value = math.nan if mark.value is None else mark.value
    return Score(value=value, explanation=told, metadata=facts | ({"code": mark.code} if mark.code else {}))


def _usage(trajectory: Trajectory) -> Any:
    from inspect_ai.model import ModelUsage

    return sum((_tokens(turn) for turn in trajectory.turns if turn.tokens is not None), ModelUsage())


def _tokens(turn: Turn) -> Any:
    from inspect_ai.model import ModelUsage

    used = turn.tokens
    assert used is not None
    return ModelUsage(
        input_tokens=max(used.read - used.cached, 0),
        output_tokens=used.written,
        total_tokens=used.read + used.written,
        input_tokens_cache_read=used.cached,
    )


def _scorer(trajectory: Trajectory) -> str:
    return next((mark.metric for mark in trajectory.marks if mark.metric), "score")


def _model(trajectory: Trajectory) -> str:
    return trajectory.model.replace(":", "/", 1) if trajectory.model else f"mlgym/{trajectory.agent}"


def _sample_id(seed: int) -> str:
    return f"seed-{seed}"


def _id(name: str) -> str:
    return uuid5(NAMESPACE_URL, f"mlgym {name}").hex[:22]


def _time(t: float) -> datetime:
    return datetime.fromtimestamp(t, UTC)


def _stderr(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
