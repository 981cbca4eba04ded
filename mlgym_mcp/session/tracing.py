"""Spans of a session's life for OpenTelemetry: who did what, for how long, with what outcome.

Without a tracer provider (``mlgym_mcp.serving.traces`` sets one up where it is configured) nothing is made. A span
tells neither what an agent sent nor what it got, no score, no secret, and of a session's id the beginning only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode

from mlgym_mcp import __version__
from mlgym_mcp.grading.errors import InvalidSubmission
from mlgym_mcp.session.about import SHOWN
from mlgym_mcp.session.errors import RefusedError

if TYPE_CHECKING:
    from mlgym_mcp.session.session import Session

_tracer = trace.get_tracer("mlgym_mcp", __version__)
_NOTHING: AbstractContextManager[Span] = nullcontext(trace.INVALID_SPAN)


def is_on() -> bool:
    """Whether anybody takes spans."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def span(
    name: str,
    session: Session | None = None,
    *,
    role: SpanKind = SpanKind.INTERNAL,
    context: Context | None = None,
    more: Mapping[str, str | int] | None = None,
    **facts: str | float | None,
) -> AbstractContextManager[Span]:
    """Return a span around some work; one that does nothing if nobody takes spans.

    What the work raises marks the span as an error, with the exception's type and not its text, which may quote what
    an agent wrote. A cancellation is no error.

    Args:
        name: what is done, of few different names.
        session: to whose life it belongs.
        role: internal, or a server's answer to somebody.
        context: of whoever asked, if that is not the work at hand.
        more: attributes with names of OpenTelemetry's conventions.
        facts: as ``attributes`` takes them.
    """
    if not is_on():
        return _NOTHING
    return _span(name, role, context, {**attributes(session, **facts), **(more or {})})


@contextmanager
def _span(name: str, kind: SpanKind, context: Context | None, told: Mapping[str, str | float]) -> Iterator[Span]:
    with _tracer.start_as_current_span(
        name, context, kind, told, record_exception=False, set_status_on_exception=False
    ) as made:
        try:
            yield made
        except (RefusedError, InvalidSubmission):
            raise  # an ordinary answer
        except Exception as exc:
            failed(made, type(exc).__qualname__)
            raise


def failed(made: Span, error: str) -> None:
    """Mark a span as one of work that went wrong; ``error`` is of few different values."""
    made.set_attribute("error.type", error)
    made.set_status(StatusCode.ERROR)


def attributes(session: Session | None = None, **facts: str | float | None) -> dict[str, str | float]:
    """Return a span's attributes: a session's, and ``mlgym.NAME`` for each fact that is not ``None``."""
    told: dict[str, str | float] = {}
    if session is not None:
        told = {
            "session.id": session.id[:SHOWN],
            "mlgym.episode": session.episode.id,
            "mlgym.task": session.task.id,
            "mlgym.preset": session.config.preset,
            "mlgym.backend": session.backend.name,
        }
    return told | {f"mlgym.{name}": value for name, value in facts.items() if value is not None}


def outcome_of(result: Mapping[str, Any]) -> str:
    """Return in one word how a tool call went, from what the journal keeps of its result."""
    for name in ("cancelled", "refused", "error", "is_error"):
        if result.get(name):
            return "error" if name == "is_error" else name
    return "ok"
