"""OpenTelemetry spans after the conventions for generative AI: OTLP JSON, to a file or to a collector.

An episode is a trace: ``invoke_agent`` over all, ``chat`` for each answer of a model, ``execute_tool`` for each call,
and an event ``gen_ai.evaluation.result`` for each score. Ids are made from the episode's name, so that writing it
again makes no second trace. The conventions are still in development; these are as of 1.41.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlgym_mcp import __version__
from mlgym_mcp.records.exports.files import written
from mlgym_mcp.records.exports.trajectory import Call, Mark, Said, Trajectory, Turn

_INTERNAL, _CLIENT = 1, 3
_FAILED = 2
_TIMEOUT_S = 30.0


def as_request(trajectory: Trajectory) -> dict[str, Any]:
    """Return one episode as the JSON of an ``ExportTraceServiceRequest``."""
    scope = {"name": "mlgym-mcp", "version": __version__}
    resource = {"attributes": _attributes({"service.name": "mlgym-mcp", "service.version": __version__})}
    spans = list(_spans(trajectory))
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": spans}]}]}


def _spans(trajectory: Trajectory) -> Iterator[dict[str, Any]]:
    trace = hashlib.sha256(f"mlgym episode {trajectory.episode}".encode()).hexdigest()[:32]
    root = _span_id(trace, "root")
    about = {f"mlgym.{name}": value for name, value in trajectory.about().items() if name not in ("agent", "model")}
    yield {
        **_span(trace, "root", f"invoke_agent {trajectory.agent}", _INTERNAL, trajectory.started, trajectory.ended),
        "attributes": _attributes(
            {
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": trajectory.agent,
                "gen_ai.conversation.id": trajectory.episode,
                **_model(trajectory.model),
                **about,
            }
        ),
        "events": [_event(mark) for mark in trajectory.marks],
    }
    before = trajectory.started
    number = 0
    for place, step in enumerate(trajectory.steps):
        if isinstance(step, Said):
            before = max(before, step.t)
            continue
        if trajectory.from_messages:
            yield _chat(trace, root, trajectory, place, step, before)
        for call in step.calls:
            yield _tool(trace, root, number, call)
            number += 1
            before = max(before, call.started + (call.seconds or 0.0))
        before = max(before, step.t)


def _chat(trace: str, root: str, trajectory: Trajectory, place: int, turn: Turn, before: float) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "reasoning", "content": turn.thinking}] if turn.thinking else []
    parts += [{"type": "text", "content": turn.text}] if turn.text else []
    parts += [{"type": "tool_call", "id": c.id, "name": c.tool, "arguments": dict(c.arguments)} for c in turn.calls]
    finish = "tool_call" if turn.calls else "stop"
    facts: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.conversation.id": trajectory.episode,
        **_model(trajectory.model),
        "gen_ai.response.finish_reasons": [finish],
        "gen_ai.output.messages": json.dumps(
            [{"role": "assistant", "parts": parts, "finish_reason": finish}], ensure_ascii=False
        ),
    }
    if turn.tokens is not None:
        facts |= {
            "gen_ai.usage.input_tokens": turn.tokens.read,
            "gen_ai.usage.output_tokens": turn.tokens.written,
            "gen_ai.usage.cache_read.input_tokens": turn.tokens.cached,
        }
    name = f"chat {trajectory.model}".strip()
    span = _span(trace, f"turn {place}", name, _CLIENT, min(before, turn.t), turn.t)
    return {**span, "parentSpanId": root, "attributes": _attributes(facts)}


def _tool(trace: str, root: str, number: int, call: Call) -> dict[str, Any]:
    ended = call.started + (call.seconds or 0.0)
    span = _span(trace, f"call {number}", f"execute_tool {call.tool}", _INTERNAL, call.started, ended)
    facts = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": call.tool,
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": call.id,
        "gen_ai.tool.call.arguments": call.arguments_json,
        "gen_ai.tool.call.result": call.text,
        "mlgym.outcome": call.outcome,
    }
    failed = call.outcome in ("error", "cancelled")
    more = {"status": {"code": _FAILED, "message": call.outcome}} if failed else {}
    facts |= {"error.type": "tool_error" if call.outcome == "error" else "cancelled"} if failed else {}
    return {**span, "parentSpanId": root, "attributes": _attributes(facts), **more}


def _event(mark: Mark) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "gen_ai.evaluation.name": f"{mark.kind}.{mark.metric}",
        "gen_ai.evaluation.score.label": "valid" if mark.valid else mark.code or "invalid",
    }
    facts |= {} if mark.value is None else {"gen_ai.evaluation.score.value": mark.value}
    facts |= {"gen_ai.evaluation.explanation": mark.reason} if mark.reason else {}
    return {"timeUnixNano": _nanos(mark.t), "name": "gen_ai.evaluation.result", "attributes": _attributes(facts)}


def _model(model: str) -> dict[str, str]:
    if not model:
        return {}
    provider, colon, name = model.partition(":")
    known = {"google": "gcp.gemini"}
    facts = {"gen_ai.request.model": name if colon else model}
    return facts | ({"gen_ai.provider.name": known.get(provider, provider)} if colon else {})


def _span(trace: str, what: str, name: str, kind: int, begin: float, end: float) -> dict[str, Any]:
    return {
        "traceId": trace,
        "spanId": _span_id(trace, what),
        "name": name,
        "kind": kind,
        "startTimeUnixNano": _nanos(begin),
        "endTimeUnixNano": _nanos(max(begin, end)),
    }


def _span_id(trace: str, what: str) -> str:
    return hashlib.sha256(f"{trace} {what}".encode()).hexdigest()[:16]


def _nanos(t: float) -> str:
    return str(round(t * 1_000_000) * 1000)


def _attributes(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in facts.items() if value is not None]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list | tuple):
        return {"arrayValue": {"values": [_value(item) for item in value]}}
    return {"stringValue": str(value)}


def write_otel(trajectories: Iterable[Trajectory], out: Path) -> list[Path]:
    """Write spans to a file, a request a line, as a collector's file receiver reads them.

    Raises:
        OSError: it cannot be written.
    """
    with written(out) as file:
        for trajectory in trajectories:
            file.write(json.dumps(as_request(trajectory), ensure_ascii=False) + "\n")
    return [out]


def send_otel(trajectories: Iterable[Trajectory], endpoint: str, headers: Mapping[str, str] | None = None) -> int:
    """Send spans to a collector over OTLP/HTTP and return how many episodes it took.

    Args:
        trajectories: what to send, a request an episode.
        endpoint: its base URL, such as ``http://127.0.0.1:4318``.
        headers: sent along, such as a key.

    Raises:
        OSError: it does not take them; the message says why.
    """
    import httpx

    url = endpoint.rstrip("/")
    url = url if url.endswith("/v1/traces") else f"{url}/v1/traces"
    sent = 0
    with httpx.Client(timeout=_TIMEOUT_S, headers=dict(headers or {})) as http:
        for trajectory in trajectories:
            try:
                answer = http.post(url, json=as_request(trajectory))
            except (httpx.HTTPError, httpx.InvalidURL) as exc:
                raise OSError(f"{url} does not answer: {exc or type(exc).__name__}") from exc
            if not answer.is_success:
                raise OSError(f"{url} answered {answer.status_code} after {sent} episodes: {answer.text[:200]}")
            sent += 1
    return sent
