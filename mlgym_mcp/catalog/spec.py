"""What a ``task.toml`` may say: pydantic models that refuse what they do not know.

Sizes are bytes or MiB as the names say, times are seconds. The models check one file by itself; that the files
it names exist is checked by :class:`mlgym_mcp.catalog.catalog.Task`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mlgym_mcp.catalog.wording import KeyedError

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Id = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,47}$")]
Entrypoint = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]*:[a-z_][a-z0-9_]*$")]
Environment = Literal["light", "torch"]
Kind = Literal["predictions", "player", "weights"]
Protocol = Literal["matches/1", "policy/1", "next_logits/1", "branching/1"]
SHARED = "shared"
"""The folder, beside those of the tasks, of first files that several tasks have."""
DEFAULT_IMAGES = {"light": "mlgym-light", "torch": "mlgym-torch"}


class Model(BaseModel):
    """Base of all: unknown keys are an error, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class TaskFacts(Model):
    """``[task]``: what it is."""

    id: Id
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    title: Annotated[str, Field(min_length=1, max_length=80)]
    family: Literal["tabular", "vision", "language", "rl", "algorithms", "games", "merging"]
    summary: Annotated[str, Field(max_length=300)] = ""
    tags: tuple[str, ...] = ()
    licence: str = ""
    provenance: str = ""


class InstructionFacts(Model):
    """``[instruction]``: the text that the agent reads."""

    file: str = "instruction.md"


