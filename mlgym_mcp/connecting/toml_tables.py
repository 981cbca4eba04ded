"""One table of a TOML file: set it, and touch no other line."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|."
    r"|\n",
    re.DOTALL,
)


class BrokenTomlError(ValueError):
    """The text is not TOML; the message says where."""


class UnreachableTableError(ValueError):
    """The table is written in a way that cannot be changed line by line, such as inside an inline table."""


@dataclass(slots=True)
class _Table:
    path: tuple[str, ...]
    start: int
    end: int
    """Where its last pair ends: the comments and blank lines behind may be those of the next table."""


def parse(text: str) -> dict[str, Any]:
    """Return the value of a TOML text.

    Raises:
        BrokenTomlError: it is none.
    """
    try:
        return tomllib.loads(text.replace("\r\n", "\n"))
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise BrokenTomlError(str(exc) or "nested too deeply") from None


def with_table(text: str, path: Sequence[str], value: Mapping[str, Any]) -> str:
    """Return the text with one table set, in the place where it was, or at the end.

    Args:
        text: TOML.
        path: the table's name; each part may be a bare key.
        value: what it is to hold: strings, numbers, booleans, and lists and inline tables of them.

    Raises:
        BrokenTomlError: the text cannot be read.
        UnreachableTableError: the table is not one with a ``[header]`` of its own.
    """
    wanted = parse(text)
    if _at(wanted, path) == value:
        return text
    newline = "\r\n" if "\r\n" in text else "\n"
    ours = [table for table in _tables(text) if table.path[: len(path)] == tuple(path)]
    new = newline.join([f"[{'.'.join(path)}]", *(f"{key} = {_rendered(item)}" for key, item in value.items())])
    result = text
    for table in reversed(ours):
        here = table is ours[0]
        result = result[: table.start] + (new if here else "") + result[table.end :]
    if not ours:
        before = text if not text or text.endswith("\n") else text + newline
        result = before + (newline if before.strip() else "") + new + newline
    _set(wanted, path, value)
    try:
        as_wanted = parse(result) == wanted
    except BrokenTomlError:
        as_wanted = False
    if not as_wanted:
        raise UnreachableTableError(f"[{'.'.join(path)}] would have to go inside of something that is not a table")
    return result


def rendered(path: Sequence[str], value: Mapping[str, Any]) -> str:
    """Return a table as text."""
    return with_table("", path, value)


def _tables(text: str) -> list[_Table]:
    """Return where each table with a header begins, and where its last pair ends."""
    tables: list[_Table] = []
    at = 0
    while at < len(text):
        start = at
        depth, written = 0, ""
        while at < len(text):
            found = _TOKEN.match(text, at)
            assert found is not None
            token = found[0]
            if token == "\n" and depth == 0:
                break
            depth += (token in "[{") - (token in "]}")
            if not token.startswith("#"):
                written += token
            at = found.end()
        end = start + len(text[start:at].rstrip())
        statement = written.strip()
        if statement.startswith("["):
            tables.append(_Table(_header(statement), start, end))
        elif statement and tables:
            tables[-1].end = end
        at += 1
    return tables


def _header(line: str) -> tuple[str, ...]:
    """Return the name in a ``[header]``: what it makes of an empty document is its path."""
    found: list[str] = []
    value: Any = tomllib.loads(line)
    while value:
        if isinstance(value, list):
            value = value[0]
            continue
        ((key, value),) = value.items()
        found.append(key)
    return tuple(found)


def _at(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _set(value: dict[str, Any], path: Sequence[str], item: Mapping[str, Any]) -> None:
    for key in path[:-1]:
        inner = value.setdefault(key, {})
        if not isinstance(inner, dict):
            raise UnreachableTableError(f"{key} is not a table")
        value = inner
    value[path[-1]] = dict(item)


def _rendered(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_rendered(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_rendered(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
