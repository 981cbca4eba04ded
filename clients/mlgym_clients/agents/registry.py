"""Agents by name, made from the options that a sweep file or a command line gives."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from mlgym_clients.agents.agent import Agent
from mlgym_clients.agents.llm_options import LlmOptions
from mlgym_clients.agents.random_calls import RandomAgent, RandomOptions
from mlgym_clients.agents.replaying import RecordError, Replay, ReplayOptions
from mlgym_clients.agents.scripted import Scripted, ScriptedOptions, ScriptError
from mlgym_clients.agents.solutions import SolutionAgent, SolutionOptions


class AgentOptionError(ValueError):
    """An agent cannot be made; the message says which option is wrong and what fits."""


@dataclass(frozen=True, slots=True)
class AgentKind:
    """An agent that can be made: what it does, the model of its options, and how it is made of them."""

    about: str
    options: type[BaseModel]
    make: Callable[[Any], Agent]


def agent_kinds() -> dict[str, AgentKind]:
    """Return all agents that can be made here, by name; ``llm`` only where its extra is installed."""
    kinds = {
        "scripted": AgentKind("plays a JSON list of tool calls", ScriptedOptions, Scripted),
        "replay": AgentKind("makes the calls of a recorded episode again", ReplayOptions, Replay),
        "baseline": AgentKind("plays the task's baseline", SolutionOptions, lambda o: SolutionAgent("baseline", o)),
        "reference": AgentKind("plays the task's solution", SolutionOptions, lambda o: SolutionAgent("reference", o)),
        "random": AgentKind("makes random valid calls, then submits", RandomOptions, RandomAgent),
    }
    if importlib.util.find_spec("pydantic_ai") is not None:
        kinds["llm"] = AgentKind("lets a language model play", LlmOptions, _llm)
    return kinds


def _llm(options: LlmOptions) -> Agent:
    from mlgym_clients.agents.llm import LlmAgent  # its libraries take seconds to load

    return LlmAgent(options)


def make_agent(name: str, **options: Any) -> Agent:
    """Return an agent.

    Args:
        name: which one, as ``agent_kinds`` knows it.
        options: its options.

    Raises:
        AgentOptionError: there is no such agent, or an option is unknown, missing or wrong.
    """
    kinds = agent_kinds()
    if name == "llm" and name not in kinds:
        raise AgentOptionError("the agent llm needs its libraries: pip install 'mlgym-mcp[agents]'")
    if name not in kinds:
        raise AgentOptionError(f"there is no agent {name!r}{_meant(name, kinds)}; there are: {', '.join(kinds)}")
    if name == "llm" and "api_key" in options:
        raise AgentOptionError(
            "llm: api_key is no option, for sweep files are kept and shared: name the variable that holds the key in "
            "api_key_env"
        )
    kind = kinds[name]
    try:
        return kind.make(kind.options.model_validate(options))
    except ValidationError as exc:
        raise AgentOptionError(_wrong(name, kind.options, exc)) from None
    except (ScriptError, RecordError, ValueError) as exc:
        raise AgentOptionError(f"{name}: {exc}") from exc


def _wrong(name: str, options: type[BaseModel], error: ValidationError) -> str:
    problems = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            there = ", ".join(options.model_fields)
            problems.append(f"unknown option {where!r}{_meant(where, options.model_fields)}; it takes: {there}")
        elif item["type"] == "missing":
            about = options.model_fields[where].description or ""
            problems.append(f"the option {where!r} is missing: {about}".rstrip(": "))
        else:
            problems.append(f"{where or 'options'}: {item['msg']}, got {item['input']!r:.80}")
    return f"{name}: {'; '.join(problems)}"


def _meant(given: str, known: Any) -> str:
    close = difflib.get_close_matches(given, list(known), 1)
    return f", did you mean {close[0]!r}?" if close else ""
