"""JSON with comments, as editors keep it: read it, and change one place of its text without touching the others."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_BLANK = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_WORD = re.compile(r"[-+.\w]+")
_DEEPEST = 100
_CLOSING = {"{": "}", "[": "]"}
_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}


class BrokenJsonError(ValueError):
    """The text is not JSON, with or without comments; the message says where."""


class WrongKindError(ValueError):
    """Something on the way to the place is not what it would have to be."""


@dataclass(slots=True)
class Node:
    """A value and where it is in the text: ``text[start:end]``."""

    value: Any
    start: int
    end: int
    members: dict[str, Node] = field(default_factory=dict)
    parts: list[tuple[int, Node]] = field(default_factory=list)
    """Where each member (at its key) or item begins, in order."""
    last_comma: bool = False


def parse(text: str) -> Node | None:
    """Return the value of a text, or ``None`` if it holds nothing but blanks and comments.

    Comments and a comma after the last member are allowed; of equal keys the last counts.

    Raises:
        BrokenJsonError: it is not that.
    """
    reader = _Reader(text)
    start = reader.blank(0)
    if start == len(text):
        return None
    root = reader.value(start, 0)
    end = reader.blank(root.end)
    if end != len(text):
        raise reader.broken(end, "nothing may follow")
    return root


def with_member(text: str, path: Sequence[str], value: Any) -> str:
    """Return the text with one member set; what is missing on the way to it is made.

    Args:
        text: JSON, perhaps with comments; blank is an empty object.
        path: keys, from the outermost object inwards.
        value: what JSON can hold.

    Raises:
        BrokenJsonError: the text cannot be read.
        WrongKindError: a member on the way is not an object.
    """
    text, node = _opened(text)
    for depth, key in enumerate(path):
        if not isinstance(node.value, dict):
            raise WrongKindError(f"{_named(path[:depth])} is {_kind(node.value)}, not an object")
        found = node.members.get(key)
        if found is None:
            for later in reversed(path[depth + 1 :]):
                value = {later: value}
            return _inserted(text, node, f"{_key(key)}: ", value)
        node = found
    return _replaced(text, node, value)


def with_item(text: str, key: str, value: dict[str, Any], same: str) -> str:
    """Return the text with an object in the list ``key``, in place of the one whose member ``same`` is equal.

    Raises:
        BrokenJsonError: the text cannot be read.
        WrongKindError: there is something else than a list.
    """
    text, root = _opened(text)
    if not isinstance(root.value, dict):
        raise WrongKindError(f"the whole is {_kind(root.value)}, not an object")
    items = root.members.get(key)
    if items is None:
        return _inserted(text, root, f"{_key(key)}: ", [value])
    if not isinstance(items.value, list):
        raise WrongKindError(f"{_named([key])} is {_kind(items.value)}, not a list")
    for _, item in items.parts:
        if isinstance(item.value, dict) and item.value.get(same) == value[same]:
            return _replaced(text, item, value)
    return _inserted(text, items, "", value)


class _Reader:
    """A recursive reader of one text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def broken(self, at: int, what: str) -> BrokenJsonError:
        line = self._text.count("\n", 0, at) + 1
        column = at - (self._text.rfind("\n", 0, at) + 1) + 1
        return BrokenJsonError(f"line {line}, column {column}: {what}")

    def blank(self, at: int) -> int:
        found = _BLANK.match(self._text, at)
        end = at if found is None else found.end()
        if self._text.startswith("/*", end):
            raise self.broken(end, "this comment never ends")
        return end

    def value(self, at: int, depth: int) -> Node:
        opening = self._text[at : at + 1]
        if opening in _CLOSING:
            if depth == _DEEPEST:
                raise self.broken(at, f"more than {_DEEPEST} levels deep")
            return self._container(at, opening, depth)
        if opening == '"':
            return self._string(at)
        found = _WORD.match(self._text, at)
        if found is None:
            raise self.broken(at, "a value is missing")
        try:
            value = json.loads(found[0], parse_constant=_refused)
        except ValueError:
            raise self.broken(at, f"{found[0][:20]!r} is not a value") from None
        return Node(value, at, found.end())

    def _string(self, at: int) -> Node:
        found = _STRING.match(self._text, at)
        if found is None:
            raise self.broken(at, "this string never ends")
        try:
            return Node(json.loads(found[0]), at, found.end())
        except ValueError:
            raise self.broken(at, "this string holds what no string may") from None

    def _container(self, start: int, opening: str, depth: int) -> Node:
        node = Node({} if opening == "{" else [], start, start)
        closing = _CLOSING[opening]
        at = self.blank(start + 1)
        while not self._text.startswith(closing, at):
            if node.parts and not node.last_comma:
                raise self.broken(at, f"a comma or {closing} is missing")
            begin = at
            if opening == "{":
                if self._text[at : at + 1] != '"':
                    raise self.broken(at, f'a "key" or {closing} is missing')
                key = self._string(at)
                at = self.blank(key.end)
                if self._text[at : at + 1] != ":":
                    raise self.broken(at, "a colon is missing")
                item = self.value(self.blank(at + 1), depth + 1)
                node.value[key.value] = item.value
                node.members[key.value] = item
            else:
                item = self.value(at, depth + 1)
                node.value.append(item.value)
            node.parts.append((begin, item))
            at = self.blank(item.end)
            node.last_comma = self._text.startswith(",", at)
            if node.last_comma:
                at = self.blank(at + 1)
        node.end = at + 1
        return node


