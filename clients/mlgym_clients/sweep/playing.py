"""One try of an attempt: a session is made, the agent plays it, and what came of it is read from the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
from pydantic import ValidationError

from mlgym_clients.agents.agent import Agent, AgentResult, Assignment, EndpointError
from mlgym_clients.agents.calling import Result, ServerLostError
from mlgym_clients.episode_player import play_session
from mlgym_clients.sweep.attempt import Called, Finished, Lost, News, Opened, Order, Verdict
from mlgym_clients.sweep.control import Control, ControlError
from mlgym_mcp.api import SessionRequest, SessionView

_INFRASTRUCTURE = "infrastructure_error"
_LAST_WORD_S = 10.0


async def play_attempt(
    order: Order,
    control: Control,
    agent: Agent,
    tell: Callable[[News], None],
    *,
    folder: Path | None = None,
    node: str = "",
) -> Verdict:
    """Play one try of an attempt from nothing to its verdict. Cancelled, it ends the session first.

    Args:
        order: what to play.
        control: of the server that has the sessions.
        agent: who plays.
        tell: is told what happens; it must neither raise nor block.
        folder: where the agent may leave files.
        node: the machine's name, for the record.
    """
    begun = time.monotonic()
    try:
        if order.earlier is not None and (found := await _settled(control, order.earlier)) is not None:
            facts = _facts(found, None) | {"found": True, "node": node}
            return Finished(found.id, found.episode, facts)
        view = await control.create(_request(order))
    except ServerLostError as exc:
        return Lost(str(exc))
    except ControlError as exc:
        return Lost(f"the server makes no session: {exc}", permanent=exc.status == 422)
    except ValidationError as exc:
        return Lost(f"no session can be asked for: {exc.errors()[0]['msg']}", permanent=True)
    if view.state == "over":  # of this very try, made before whoever ran the sweep died
        return _verdict(view, None, node, begun) if _agents_doing(view) else Lost(view.detail)
    tell(Opened(view.id, view.episode, node))
    try:
        return await _play(order, control, view, agent, tell, folder=folder, node=node, begun=begun)
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True), anyio.move_on_after(_LAST_WORD_S):
            await _end_quietly(control, view.id)
        raise


async def _play(
    order: Order,
    control: Control,
    view: SessionView,
    agent: Agent,
    tell: Callable[[News], None],
    *,
    folder: Path | None,
    node: str,
    begun: float,
) -> Verdict:
    made = 0

    def on_call(tool: str, _: Mapping[str, Any], __: Result) -> None:
        nonlocal made
        made += 1
        tell(Called(tool, made))

    assignment = Assignment(order.attempt.seed, folder, on_call)
    try:
        try:
            result = await play_session(agent, view.mcp_url, assignment, token=view.token)
        except (ServerLostError, EndpointError):
            raise
        except Exception as exc:  # noqa: BLE001 - an agent that breaks has failed, and that is a result
            result = AgentResult(made, "failed", f"the agent broke: {type(exc).__name__}: {exc}"[:2000], cost_usd=None)
        over = await control.end(view.id)
    except ServerLostError as exc:
        return Lost(f"the session's server was lost: {exc}")
    except ControlError as exc:
        return Lost(f"the server does not show the session: {exc}")
    except EndpointError as exc:
        await _end_quietly(control, view.id)
        spent = {} if exc.result is None else _usage(exc.result)
        return Lost(f"the model's endpoint: {exc}", permanent=exc.permanent, agent_only=True, spent=spent)
    if over is None:
        return Lost("the server does not know its session any more")
    if over.outcome is None or over.outcome == _INFRASTRUCTURE:
        return Lost(over.detail, spent=_usage(result))
    return _verdict(over, result, node, begun)


async def _settled(control: Control, session: str) -> SessionView | None:
    """Return the session of a lost try if it had finished after all; else see to it that it is over."""
    view = await control.session(session)
    if view is None:
        return None
    if view.state == "over":
        return view if _agents_doing(view) else None
    await control.end(session)
    return None


def _agents_doing(view: SessionView) -> bool:
    """Whether an episode ended by what its agent did, not because nobody played it any more."""
    if view.score is not None and view.score.kind == "submit":
        return True
    if view.outcome not in ("scored", "invalid_submission", "budget_exhausted"):
        return False
    return "wall time" not in view.detail and "idle" not in view.detail and "unused" not in view.detail


async def _end_quietly(control: Control, session: str) -> None:
    try:
        await control.end(session)
    except (ServerLostError, ControlError):
        return


def _request(order: Order) -> SessionRequest:
    return SessionRequest(
        task=order.attempt.task,
        preset=order.attempt.preset,
        seed=order.attempt.seed,
        budget=dict(order.budget),
        sandbox=order.sandbox,
        metadata=order.metadata,
        idempotency_key=order.key,
    )


def _verdict(view: SessionView, result: AgentResult | None, node: str, begun: float) -> Finished:
    facts = _facts(view, result) | {"node": node, "seconds": round(time.monotonic() - begun, 3)}
    return Finished(view.id, view.episode, facts)


def _facts(view: SessionView, result: AgentResult | None) -> dict[str, Any]:
    score = view.score
    facts: dict[str, Any] = {
        "outcome": view.outcome,
        "reason": view.detail,
        "kind": None if score is None else score.kind,
        "metric": None if score is None else score.metric,
        "score": None if score is None or not score.valid else score.score,
        "baseline": None if score is None else score.baseline,
        "code": None if score is None else score.code,
        "calls": view.calls,
        "created": view.created,
    }
    if result is None:  # who played it is dead: what was spent is not known
        return facts | {"stop": None, "detail": "", "tokens_in": None, "tokens_out": None, "cost_usd": None}
    return facts | {"stop": result.stop, "detail": result.detail[:2000], "steps": result.steps} | _usage(result)


def _usage(result: AgentResult) -> dict[str, Any]:
    asked = result.requests > 0
    return {
        "requests": result.requests,
        "tokens_in": result.tokens_in if asked else 0,
        "tokens_out": result.tokens_out if asked else 0,
        "tokens_cached": result.tokens_cached,
        "estimated": result.estimated,
        "cost_usd": result.cost_usd,
        "messages": None if result.messages is None else str(result.messages),
    }


def with_files(verdict: Verdict, files: Mapping[str, bytes]) -> Verdict:
    """Return a verdict that brings files along."""
    return replace(verdict, files=files) if isinstance(verdict, Finished) else verdict
