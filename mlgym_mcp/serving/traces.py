"""OpenTelemetry: where spans go, if anywhere, and a span for each request to the control API."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping, MutableMapping
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlgym_mcp import __version__
from mlgym_mcp.session.about import SHOWN
from mlgym_mcp.session.tracing import failed, is_on, span

logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


def set_up_traces(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Send spans over OTLP/HTTP if the environment names an endpoint; returns whether it does.

    The usual variables count: ``OTEL_EXPORTER_OTLP_*``, ``OTEL_SERVICE_NAME``, ``OTEL_RESOURCE_ATTRIBUTES``,
    ``OTEL_TRACES_SAMPLER``, ``OTEL_BSP_*``, ``OTEL_SDK_DISABLED``. The headers, which may hold a key, are taken out of
    the environment, so that no program that the server starts inherits them. A provider that is there already
    (``opentelemetry-instrument``) stays. What is missing is a line in the log: nothing depends on traces.
    """
    if is_on():
        return True
    if not any(environ.get(name) for name in _ENDPOINTS):
        return False
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    if importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is None:
        logger.warning("no traces are sent: install the OpenTelemetry SDK with: pip install 'mlgym-mcp[otel]'")
        return False
    protocols = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next((environ[name] for name in protocols if environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        logger.warning("no traces are sent: the protocol is %r, and only http/protobuf is spoken", protocol)
        return False
    try:
        trace.set_tracer_provider(_provider(environ))
    except Exception as exc:  # noqa: BLE001 - whatever is wrong with somebody's variables, sessions are served
        logger.warning("no traces are sent: %s: %s", type(exc).__name__, exc)
        return False
    for name in _HEADERS:
        environ.pop(name, None)
    return True


def _provider(environ: Mapping[str, str]) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    facts = {"service.version": __version__}
    if "service.name=" not in environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        facts["service.name"] = environ.get("OTEL_SERVICE_NAME") or "mlgym-mcp"
    provider = TracerProvider(resource=Resource.create(facts))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class TracedControl:
    """Makes a span of each request to an application; its name is the route, never the path, which holds ids.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, in a span that continues the client's trace if it names one."""
        if scope["type"] != "http" or not is_on():
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in _KNOWN_METHODS else "_OTHER"
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        facts = {"http.request.method": method, "url.scheme": str(scope.get("scheme", "http"))}
        with span(f"control {method}", role=SpanKind.SERVER, context=propagate.extract(headers), more=facts) as made:
            try:
                await self._app(scope, receive, watch)
            finally:
                route = getattr(scope.get("route"), "path", None)
                if isinstance(route, str):
                    made.update_name(f"{method} {route}")
                    made.set_attribute("http.route", route)
                if status:
                    made.set_attribute("http.response.status_code", status)
                if status >= 500:
                    failed(made, str(status))
                if isinstance(session := scope.get("path_params", {}).get("id"), str):
                    made.set_attribute("session.id", session[:SHOWN])
