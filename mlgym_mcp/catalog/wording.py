"""Turns what pydantic finds wrong with a TOML file into one sentence per problem: file, key, what was expected."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from mlgym_mcp.catalog.errors import TaskError

M = TypeVar("M", bound=BaseModel)
_SHOWN = 60


class KeyedError(ValueError):
    """Raised by a model's own check: which key below it, and the sentence about it."""

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(sentence)
        self.key = key


def load(path: Path, model: type[M]) -> M:
    """Read a TOML file into a model.

    Raises:
        TaskError: it cannot be read, is no TOML, or is not what the model asks for; all problems at once.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TaskError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: is not valid TOML: {error}") from error
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = [_sentence(path, model, problem) for problem in error.errors(include_url=False)]
        raise TaskError(*problems) from error


def _sentence(path: Path, model: type[BaseModel], problem: Any) -> str:
    where = list(problem["loc"])
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, KeyedError):
        where += cause.key.split(".")
        return f"{path}: {_key(where)}: {cause}"
    key = _key(where)
    kind = problem["type"]
    if kind == "missing":
        return f"{path}: {key}: is missing, it is required"
    if kind == "extra_forbidden":
        known = _keys(model, where[:-1])
        near = difflib.get_close_matches(str(where[-1]), known, n=1)
        hint = f", did you mean {near[0]!r}?" if near else f", expected one of: {', '.join(known)}"
        return f"{path}: {key}: is not a known key{hint}"
    if isinstance(cause, ValueError):
        return f"{path}: {key}: {cause}"
    message = problem["msg"].removeprefix("Input should be ").replace("String should ", "a text that should ")
    found = repr(problem["input"])
    return f"{path}: {key}: expected {message}, got {found[:_SHOWN]}{'…' if len(found) > _SHOWN else ''}"


def _key(where: list[Any]) -> str:
    """A TOML key as a person writes it: ``presets.mini.steps``, ``metrics[0].name``."""
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the whole file"


def _keys(model: type[BaseModel], where: list[Any]) -> list[str]:
    """The keys that the table at ``where`` may have."""
    current: Any = model
    for part in where:
        fields = _fields(current)
        # A step into a table is a field; a step into an array or a table of tables is any of its values.
        current = (
            fields.get(str(part)) if fields else next((a for a in reversed(get_args(current)) if _fields(a)), None)
        )
    return list(_fields(current))


def _fields(annotation: Any) -> dict[str, Any]:
    """The fields of a model, by key, of ``Model`` or ``Model | None``; empty for anything else."""
    options = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    for option in options:
        if isinstance(option, type) and issubclass(option, BaseModel):
            return {field.alias or name: field.annotation for name, field in option.model_fields.items()}
    return {}
