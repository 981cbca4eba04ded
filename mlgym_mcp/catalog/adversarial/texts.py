"""Spoilt JSON lines of texts."""

from __future__ import annotations

import json
from collections.abc import Iterator

from mlgym_mcp.catalog.adversarial.case import Adversarial, case
from mlgym_mcp.catalog.spec import Submission


def texts(rules: Submission, path: str, gold: bytes) -> Iterator[Adversarial]:
    """Yield spoilt copies of a perfect file of texts."""
    lines = gold.decode().splitlines()
    record = json.loads(lines[0])
    key, text = record["id"], record["text"]

    def spoilt(name: str, content: str | bytes, *expect: str) -> Adversarial:
        data = content if isinstance(content, bytes) else content.encode()
        return case(name, {path: data}, *(expect or ("format",)))

    def first(line: object) -> str:
        """The gold file with its first line replaced."""
        return "\n".join([line if isinstance(line, str) else json.dumps(line), *lines[1:], ""])

    large = ("format", "too_large", "forbidden")
    yield spoilt("an empty file", "")
    yield spoilt("garbage", bytes(range(1, 256)) * 64, "format", "too_large")
    yield spoilt("zero bytes", b"\0" * 4096, "format", "too_large")
    yield spoilt("a line too few", "\n".join([*lines[:-1], ""]))
    yield spoilt("a line too many", "\n".join([*lines, lines[0], ""]))
    yield spoilt("ten times the lines", "\n".join([*lines * 10, ""]), *large)
    yield spoilt("one JSON array", json.dumps([json.loads(line) for line in lines]))
    yield spoilt("an id twice", "\n".join([*lines[:-1], lines[0], ""]))
    yield spoilt("an unknown id", first({"id": len(lines) + 7, "text": text}))
    yield spoilt("a negative id", first({"id": -1, "text": text}))
    yield spoilt("an id as text", first({"id": str(key), "text": text}))
    yield spoilt("an id as a decimal", first({"id": float(key), "text": text}))
    yield spoilt("an id that is true", first({"id": True, "text": text}))
    yield spoilt("no text", first({"id": key}))
    yield spoilt("a text that is a number", first({"id": key, "text": 1}))
    yield spoilt("a text that is null", first({"id": key, "text": None}))
    yield spoilt("a text that is a list", first({"id": key, "text": [text]}))
    yield spoilt("another key", first({"id": key, "caption": text}))
    yield spoilt("a key too many", first({"id": key, "text": text, "score": 1.0}))
    yield spoilt("a key twice", first(f'{{"id": {key}, "text": {json.dumps(text)}, "text": {json.dumps(text)}}}'))
    yield spoilt("NaN", first(f'{{"id": NaN, "text": {json.dumps(text)}}}'))
    yield spoilt("a comment", first(f"{lines[0]} // the best one"))
    yield spoilt("single quotes", first(lines[0].replace('"', "'")))
    yield spoilt("a line that is a list", first([key, text]))
    yield spoilt("a list of pairs", first([["id", key], ["text", text]]))
    yield spoilt("deep nesting", first("[" * 400 + "]" * 400), *large)
    yield spoilt("a text too long", first({"id": key, "text": "a" * 5000}), "range", *large)
    yield spoilt("too many words", first({"id": key, "text": "a " * 200}), "range", *large)
    yield spoilt("a control character", first({"id": key, "text": "a\x07b"}), "range", "format")
    yield spoilt("a line end in a text", first({"id": key, "text": "a\nb"}), "range", "format")
    yield spoilt("a lone surrogate", first(f'{{"id": {key}, "text": "\\ud800"}}'), "range", "format")
    yield spoilt("a right-to-left override", first({"id": key, "text": "a\u202eb"}), "range", "format")
    yield spoilt("another encoding", gold.decode().encode("utf-16"), *large)
    yield spoilt("a byte-order mark", b"\xef\xbb\xbf" + gold)
    yield spoilt("a pickle", b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.")
    yield spoilt("one line of a megabyte", f'{{"id": {key}, "text": "{"a" * (1 << 20)}"}}\n', *large)
    yield spoilt("nothing but line ends", "\n" * min(rules.max_bytes, 1 << 20), *large)
    yield spoilt("more bytes than allowed", gold + b" " * rules.max_bytes, "too_large", "forbidden")