class Workspace(Model):
    """``[workspace]``: what an agent starts with and may change.

    Attributes:
        editable: globs of what it may change.
        readonly: folders that it can only read.
        starter: the folder of its first files.
        shared: first files that other tasks have, too: their names in the folder ``shared`` beside the task's, and in
            the workspace. A file of that name in ``starter`` is taken instead.
    """

    editable: tuple[str, ...] = ()
    readonly: tuple[str, ...] = ("/data",)
    starter: str = "starter"
    shared: tuple[str, ...] = ()

    @field_validator("shared")
    @classmethod
    def _relative(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
                raise ValueError(f"expected names of files in the folder {SHARED}, without '..', got {name!r}")
        return names


class Metric(Model):
    """One of ``[[metrics]]``.

    Attributes:
        bounds: the lowest and highest possible value; a grader's score outside is a grader's error.
        worst: the value that counts as 0 when scores are normalised.
        optimal: the value that counts as 1: the best possible, or a bound of it.
        digits_validate: decimals that ``validate`` shows.
    """

    name: Id
    direction: Literal["max", "min"]
    bounds: tuple[float, float]
    primary: bool = False
    unit: str = ""
    worst: float | None = None
    optimal: float | None = None
    digits_validate: Annotated[int, Field(ge=0, le=6)] = 3

    @model_validator(mode="after")
    def _ordered(self) -> Metric:
        low, high = self.bounds
        if not low < high:
            raise KeyedError("bounds", f"expected [lowest, highest] in this order, got [{low:g}, {high:g}]")
        for name, value in (("worst", self.worst), ("optimal", self.optimal)):
            if value is not None and not low <= value <= high:
                raise KeyedError(name, f"expected a value within bounds [{low:g}, {high:g}], got {value:g}")
        return self


class Submission(Model):
    """``[submission]``: what is copied out of the workspace and how it is read.

    Attributes:
        kind: ``predictions`` (a strict CSV), ``player`` (code behind the player protocol) or ``weights``.
        protocol: for players: what is asked of the program: ``matches/1`` (a move in a game), ``policy/1`` (actions
            for observations), ``next_logits/1`` (scores of the next token), ``branching/1`` (a literal to decide).
        include: globs below the workspace.
        max_bytes: of everything copied out.
        max_files: of everything copied out.
        path: the file of predictions or weights.
        format: ``csv``, or ``jsonl`` for texts: one ``{"id": ..., "text": ...}`` a line.
        columns: the header of the predictions, or the keys of their lines.
        entry: the player's program.
        autosubmit: whether the last state of the workspace is graded if the agent never submits.
        how: how to submit in one or two sentences; made up from the rest if empty.
    """

    kind: Kind
    include: Annotated[tuple[str, ...], Field(min_length=1)]
    max_bytes: Annotated[int, Field(gt=0)]
    max_files: Annotated[int, Field(gt=0)] = 1
    path: str | None = None
    format: Literal["csv", "jsonl"] = "csv"
    columns: tuple[str, ...] = ()
    protocol: Protocol | None = None
    entry: str | None = None
    autosubmit: bool = True
    how: str = ""

    @field_validator("include")
    @classmethod
    def _plain(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if pattern.startswith("/") or ".." in pattern.split("/"):
                raise ValueError(f"expected globs below the workspace without '..', got {pattern!r}")
        return patterns

    @model_validator(mode="after")
    def _complete(self) -> Submission:
        if self.kind in ("predictions", "weights") and self.path is None:
            raise KeyedError("path", f"is missing, expected the name of the {self.kind} file")
        if self.kind == "predictions" and len(self.columns) != 2:
            raise KeyedError("columns", 'expected two column names, such as ["id", "label"]')
        if self.format == "jsonl" and self.columns != ("id", "text"):
            raise KeyedError("columns", f'expected ["id", "text"] for JSON lines, got {list(self.columns)}')
        if self.kind == "player":
            if self.entry is None or not self.entry.endswith(".py"):
                raise KeyedError("entry", f"expected the name of a .py file to run, got {self.entry!r}")
            if self.protocol is None:
                raise KeyedError("protocol", "is missing, expected what the program is asked, such as 'matches/1'")
        wanted = self.path or self.entry
        if wanted and not any(glob_covers(pattern, wanted) for pattern in self.include):
            raise KeyedError("include", f"expected globs that cover {wanted!r}")
        return self


class PlayerSpec(Model):
    """``[grader] player``: limits of the sandboxes in which submitted code is played."""

    cpus: Positive = 1.0
    memory_mb: Annotated[int, Field(ge=64)] = 1024
    gpus: Count = 0
    pids: Annotated[int, Field(ge=8)] = 64
    call_timeout_s: Positive = 5.0
    total_timeout_s: Positive = 240.0
    load_timeout_s: Positive = 60.0
    max_players: Annotated[int, Field(ge=1)] = 16


class Grader(Model):
    """``[grader]``: the trusted scoring code."""

    entrypoint: Entrypoint = "grader:grade"
    timeout_s: Positive = 300.0
    player: PlayerSpec | None = None


class Validate(Model):
    """``[validate]``: how often and on what an agent may try its work."""

    max_calls: Annotated[int, Field(ge=0)] = 50
    split: Literal["val"] = "val"


class Network(Model):
    """``[network]``: sandboxes have none."""

    agent: Literal["no-network"] = "no-network"
    player: Literal["no-network"] = "no-network"


class Data(Model):
    """A preset's ``data``: where its files come from.

    Attributes:
        kind: ``real`` (from the sources of ``data.lock.toml``), ``generated`` (from the secret world), ``none``.
        generator: the function that builds them.
        environment: whose Python runs the generator: ``data`` has pyarrow on top of ``light``.
        world: ``secret``: splits, permutations and coefficients come from a secret of this installation.
        sources: names in ``data.lock.toml``; all of them must be had.
        timeout_s: longest time of the generator.
        about: what there is, in a few words, for lists of tasks.
    """

    kind: Literal["generated", "real", "none"]
    about: Annotated[str, Field(max_length=160)] = ""
    generator: Entrypoint = "generator:build"
    environment: Literal["light", "data"] = "light"
    world: Literal["secret"] = "secret"
    sources: tuple[str, ...] = ()
    timeout_s: Positive = 600.0

    @model_validator(mode="after")
    def _sourced(self) -> Data:
        if self.kind == "real" and not self.sources:
            raise KeyedError("sources", "is missing, expected names of sources in data.lock.toml")
        if self.kind != "real" and self.sources:
            raise KeyedError("sources", f"expected none for data of kind {self.kind!r}")
        return self


class Measured(Model):
    """What a solution was measured to reach, through the grader on the test split.

    In the file the metrics stand beside the other keys: ``{ accuracy = 0.78, sd = 0.004, seconds = 7 }``.

    Attributes:
        metrics: mean by metric.
        sd: standard deviation of the primary metric from run to run (other seeds, other worlds).
        se: standard error of one score of the primary metric, from the size of the test set.
        seconds: CPU seconds of one run.
        measured: when and on what.
    """

    metrics: dict[str, float] = Field(default_factory=dict)
    sd: Annotated[float, Field(ge=0)] | None = None
    se: Annotated[float, Field(ge=0)] | None = None
    seconds: Annotated[float, Field(ge=0)] | None = None
    measured: str = ""

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping) or "metrics" in raw:
            return raw
        own = {key: value for key, value in raw.items() if key in cls.model_fields}
        metrics = {key: value for key, value in raw.items() if key not in cls.model_fields}
        for key, value in metrics.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise KeyedError(str(key), f"expected a finite number, got {value!r}")
        return {**own, "metrics": metrics}

    def value(self, metric: str) -> float | None:
        """The mean of a metric, if it was measured."""
        return self.metrics.get(metric)


class Reference(Model):
    """A preset's ``reference``: the paper's figures, and whether ours may be compared with them."""

    paper_baseline: float | None = None
    paper_best: float | None = None
    comparable: bool = False
    note: str = ""


class Preset(Model):
    """``[presets.NAME]``: a size of the task.

    Attributes:
        environment: the prepared Python environment of sandboxes and players.
        image: the container image; default: the environment's.
        session_s: wall seconds of a session.
        run_s: seconds that one solution's run is expected to need at most.
        steps: tool calls of a session.
        cpu_s: CPU seconds of all commands of a session; unlimited if missing.
        params: the task's own numbers, for generator, grader and instruction.
        baseline: what ``baseline/`` reaches.
        solution: what ``reference/`` reaches.
        reference: the paper's figures.
        worst, optimal: in place of the primary metric's.
        max_bytes: in place of the submission's.
        player: in place of the grader's.
    """

    environment: Environment = "light"
    image: str = ""
    cpus: Positive = 2.0
    memory_mb: Annotated[int, Field(ge=64)] = 4096
    storage_mb: Annotated[int, Field(ge=16)] = 2048
    gpus: Count = 0
    gpu_memory_gb: Annotated[float, Field(ge=0)] = 0.0
    session_s: Positive
    run_s: Positive
    steps: Annotated[int, Field(ge=1)]
    cpu_s: Positive | None = None
    params: dict[str, bool | int | float | str] = Field(default_factory=dict)
    data: Data
    baseline: Measured = Measured()
    solution: Measured = Measured()
    reference: Reference | None = None
    worst: float | None = None
    optimal: float | None = None
    max_bytes: Annotated[int, Field(gt=0)] | None = None
    player: PlayerSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_image(cls, raw: Any) -> Any:
        if isinstance(raw, Mapping) and "image" not in raw:
            return {**raw, "image": DEFAULT_IMAGES.get(str(raw.get("environment", "light")), "")}
        return raw


class TaskSpec(Model):
    """A whole ``task.toml``."""

    schema_version: Literal[1]
    task: TaskFacts
    instruction: InstructionFacts = InstructionFacts()
    workspace: Workspace = Workspace()
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)]
    submission: Submission
    grader: Grader = Grader()
    validate_: Validate = Field(default=Validate(), alias="validate")
    network: Network = Network()
    presets: Annotated[dict[Id, Preset], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> TaskSpec:
        names = [metric.name for metric in self.metrics]
        if len(set(names)) != len(names):
            raise KeyedError("metrics", f"expected each name once, got {', '.join(names)}")
        primary = [metric.name for metric in self.metrics if metric.primary]
        if len(primary) != 1:
            raise KeyedError("metrics", f"expected exactly one metric with primary = true, got {len(primary)}")
        if (self.submission.kind == "player") != (self.grader.player is not None):
            raise KeyedError("grader.player", "expected it exactly when submission.kind is 'player'")
        for name, preset in self.presets.items():
            for part in ("baseline", "solution"):
                for metric in getattr(preset, part).metrics:
                    if metric not in names:
                        known = ", ".join(names)
                        raise KeyedError(f"presets.{name}.{part}.{metric}", f"is no metric of the task ({known})")
            if preset.player is not None and self.grader.player is None:
                raise KeyedError(f"presets.{name}.player", "expected it only when submission.kind is 'player'")
            low, high = self.primary_metric.bounds
            for end in ("worst", "optimal"):
                value = getattr(preset, end)
                if value is not None and not low <= value <= high:
                    wanted = f"expected a value within the metric's bounds [{low:g}, {high:g}], got {value:g}"
                    raise KeyedError(f"presets.{name}.{end}", wanted)
        return self

    def of(self, preset: str) -> TaskSpec:
        """Return the spec as it is for a preset, which may have limits of its own.

        Raises:
            KeyError: no such preset.
        """
        own = self.presets[preset]
        ends = {end: getattr(own, end) for end in ("worst", "optimal") if getattr(own, end) is not None}
        changed: dict[str, Any] = {
            "metrics": tuple(m.model_copy(update=ends) if m.primary else m for m in self.metrics)
        }
        if own.max_bytes is not None:
            changed["submission"] = self.submission.model_copy(update={"max_bytes": own.max_bytes})
        if own.player is not None:
            changed["grader"] = self.grader.model_copy(update={"player": own.player})
        return self.model_copy(update=changed)

    @property
    def primary_metric(self) -> Metric:
        """The metric that counts."""
        return next(metric for metric in self.metrics if metric.primary)


def glob_covers(pattern: str, name: str) -> bool:
    """Whether a glob of ``include`` (``*`` within a folder, ``**`` across) covers a file's name."""
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = [wild.get(piece, re.escape(piece)) for piece in re.split(r"(\*\*/?|\*|\?)", pattern)]
    return re.fullmatch("".join(parts), name) is not None
