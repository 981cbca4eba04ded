"""Servers of data on the loopback: a hub that redirects, plain addresses, Debian mirrors; with faults on demand."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PIECE = 1 << 14


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Mirror:
    """One server that can be told to misbehave.

    Attributes:
        address: its own, ``http://127.0.0.1:PORT``.
        files: what is there, by path.
        linked: paths of a hub, each redirected to where the file is stored; the redirection names its size and
            checksum, as the hub does for large files.
        requests: every request: its path and its ``Range``.
        sent: bytes of bodies sent, by request.
        break_after: for each next answer with a body: cut it after so many bytes.
        statuses: for each next request: refuse it with this status.
        ranges: whether partial requests are honoured.
        etags: whether answers carry an ``ETag``.
        sizes: whether answers carry a ``Content-Length``.
        content_type: of all bodies.
        bytes_per_s: how fast bodies are sent; at once if 0.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    linked: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    sent: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    break_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ranges: bool = True
    etags: bool = True
    sizes: bool = True
    content_type: str = "application/octet-stream"
    bytes_per_s: int = 0

    def hub(self, repo: str, revision: str, path: str, data: bytes, kind: str = "datasets/") -> None:
        """Have a file in a repository of the hub."""
        stored = f"/store/{sha256(data)}"
        self.files[stored] = data
        self.linked[f"/{kind}{repo}/resolve/{revision}/{path}"] = stored


@contextmanager
def running_mirror() -> Iterator[Mirror]:
    """Serve a mirror until the block ends."""
    mirror = Mirror()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(mirror))
    server.daemon_threads = True
    mirror.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield mirror
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(mirror: Mirror) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mirror.requests.append((self.path, self.headers.get("Range")))
            if mirror.statuses:
                self.send_error(mirror.statuses.pop(0))
            elif (stored := mirror.linked.get(self.path)) is not None:
                self._redirect(stored)
            elif (data := mirror.files.get(self.path)) is not None:
                self._answer(data)
            else:
                self.send_error(404)

        def _redirect(self, stored: str) -> None:
            data = mirror.files[stored]
            self.send_response(302)
            self.send_header("Location", mirror.address + stored)
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("X-Linked-ETag", f'"{stored.rpartition("/")[2]}"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _answer(self, data: bytes) -> None:
            wanted, etag = self.headers.get("Range"), f'"{sha256(data)[:20]}"'
            same = self.headers.get("If-Range") in (None, etag)
            begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and mirror.ranges and same else 0
            if begin and begin >= len(data):
                self.send_error(416)
                return
            self.send_response(206 if begin else 200)
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            if mirror.etags:
                self.send_header("ETag", etag)
            if mirror.content_type:
                self.send_header("Content-Type", mirror.content_type)
            if mirror.sizes:
                self.send_header("Content-Length", str(len(data) - begin))
            self.end_headers()
            body = data[begin:]
            if mirror.break_after:
                body = body[: mirror.break_after.pop(0)]
                self.close_connection = True
            try:
                self._send(body)
            except OSError:  # whoever asked is gone
                self.close_connection = True

        def _send(self, body: bytes) -> None:
            for start in range(0, len(body), PIECE):
                piece = body[start : start + PIECE]
                self.wfile.write(piece)
                mirror.sent[self.path, self.headers.get("Range")] += len(piece)
                if mirror.bytes_per_s:
                    time.sleep(len(piece) / mirror.bytes_per_s)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
