"""Frames on a byte stream: ``u32 LE header length | JSON header | payload of header["size"] bytes``."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAGIC_BYTES = 32
"""Length of the secret that opens every connection to a runner."""
HEADER_LIMIT = 64 * 1024
"""Largest JSON header, bytes."""
PAYLOAD_LIMIT = 1 << 20
"""Largest payload, bytes."""

_LENGTH = struct.Struct("<I")


class FrameError(Exception):
    """Bytes that are no frame, or a frame that is too large: the stream cannot be trusted any more."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: a JSON object and bytes."""

    header: Mapping[str, Any]
    payload: bytes = b""


def encode(header: Mapping[str, Any], payload: bytes = b"") -> bytes:
    """Return the bytes of one frame.

    Raises:
        FrameError: the header or the payload is over its limit.
    """
    if len(payload) > PAYLOAD_LIMIT:
        raise FrameError(f"a payload of {len(payload)} bytes is over the limit of {PAYLOAD_LIMIT}")
    full = {**header, "size": len(payload)} if payload else header
    text = json.dumps(full, separators=(",", ":")).encode()
    if len(text) > HEADER_LIMIT:
        raise FrameError(f"a header of {len(text)} bytes is over the limit of {HEADER_LIMIT}")
    return b"".join((_LENGTH.pack(len(text)), text, payload))


class Decoder:
    """Cuts a byte stream into frames, however it was chopped up on the way."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._header: dict[str, Any] | None = None
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take more bytes and yield every frame that is now complete.

        Raises:
            FrameError: the bytes are no frame; nothing after that can be read.
        """
        self._buffer += data
        while True:
            if self._header is None:
                if len(self._buffer) < _LENGTH.size:
                    return
                (length,) = _LENGTH.unpack_from(self._buffer)
                if length > HEADER_LIMIT:
                    raise FrameError(f"a header of {length} bytes is over the limit of {HEADER_LIMIT}")
                if len(self._buffer) < _LENGTH.size + length:
                    return
                self._header = self._parse(bytes(self._buffer[_LENGTH.size : _LENGTH.size + length]))
                del self._buffer[: _LENGTH.size + length]
            if len(self._buffer) < self._size:
                return
            frame = Frame(self._header, bytes(self._buffer[: self._size]))
            del self._buffer[: self._size]
            self._header = None
            yield frame

    def _parse(self, text: bytes) -> dict[str, Any]:
        try:
            header = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FrameError(f"a header is not JSON: {error}") from error
        if not isinstance(header, dict):
            raise FrameError(f"a header is not a JSON object but {type(header).__name__}")
        size = header.pop("size", 0)
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= PAYLOAD_LIMIT:
            raise FrameError(f"a payload size of {size!r} is not between 0 and {PAYLOAD_LIMIT}")
        self._size = size
        return header
