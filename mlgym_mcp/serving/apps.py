"""MCP Apps (SEP-1865): a small picture of the score and the budget, for hosts that show one.

``status``, ``validate`` and ``submit`` name a page, ``ui://mlgym/score``, in their ``_meta``. A host that shows such
pages reads it as a resource, puts it into a frame of its own and hands it the tool's result. Whoever does not declare
the extension gets no more than that name: the page is not in its list of resources, and results are as they ever were.
Whoever does gets the facts the page draws besides (the scores so far, the budget, the task) in ``_meta`` of the
result, which models do not see; without them the page shows what the structured result has.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.apps import EXTENSION_ID, Apps, client_supports_apps
from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.types import CallToolResult, ListResourcesResult, PaginatedRequestParams

from mlgym_mcp.api import BudgetView, MetricView, Model
from mlgym_mcp.session.journal import JournalError, read_journal
from mlgym_mcp.session.session import Session
from mlgym_mcp.tools.views import budget_view, detail_of, metric_view, state_of

PAGE = "ui://mlgym/score"
FACTS = "dev.mlgym/score"
"""The entry of a result's ``_meta`` that the page draws."""
SHOWN = frozenset({"status", "validate", "submit"})
"""The tools whose results the page shows."""
_POINTS = 500
"""Of so many scores, the last ones, the page is told."""


class PointView(Model):
    """One valid score as the agent was shown it: a validation is rounded."""

    seconds: float
    kind: Literal["validate", "submit", "autosubmit"]
    score: float


class ScoreFacts(Model):
    """What the page draws besides the tool's own result.

    Attributes:
        session_id: for the ``session_id`` of a further call; empty where there is but one session.
        title: of the task.
        preset: its size.
        metric: what is scored, with the baseline.
        state: of the session.
        detail: the same in a sentence.
        budget: with what is left of it.
        seconds: since the session began; once it is over, until its last score.
        points: the valid scores, oldest first.
        left_out: so many older ones are not among them.
    """

    session_id: str
    title: str
    preset: str
    metric: MetricView
    state: Literal["preparing", "ready", "over"]
    detail: str
    budget: BudgetView
    seconds: float
    points: list[PointView]
    left_out: int


def tool_meta(name: str) -> dict[str, Any]:
    """Return what a tool's ``_meta`` says of the page: that it shows the tool's results, if it does."""
    return {"ui": {"resourceUri": PAGE}} if name in SHOWN else {}


def page() -> str:
    """Return the page: one document with its own style and script, which lets nothing else run and asks nobody."""
    folder = resources.files(__package__) / "ui"
    style, script = (folder / "score.css").read_text("utf-8"), (folder / "score.js").read_text("utf-8")
    filled = (folder / "score.html").read_text("utf-8")
    policy = f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; base-uri 'none'"
    for mark, text in {"POLICY": f"{policy}; form-action 'none'", "STYLE": style, "SCRIPT": script}.items():
        filled = filled.replace(f"@@{mark}@@", text)
    return filled


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _apps() -> Apps:
    apps = Apps()
    apps.add_html_resource(
        PAGE,
        page(),
        name="score",
        title="Score and budget",
        description="A picture of the scores so far against the baseline, and of the budget left.",
        prefers_border=True,
    )
    return apps


APPS = _apps()
"""Made once, shared by all servers."""


def keep_from_others(server: MCPServer[Any]) -> None:
    """List the page as a resource only to clients that declare the extension; all may read it."""
    low: Any = server._lowlevel_server
    entry = low.get_request_handler("resources/list")

    async def listed(ctx: ServerRequestContext[Any, Any], params: PaginatedRequestParams) -> ListResourcesResult:
        found: ListResourcesResult = await entry.handler(ctx, params)
        if client_supports_apps(ctx):
            return found
        return found.model_copy(update={"resources": [each for each in found.resources if each.uri != PAGE]})

    low.add_request_handler("resources/list", entry.params_type, listed)


async def with_facts(
    result: HandlerResult, tool: str, ctx: ServerRequestContext[Any, Any], session: Session, session_id: str = ""
) -> HandlerResult:
    """Return a tool's result with what the page draws, for a client that shows it; any other result as it is."""
    if tool not in SHOWN or not isinstance(result, CallToolResult) or not client_supports_apps(ctx):
        return result
    facts = await facts_of(session, session_id)
    return result.model_copy(update={"meta": {**(result.meta or {}), FACTS: facts.model_dump(mode="json")}})


async def facts_of(session: Session, session_id: str = "") -> ScoreFacts:
    """Return how a session stands, as its page shows it."""
    scored = len(session.scoring.scores)
    read: Callable[[], tuple[PointView, ...]] = partial(_points, session.episode.folder, session.created, scored)
    points = await anyio.to_thread.run_sync(read) if scored else ()
    seconds = max(0.0, time.time() - session.created)
    if session.over is not None:
        seconds = points[-1].seconds if points else session.meter.wall_s
    return ScoreFacts(
        session_id=session_id,
        title=session.task.spec.task.title,
        preset=session.config.preset,
        metric=metric_view(session),
        state=state_of(session),
        detail=detail_of(session),
        budget=budget_view(session),
        seconds=round(seconds, 1),
        points=list(points[-_POINTS:]),
        left_out=max(0, len(points) - _POINTS),
    )


@lru_cache(maxsize=256)
def _points(folder: Path, began: float, scored: int) -> tuple[PointView, ...]:
    """Return the valid scores that a journal holds when ``scored`` are known. Blocking; empty if it is damaged."""
    try:
        scores = [(event.t, event.fields) for event in read_journal(folder) if event.type == "score"]
    except (JournalError, OSError):
        return ()
    return tuple(_point(score, t - began) for t, score in scores[:scored] if score.get("shown") is not None)


def _point(score: Mapping[str, Any], seconds: float) -> PointView:
    return PointView(seconds=round(max(0.0, seconds), 1), kind=score["kind"], score=score["shown"])


__all__ = ["APPS", "EXTENSION_ID", "FACTS", "PAGE", "facts_of", "keep_from_others", "page", "tool_meta", "with_facts"]
