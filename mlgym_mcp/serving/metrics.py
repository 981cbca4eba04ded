"""What the server counts, for Prometheus. All of it is read off the sessions' journals as they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from mlgym_mcp.session.journal import Event, JournalError, read_journal
from mlgym_mcp.session.session import Session
from mlgym_mcp.session.tracing import outcome_of
from mlgym_mcp.tools.toolbox import BY_NAME
from mlgym_mcp.tools.views import state_of

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for each counter, which nobody reads
_QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SLOW = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class Metrics:
    """The server's counters; one for each server, so that two in one process do not mix.

    Args:
        sessions: returns the sessions there are.
    """

    def __init__(self, sessions: Callable[[], Iterable[Session]]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._calls: dict[tuple[str, int], str] = {}
        now = Gauge("mlgym_sessions", "Sessions by state.", ["state"], registry=self.registry)
        for state in ("preparing", "ready", "over"):
            now.labels(state).set_function(partial(_in_state, sessions, state))
        self.created = self._counter("mlgym_sessions_created", "Sessions made.", "task")
        self.ended = self._counter("mlgym_sessions_ended", "Sessions that ended, by outcome.", "outcome")
        self.refused = self._counter("mlgym_refused", "Requests refused, by HTTP status.", "status")
        self.errors = self._counter("mlgym_errors", "Failures of ours.", "kind")
        self.tool_calls = self._counter("mlgym_tool_calls", "Tool calls that were answered.", "tool", "result")
        self.starts = self._counter("mlgym_sandbox_starts", "Sandboxes that were started.", "backend", "how")
        self.scores = self._counter("mlgym_scores", "Gradings.", "kind", "valid")
        self.tool_s = self._seconds("mlgym_tool_seconds", "How long tool calls took.", _QUICK, "tool")
        self.start_s = self._seconds("mlgym_sandbox_start_seconds", "From creation to sandbox.", _SLOW, "backend")
        self.grader_s = self._seconds("mlgym_grader_seconds", "How long gradings took.", _SLOW, "task")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _seconds(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show one more figure, asked for whenever the metrics are."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def watch(self, session: Session, *, adopted: bool = False) -> None:
        """Count what happens in a session from now on, and, unless it was adopted, what has happened already."""

        def count(event: Event) -> None:
            self._count(session, event)

        if not adopted:
            self.created.labels(session.task.id).inc()
            try:
                for event in read_journal(session.episode.folder):
                    count(event)
            except (JournalError, OSError):
                self.errors.labels("journal").inc()
        session.episode.journal.watchers.append(count)

    def text(self) -> bytes:
        """Return all figures in Prometheus's text format."""
        return generate_latest(self.registry)

    def _count(self, session: Session, event: Event) -> None:
        kind = event.type
        if kind == "call":
            self._calls[session.id, event.seq] = event["tool"] if event["tool"] in BY_NAME else "other"
        elif kind == "result":
            tool = self._calls.pop((session.id, event["call"]), "other")
            self.tool_calls.labels(tool, outcome_of(event.fields)).inc()
            self.tool_s.labels(tool).observe(event["seconds"])
            if event.get("error") is not None:
                self.errors.labels("tool").inc()
        elif kind == "sandbox" and event.get("state") == "started":
            made_for_it = str(event.get("name")).endswith(session.id[:24])  # one of the pool's keeps its own name
            self.starts.labels(session.backend.name, "cold" if made_for_it else "warm").inc()
            self.start_s.labels(session.backend.name).observe(max(0.0, event.t - session.created))
        elif kind == "score":
            self.scores.labels(event["kind"], "yes" if event["valid"] else "no").inc()
            self.grader_s.labels(session.task.id).observe(event.get("seconds", 0.0))
        elif kind == "grader_error":
            self.errors.labels("grader").inc()
        elif kind == "end":
            self.ended.labels(event["outcome"]).inc()
            if event["outcome"] == "infrastructure_error":
                self.errors.labels("infrastructure").inc()
            for key in [key for key in self._calls if key[0] == session.id]:
                del self._calls[key]


def _in_state(sessions: Callable[[], Iterable[Session]], state: str) -> float:
    return sum(state_of(session) == state for session in sessions())
