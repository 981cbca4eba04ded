"""A headless Chromium, driven over its pipe: real keys, real pixels, and what it complains of."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--window-size=1280,900",
    "--remote-debugging-pipe",
)
_LIMIT_S = 30.0


class Browser:
    """One browser with one page."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs_in, theirs_out)]
        flags = [*_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else []), f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{high[0]} 4>&{high[1]}', "bash", CHROMIUM, *flags],
            pass_fds=high,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (theirs_in, theirs_out, *high):
            os.close(end)
        self._buffer = b""
        self._count = 0
        self._session: str | None = None
        self._loaded = False
        self.complaints: list[str] = []
        """Errors of pages: refused scripts and styles, exceptions, requests that failed."""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Load a page, its plots included."""
        self._loaded = False
        error = self._ask("Page.navigate", url=url).get("errorText")
        assert not error, f"{url}: {error}"
        self._until(lambda: self._loaded)
        self.wait("document.body.dataset.drawn")

    def ask(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        found = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Return the value of an expression as soon as it is true; pages that are being left have none."""
        deadline = time.monotonic() + _LIMIT_S
        while time.monotonic() < deadline:
            found = self._answer("Runtime.evaluate", expression=expression, returnByValue=True).get("result", {})
            if "exceptionDetails" not in found and (value := found.get("result", {}).get("value")):
                return value
            time.sleep(0.02)
        raise AssertionError(f"never true: {expression}; complaints: {self.complaints}")

    def press(self, *keys: str) -> None:
        """Press and let go of keys."""
        for key in keys:
            more: dict[str, Any] = {"text": key} if len(key) == 1 else {}
            if key == "Enter":
                more = {"text": "\r", "code": "Enter", "windowsVirtualKeyCode": 13}
            elif key == "Tab":
                more = {"code": "Tab", "windowsVirtualKeyCode": 9}
            self._ask("Input.dispatchKeyEvent", type="keyDown", key=key, **more)
            self._ask("Input.dispatchKeyEvent", type="keyUp", key=key, code=more.get("code", ""))

    def scheme(self, name: str) -> None:
        """Prefer ``dark`` or ``light``."""
        self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write a screenshot."""
        data = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def rest(self) -> None:
        """Leave the page, and forget what was complained of."""
        self._ask("Page.navigate", url="about:blank")
        self.wait("location.href === 'about:blank'")
        self.complaints.clear()

    def close(self) -> None:
        """End it."""
        for end in (self._out, self._in):
            os.close(end)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        answer = self._answer(method, **params)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _answer(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        number = self._count
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        answer: dict[str, Any] = {}
        self._until(lambda: answer, number, answer)
        return answer

    def _until(self, done: Any, number: int = -1, answer: dict[str, Any] | None = None) -> None:
        deadline = time.monotonic() + _LIMIT_S
        while not done():
            message = self._message(deadline)
            if answer is not None and message.get("id") == number:
                answer.update(message)
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def _message(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._in, 1 << 20)
            assert data, "the browser is gone"
            self._buffer += data
        raw, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(raw)
        return found
