"""Frames: ``u32 LE header length | JSON header | payload of header["size"] bytes``."""

from __future__ import annotations

from mlgym_sandbox.inside.runner.native import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Header = dict[str, Any]

CHUNK = 256 * 1024
HEADER_LIMIT = 64 * 1024
PAYLOAD_LIMIT = 1 << 20
MAGIC_BYTES = 32
BACKLOG = 4 << 20
"""Bytes waiting to be sent above which nothing more is fetched from pipes."""


def encode(header: Header, payload: bytes = b"") -> bytes:
    if payload:
        header["size"] = len(payload)
    text = dumps(header).encode()
    return len(text).to_bytes(4, "little") + text + payload


class Decoder:
    """Cuts the server's bytes into frames."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.header: Header | None = None
        self.size = 0

    def feed(self, data: bytes) -> Iterator[tuple[Header, bytes]]:
        self.buffer += data
        while True:
            if self.header is None:
                if len(self.buffer) < 4:
                    return
                length = int.from_bytes(self.buffer[:4], "little")
                if length > HEADER_LIMIT:
                    raise ValueError("header too long")
                if len(self.buffer) < 4 + length:
                    return
                try:
                    header = loads(bytes(self.buffer[4 : 4 + length]))
                except RecursionError:
                    raise ValueError("header nested too deep") from None
                if not isinstance(header, dict):
                    raise ValueError("header is no object")
                size = header.get("size", 0)
                if not isinstance(size, int) or not 0 <= size <= PAYLOAD_LIMIT:
                    raise ValueError("payload too long")
                del self.buffer[: 4 + length]
                self.header, self.size = header, size
            if len(self.buffer) < self.size:
                return
            header, payload = self.header, bytes(self.buffer[: self.size])
            del self.buffer[: self.size]
            self.header = None
            yield header, payload
