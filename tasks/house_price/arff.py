"""Reads ARFF, the text format of OpenML's tables: strictly, or not at all. Standard library only.

Known are attributes of type numeric, real, integer, string and {nominal}, single and double quotes with backslash
escapes, comments, and ``?`` for an unknown cell. Dates, relations inside relations, sparse rows and weights are not.
"""

import math
import re
from dataclasses import dataclass

_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_CELL = re.compile(rf"""\s*(?:(?P<quoted>{_QUOTED})|(?P<bare>[^\s,'"{{}}%]+))\s*(?P<end>,|$)""")
_ATTRIBUTE = re.compile(rf"""@attribute\s+({_QUOTED}|[^\s,'"{{}}%]+)\s+(\{{.*\}}|\w+)""", re.IGNORECASE)
_ESCAPED = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)


class ArffError(ValueError):
    """The text is no ARFF that this reader knows; says in which line."""


@dataclass(frozen=True)
class Table:
    """What an ARFF file holds.

    Attributes:
        comments: the text of its comment lines, in their order, without the percent signs.
        columns: by name, the cells of all rows: int, float or str as the attribute's type says, None if unknown.
    """

    comments: list
    columns: dict


def read(text):
    """Read a whole file.

    Raises:
        ArffError: it is not exactly as it should be.
    """
    comments, columns, types, in_data = [], {}, [], False
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        try:
            if stripped.startswith("%"):
                comments.append(stripped[1:])
            elif not stripped:
                continue
            elif in_data:
                _add_row(stripped, columns, types)
            elif stripped.lower() == "@data":
                if not columns:
                    raise ArffError("@DATA before any @ATTRIBUTE")
                in_data = True
            elif stripped.lower().startswith("@attribute"):
                name, kind = _attribute(stripped)
                if name in columns:
                    raise ArffError(f"a second attribute {name!r}")
                columns[name] = []
                types.append(kind)
            elif not stripped.lower().startswith("@relation"):
                raise ArffError("expected @RELATION, @ATTRIBUTE or @DATA")
        except ArffError as error:
            raise ArffError(f"line {number}: {error}: {stripped[:80]!r}") from None
    if not in_data:
        raise ArffError("it ends before @DATA")
    return Table(comments, columns)


def _attribute(line):
    """An attribute's name and the function that reads its cells."""
    found = _ATTRIBUTE.fullmatch(line)
    if found is None:
        raise ArffError("expected @ATTRIBUTE, a name and a type")
    kind = found[2]
    name = _unquoted(found[1]) if found[1][0] in "'\"" else found[1]
    if kind.startswith("{"):
        return name, _nominal({text for text, _ in _cells(kind[1:-1])})
    readers = {"numeric": _number, "real": _number, "integer": _whole, "string": str}
    if kind.lower() not in readers:
        raise ArffError(f"a type that is not known, {kind!r}")
    return name, readers[kind.lower()]


def _add_row(line, columns, readers):
    cells = _cells(line)
    if len(cells) != len(readers):
        raise ArffError(f"{len(cells)} cells instead of {len(readers)}")
    for column, reader, (text, quoted) in zip(columns.values(), readers, cells, strict=True):
        column.append(None if text == "?" and not quoted else reader(text))


def _cells(line):
    """The cells between commas: text, and whether it stood in quotes."""
    cells, position, more = [], 0, True
    while more:
        found = _CELL.match(line, position)
        if found is None:
            raise ArffError(f"cell {len(cells) + 1} cannot be read")
        bare = found["bare"]
        cells.append((_unquoted(found["quoted"]), True) if bare is None else (bare, False))
        position, more = found.end(), found["end"] == ","
    return cells


def _unquoted(text):
    return _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), text[1:-1])


def _number(text):
    if not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise ArffError(f"{text!r} is no number")
    return float(text)


def _whole(text):
    if not _WHOLE.fullmatch(text):
        raise ArffError(f"{text!r} is no whole number")
    return int(text)


def _nominal(values):
    def read_one(text):
        if text not in values:
            raise ArffError(f"{text!r} is not among the attribute's values")
        return text

    return read_one
