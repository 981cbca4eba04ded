"""Spoilt files of weights: nested JSON lists of numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mlgym_mcp.catalog.adversarial.case import Adversarial, case
from mlgym_mcp.catalog.spec import Submission


def weights(rules: Submission, path: str, good: bytes) -> Iterator[Adversarial]:
    """Yield spoilt copies of a file of weights."""
    values: list[Any] = json.loads(good)

    def spoilt(name: str, content: object, *expect: str) -> Adversarial:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        return case(name, {path: data}, *(expect or ("format",)))

    def first(value: object) -> list[Any]:
        """The weights with the first number replaced."""

        def put(part: object) -> object:
            return [put(part[0]), *part[1:]] if isinstance(part, list) and part else value

        return [put(values[0]), *values[1:]]

    def written(value: str) -> bytes:
        return json.dumps(first("?")).replace('"?"', value).encode()

    large = ("format", "too_large", "forbidden")
    yield spoilt("an empty file", b"")
    yield spoilt("garbage", bytes(range(1, 256)) * 64, *large)
    yield spoilt("zero bytes", b"\0" * 4096, *large)
    yield spoilt("no list", 1.0)
    yield spoilt("an object", {"weights": values})
    yield spoilt("one too few", values[:-1])
    yield spoilt("one too many", [*values, values[0]])
    yield spoilt("a list too deep", [values])
    yield spoilt("an empty list", [])
    yield spoilt("a number as text", first("0.5"))
    yield spoilt("null", first(None))
    yield spoilt("true", first(True))
    yield spoilt("a list for a number", first([0.5]))
    for word in ("NaN", "Infinity", "-Infinity", "0x10", "1_0", "\u0661", ".5e", "__import__('os')"):
        yield spoilt(f"the value {word}", written(word))
    for word in ("1e999", "-1e308", "9" * 400):
        yield spoilt(f"the value {word[:12]}", written(word), "range", *large)
    yield spoilt("deep nesting", b"[" * 100_000, *large)
    yield spoilt("a comment", good + b"// the best")
    yield spoilt("two documents", good + good)
    yield spoilt("a byte-order mark", b"\xef\xbb\xbf" + good)
    yield spoilt("another encoding", good.decode().encode("utf-16"), *large)
    yield spoilt("a pickle", b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.")
    yield spoilt("an array file", b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}")
    yield spoilt("more bytes than allowed", good + b" " * rules.max_bytes, "too_large", "forbidden")
