"""A host that shows MCP Apps: the protocol's own bridge in a headless Chromium, and what happens in its frames."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.web.browser import Browser

_HERE = Path(__file__).with_name("host")
_LIMIT_S = 20.0
_IMPORTS = {
    "@modelcontextprotocol/ext-apps/app-bridge": "@modelcontextprotocol/ext-apps/dist/src/app-bridge.js",
    "@modelcontextprotocol/client": "@modelcontextprotocol/client/dist/index.mjs",
    "@modelcontextprotocol/client/_shims": "@modelcontextprotocol/client/dist/shimsBrowser.mjs",
    "@modelcontextprotocol/core": "@modelcontextprotocol/core/dist/index.mjs",
    "@modelcontextprotocol/core/internal": "@modelcontextprotocol/core/dist/internal.mjs",
    "eventsource": "eventsource/dist/index.js",
    "eventsource-parser": "eventsource-parser/dist/index.js",
    "eventsource-parser/stream": "eventsource-parser/dist/stream.js",
    "pkce-challenge": "pkce-challenge/dist/index.browser.js",
    "zod/v4": "zod/v4/index.js",
}
"""Where the bridge and what it needs lie among the installed packages: a browser finds them without a build."""
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "media-src 'self' data:; connect-src 'none'; frame-src 'self'; object-src 'none'; base-uri 'self'"
)
"""What the specification tells hosts to allow a page that asks for nothing."""
_TYPES = {".html": "text/html; charset=utf-8", ".mjs": "text/javascript", ".js": "text/javascript"}


class _Handler(SimpleHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        path = self.path.split("?")[0].lstrip("/")
        self.server.asked.append(path)
        below = self.server.packages if path.startswith("node_modules/") else _HERE
        file = below / path.removeprefix("node_modules/")
        if not file.is_file() or ".." in path:
            self.send_error(404)
            return
        imports = {"imports": {name: f"/node_modules/{place}" for name, place in _IMPORTS.items()}}
        body = file.read_bytes().replace(b"@@IMPORTS@@", json.dumps(imports).encode())
        self.send_response(200)
        self.send_header("Content-Type", _TYPES.get(file.suffix, "application/octet-stream"))
        if file.name == "sandbox.html" and "lenient" not in self.path:
            self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, packages: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.packages = packages
        self.asked: list[str] = []


class AppHost(Browser):
    """A browser with the host's page open, in which apps are shown."""

    def __init__(self, profile: Path, server: _Server) -> None:
        self._frames: dict[str, bool] = {}
        self._lenient: bool | None = None
        self.server = server
        super().__init__(profile)
        self._ask("Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=False, flatten=True)

    @property
    def address(self) -> str:
        """The origin of the host's page."""
        return f"http://127.0.0.1:{self.server.server_port}"

    def begin(self, *, lenient: bool = False) -> None:
        """Open the host's page, unless it is open; ``lenient`` hosts leave it to the apps what they may do."""
        self.complaints.clear()
        self.server.asked.clear()
        if self._lenient is lenient:
            return
        self._lenient = lenient
        self._frames.clear()
        sandbox = f"http://localhost:{self.server.server_port}/sandbox.html{'?lenient' if lenient else ''}"
        self.open(f"{self.address}/host.html?sandbox={sandbox}")

    def show(self, html: str, context: Mapping[str, Any] | None = None, **capabilities: Any) -> Any:
        """Show a page as a host with this context and these capabilities does; returns who it says it is."""
        self._frames.clear()
        arguments = f"{json.dumps(html)}, {json.dumps(context or {})}, {json.dumps(capabilities)}"
        return self.ask(f"host.show({arguments})")

    def result(self, result: Mapping[str, Any], **arguments: Any) -> None:
        """Hand the page a tool's arguments and result, and wait until it has drawn it."""
        self.ask(f"host.bridge.sendToolInput({json.dumps({'arguments': arguments})}).then(() => 1)")
        self.ask(f"host.bridge.sendToolResult({json.dumps(result)}).then(() => 1)")
        self.ask("host.bridge.teardownResource({}).then(() => 1)")  # messages keep their order: it has been drawn

    def inside(self, expression: str) -> Any:
        """Return the value of an expression in the shown page."""
        with self._in_view():
            return self.ask(expression)

    def wait_inside(self, expression: str) -> Any:
        """Return the value of an expression in the shown page as soon as it is true."""
        with self._in_view():
            return self.wait(expression)

    def words(self) -> str:
        """All text of the shown page that can be seen."""
        return " ".join(str(self.inside("document.querySelector('main').innerText")).split())

    @contextmanager
    def _in_view(self) -> Iterator[None]:
        """Speak to the frame of the shown page; it has a process, and so a debugger, of its own."""
        outer, deadline = self._session, time.monotonic() + _LIMIT_S
        while (found := self._view()) is None:
            assert time.monotonic() < deadline, "the page is not shown"
        self._session = found
        try:
            yield
        finally:
            self._session = outer

    def _view(self) -> str | None:
        outer = self._session
        try:
            for frame, looked_after in list(self._frames.items()):
                self._session = frame
                if not looked_after:
                    self._frames[frame] = True
                    for domain in ("Runtime", "Log"):
                        self._answer(f"{domain}.enable")
                    auto = {"autoAttach": True, "waitForDebuggerOnStart": False, "flatten": True}
                    self._answer("Target.setAutoAttach", **auto)
                found = self._answer("Runtime.evaluate", expression="document.body?.dataset.app", returnByValue=True)
                if found.get("result", {}).get("result", {}).get("value") == "mlgym-score":
                    return frame
        finally:
            self._session = outer
        self._answer("Runtime.evaluate", expression="1")  # what happened meanwhile is told before the answer
        return None

    def _note(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Target.attachedToTarget":
            self._frames.setdefault(message["params"]["sessionId"], False)
        elif message.get("method") == "Target.detachedFromTarget":
            self._frames.pop(message["params"]["sessionId"], None)
        super()._note(message)


@contextmanager
def app_host(packages: Path, profile: Path) -> Iterator[AppHost]:
    """A host of apps, with the packages of a ``node_modules`` folder."""
    server = _Server(packages)
    thread = threading.Thread(target=partial(server.serve_forever, 0.05))
    thread.start()
    try:
        with AppHost(profile, server) as browser:
            yield browser
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