def _refused(word: str) -> Any:
    raise ValueError(word)


def _opened(text: str) -> tuple[str, Node]:
    """Return a text that holds a value, and that value."""
    node = parse(text)
    if node is None:
        before = text.rstrip()
        text = f"{before}{_newline(text) if before else ''}{{}}{_newline(text)}"
        node = parse(text)
        assert node is not None
    return text, node


def _replaced(text: str, node: Node, value: Any) -> str:
    if node.value == value and json.dumps(node.value, sort_keys=True) == json.dumps(value, sort_keys=True):
        return text
    return text[: node.start] + _rendered(text, value, _indent_of_line(text, node.start)) + text[node.end :]


def _inserted(text: str, node: Node, label: str, value: Any) -> str:
    """Put a new last part into an object or list; comments behind the part before stay behind it."""
    newline = _newline(text)
    close = node.end - 1
    outer = _indent_of_line(text, close) if _first_of_line(text, close) else _indent_of_line(text, node.start)
    if node.parts and _first_of_line(text, node.parts[0][0]):
        inner = _indent_of_line(text, node.parts[0][0])
    else:
        inner = outer + _unit(text)
    before = node.parts[-1][1].end if node.parts else node.start + 1
    comma = "," if node.parts and not node.last_comma else ""
    kept = text[before:close].rstrip(" \t\r\n")
    new = f"{newline}{inner}{label}{_rendered(text, value, inner)}{',' if node.last_comma else ''}{newline}{outer}"
    return text[:before] + comma + kept + new + text[close:]


def _rendered(text: str, value: Any, indent: str) -> str:
    lines = json.dumps(value, indent=_unit(text), ensure_ascii=False).split("\n")
    return f"{_newline(text)}{indent}".join(lines)


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _unit(text: str) -> str:
    """Return one step of indentation, as the text has it."""
    found = re.search(r'^([ \t]+)"', text, re.MULTILINE)
    return "  " if found is None else found[1]


def _indent_of_line(text: str, at: int) -> str:
    begin = text.rfind("\n", 0, at) + 1
    found = re.compile(r"[ \t]*").match(text, begin)
    return "" if found is None else found[0]


def _first_of_line(text: str, at: int) -> bool:
    return not text[text.rfind("\n", 0, at) + 1 : at].strip(" \t")


def _key(key: str) -> str:
    return json.dumps(key, ensure_ascii=False)


def _named(path: Sequence[str]) -> str:
    return ".".join(_key(key) for key in path) or "the whole"


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")
