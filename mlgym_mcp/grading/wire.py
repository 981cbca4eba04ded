"""Frames of grading: ``u32 LE header length | JSON header | payload``. Standard library only.

Between server and referee (both ours) a header's ``size`` gives the payload's length. Between referee and
player the length of a reply's payload is computed by the referee; nothing the player says is taken for a
length, except the header's own, which is capped.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, Final, NoReturn

PREFIX: Final = struct.Struct("<I")
MAX_HEADER: Final = 64 * 1024
MAX_PAYLOAD: Final = 4 * 1024 * 1024
"""Bound of a payload on the control channel, in bytes; arrays for players are bounded by the grader."""


class WireError(Exception):
    """What arrived is not a frame; the message says how, in a bounded number of characters."""


def encode(header: Mapping[str, Any], payload: bytes | memoryview = b"") -> bytes:
    """Bytes of one frame; ``size`` is added to the header.

    Raises:
        ValueError: the header is too long, or holds something that JSON cannot (NaN included).
    """
    raw = json.dumps({**header, "size": len(payload)}, separators=(",", ":"), allow_nan=False).encode()
    if len(raw) > MAX_HEADER:
        raise ValueError(f"a frame's header has {len(raw)} bytes, at most {MAX_HEADER} are allowed")
    return b"".join((PREFIX.pack(len(raw)), raw, payload))


def header_length(prefix: bytes) -> int:
    """The length of the header that follows these four bytes.

    Raises:
        WireError: longer than a header may be.
    """
    length: int = PREFIX.unpack(prefix)[0]
    if length > MAX_HEADER:
        raise WireError(f"a header of {length} bytes was announced, at most {MAX_HEADER} are allowed")
    return length


def decode_header(raw: bytes) -> dict[str, Any]:
    """The header as a dict: strict JSON, hostile input welcome.

    Raises:
        WireError: not a JSON object, or with a key twice, NaN, an infinity or an absurd number.
    """
    try:
        header = json.loads(raw.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise WireError(f"the header {raw[:40]!r} is not strict JSON ({str(error)[:80]})") from None
    if not isinstance(header, dict):
        raise WireError(f"the header {raw[:40]!r} is not a JSON object")
    return header


def payload_size(header: Mapping[str, Any]) -> int:
    """The ``size`` of a header on the control channel.

    Raises:
        WireError: missing, not a whole number, or out of bounds.
    """
    size = header.get("size", 0)
    if type(size) is not int or not 0 <= size <= MAX_PAYLOAD:
        raise WireError(f"a payload of {str(size)[:40]} bytes was announced, at most {MAX_PAYLOAD} are allowed")
    return size


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found
