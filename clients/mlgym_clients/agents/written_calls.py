"""Tool calls that open models write as text, found and read. Nothing is ever evaluated.

Forms that are known: Llama 3's ``{"name": ..., "parameters": {...}}``, alone, in a list, in a code fence, behind
``<|python_tag|>`` and separated by semicolons; its ``<|python_tag|>tool.call(key="value")`` and
``<function=tool>{...}</function>``; Llama 4's ``[tool(key="value"), other()]``, with or without
``<|python_start|>``; and ``<tool_call>{...}</tool_call>`` of Hermes and Qwen.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

_LONGEST = 4 << 20
_TRIES, _LARGE, _LARGE_TRIES = 50, 100_000, 8
"""So many places of one text, and of a large one, are looked at: reading stays linear, whatever it holds."""

_MARKS = ("<|python_tag|>", "<|python_start|>", "<tool_call>", "<function=")
_NOISE = re.compile(r"<\|(?:python_end|eom_id|eot_id|eot|eom|end_of_text|begin_of_text|im_end)\|>")
_START = re.compile(r"[{\[]")
_LISTED = re.compile(r"\[\s{0,20}[A-Za-z_][\w.]{0,99}\s{0,20}\(")
_CALLED = re.compile(r"\s{0,20};?\s{0,20}[A-Za-z_][\w.]{0,99}\(")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_SPECIAL = re.compile(r"\"\"\"|'''|[\"'()\[\]{}]")
_ENDINGS = {quote: re.compile(rf"\\.|{quote}", re.DOTALL) for quote in ("'", '"', "'''", '"""')}
_DEEPEST = 64
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_KEYS = {"name", "parameters", "arguments", "args", "type", "id", "function"}


@dataclass(frozen=True, slots=True)
class WrittenCall:
    """A tool call that stood in a text."""

    name: str
    arguments: dict[str, Any]


class _NotACallError(ValueError):
    """What was read is something else."""


def written_calls(text: str, known: Collection[str]) -> list[WrittenCall]:
    """Return the tool calls in a text, in order; none when it holds none.

    Args:
        text: what a model wrote.
        known: the names of the tools. A call of anything else counts only behind one of the marks that
            models are trained to put before calls: ordinary prose has brackets too.
    """
    if len(text) > _LONGEST:
        return []
    marks = [(place, mark) for mark in _MARKS if (place := text.find(mark)) >= 0]
    if not marks:
        return list(_found(_NOISE.sub(" ", text), known, marked=False))
    place, mark = min(marks)
    if mark == "<function=":
        return list(_functions(text[place:]))
    body = _NOISE.sub(" ", text[place:])
    for known_mark in (*_MARKS[:3], "</tool_call>"):
        body = body.replace(known_mark, " ")
    return list(_found(body, known, marked=True))


def _found(body: str, known: Collection[str], *, marked: bool) -> Iterator[WrittenCall]:
    position, tries = 0, 0
    while tries < (_TRIES if len(body) < _LARGE else _LARGE_TRIES):
        tries += 1
        start = _START.search(body, position)
        bare = _CALLED.match(body, position) if marked else None
        if bare is not None and (start is None or bare.end() <= start.start()):
            begin = position + (len(bare[0]) - len(bare[0].lstrip(" ;\n\t\r")))
        elif start is not None:
            begin = start.start()
        else:
            return
        try:
            calls, position = _read(body, begin)
        except _NotACallError:
            position = begin + 1
            continue
        if calls and (marked or all(call.name in known for call in calls)):
            yield from calls
            tries -= 1


def _read(body: str, begin: int) -> tuple[list[WrittenCall], int]:
    """Read what begins at ``begin``; returns the calls, none if it is JSON of another kind, and where it ends.

    Raises:
        _NotACallError: it is neither JSON nor a call as Python writes it.
    """
    if body[begin] in "{[":
        try:
            value, end = _JSON.raw_decode(body, begin)
        except (ValueError, RecursionError):
            if body[begin] == "{" or _LISTED.match(body, begin) is None:
                raise _NotACallError from None
        else:
            try:
                return _from_json(value), end
            except _NotACallError:
                return [], end
    return _from_python(body, begin)


def _from_json(value: Any) -> list[WrittenCall]:
    if isinstance(value, list):
        if not value:
            raise _NotACallError
        return [call for item in value for call in _from_json(item)]
    if not isinstance(value, dict) or not value.keys() <= _KEYS:
        raise _NotACallError
    inner = value.get("function")
    if isinstance(inner, dict):
        return _from_json(inner)
    name = value.get("name", inner)
    given = [value[key] for key in ("parameters", "arguments", "args") if key in value]
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(given) > 1:
        raise _NotACallError
    if not given and value.get("type") != "function":
        raise _NotACallError
    return [WrittenCall(name, _arguments(given[0] if given else None))]


def _arguments(given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        try:
            given = _JSON.decode(given)
        except (ValueError, RecursionError):
            raise _NotACallError from None
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise _NotACallError
    return given


def _functions(text: str) -> Iterator[WrittenCall]:
    """Read ``<function=name>{...}</function>``, one after another."""
    for piece in text.split("<function=", _TRIES + 1)[1 : _TRIES + 1]:
        name, closed, rest = piece.partition(">")
        if not closed or not _NAME.fullmatch(name):
            continue
        rest = rest.lstrip()
        try:
            value = _JSON.raw_decode(rest)[0] if rest.startswith("{") else {}
        except (ValueError, RecursionError):
            continue
        yield WrittenCall(name, value)


def _from_python(body: str, begin: int) -> tuple[list[WrittenCall], int]:
    source, end = _balanced(body, begin)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in a model's text
            tree = ast.parse(source, mode="eval").body
        nodes = tree.elts if isinstance(tree, ast.List) else [tree]
        return [_python_call(node) for node in nodes], end
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise _NotACallError from None


def _balanced(body: str, begin: int) -> tuple[str, int]:
    """Return the bracketed piece that begins here and its end; line breaks in short strings are escaped.

    Raises:
        _NotACallError: the brackets do not match, or are nested deeper than any call is.
    """
    closing: list[str] = []
    piece: list[str] = []
    place = begin
    while (found := _SPECIAL.search(body, place)) is not None and len(closing) <= _DEEPEST:
        char = found[0]
        piece.append(body[place : found.start()])
        place = found.end()
        if char[0] in "'\"":
            text, place = _quoted(body, place, char)
            piece.append(f"{char}{text}{char}")
            continue
        piece.append(char)
        if char in _CLOSING:
            closing.append(_CLOSING[char])
        elif not closing or closing.pop() != char:
            break
        elif not closing:
            return "".join(piece), place
    raise _NotACallError


def _quoted(body: str, begin: int, quote: str) -> tuple[str, int]:
    """Return the rest of a string whose opening quote has been read, and where it ends."""
    ending = _ENDINGS[quote]
    place = begin
    while (found := ending.search(body, place)) is not None:
        if found[0] == quote:
            text = body[begin : found.start()].replace("\r", "")
            return text if len(quote) == 3 else text.replace("\n", "\\n"), found.end()
        place = found.end()
    raise _NotACallError


def _python_call(node: ast.expr) -> WrittenCall:
    if not isinstance(node, ast.Call) or node.args:
        raise _NotACallError
    function = node.func
    if isinstance(function, ast.Attribute) and function.attr == "call":  # tool.call(...), as Llama 3.1 has it
        function = function.value
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in arguments:
            raise _NotACallError
        arguments[keyword.arg] = _literal(keyword.value)
    if not isinstance(function, ast.Name) or not _NAME.fullmatch(function.id):
        raise _NotACallError
    return WrittenCall(function.id, arguments)


def _literal(node: ast.expr) -> Any:
    """Return a literal's value, if JSON can say it."""
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str | bool | int)):
        return node.value
    if isinstance(node, ast.Constant) and isinstance(node.value, float) and math.isfinite(node.value):
        return node.value
    if isinstance(node, ast.Name) and node.id in _WORDS:
        return _WORDS[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return -value
    if isinstance(node, ast.Dict):
        pairs: dict[str, Any] = {}
        for key, item in zip(node.keys, node.values, strict=True):
            if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
                raise _NotACallError
            pairs[key.value] = _literal(item)
        return pairs
    raise _NotACallError


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


_JSON = json.JSONDecoder(strict=False, parse_constant=_no_constant)
"""Takes line breaks in strings, which models do write; no NaN."""
