"""Spoilt CSV files."""

from __future__ import annotations

from collections.abc import Iterator

from mlgym_mcp.catalog.adversarial.case import Adversarial, case
from mlgym_mcp.catalog.spec import Submission


def predictions(rules: Submission, path: str, gold: bytes) -> Iterator[Adversarial]:
    """Yield spoilt copies of a perfect CSV file."""
    lines = gold.decode().splitlines()
    header, rows = lines[0], lines[1:]
    key, value = rows[0].split(",")

    def spoilt(name: str, text: str | bytes, *expect: str) -> Adversarial:
        data = text if isinstance(text, bytes) else text.encode()
        return case(name, {path: data}, *(expect or ("format",)))

    def first(cell: str, row_id: str = key) -> str:
        """The gold file with its first row replaced."""
        return "\n".join([header, f"{row_id},{cell}", *rows[1:], ""])

    yield spoilt("an empty file", "")
    yield spoilt("the header alone", f"{header}\n")
    yield spoilt("garbage", bytes(range(1, 256)) * 64, "format", "too_large")
    yield spoilt("zero bytes", b"\0" * 4096, "format", "too_large")
    yield spoilt("another header", "\n".join([header.upper(), *rows, ""]))
    yield spoilt("no header", "\n".join([*rows, ""]))
    yield spoilt(
        "columns swapped", "\n".join([header, *(",".join(reversed(r.split(","))) for r in rows), ""]), "format", "range"
    )
    yield spoilt("an extra column", "\n".join([f"{header},x", *(f"{r},1" for r in rows), ""]))
    yield spoilt("an extra cell", first(f"{value},{value}"))
    yield spoilt("a row too few", "\n".join([header, *rows[:-1], ""]))
    yield spoilt("a row too many", "\n".join([header, *rows, rows[0], ""]))
    yield spoilt("ten times the rows", "\n".join([header, *rows * 10, ""]), "format", "too_large", "forbidden")
    yield spoilt("an id twice", "\n".join([header, *rows[:-1], rows[0], ""]))
    yield spoilt("an unknown id", first(value, str(len(rows) + 7)))
    yield spoilt("a negative id", first(value, "-1"))
    yield spoilt("an id with a leading zero", first(value, f"0{key}"))
    yield spoilt("an id as a decimal", first(value, f"{key}.0"))
    yield spoilt("an id in Arabic digits", first(value, "\u0660"))
    for cell in ("nan", "NaN", "inf", "-inf", "Infinity"):
        yield spoilt(f"the value {cell}", first(cell))
    for cell in ("1e999", "-1"):
        yield spoilt(f"the value {cell}", first(cell), "format", "range")
    yield spoilt("a huge number", first("9" * 60), "format", "range")
    yield spoilt("a hexadecimal value", first("0x10"))
    yield spoilt("an underscore in a value", first("1_0"))
    yield spoilt("a value in Arabic digits", first("\u0661"))
    yield spoilt("a full-width digit", first("\uff11"))
    yield spoilt("a quoted value", first(f'"{value}"'))
    yield spoilt("a formula", first("=1+1"))
    yield spoilt("a value that is an expression", first("__import__('os').system('true')"))
    yield spoilt("an empty value", first(""))
    yield spoilt("spaces around a value", first(f" {value} "))
    yield spoilt("other line ends", gold.replace(b"\n", b"\r"))
    yield spoilt("a byte-order mark", b"\xef\xbb\xbf" + gold)
    yield spoilt("UTF-16", gold.decode().encode("utf-16"), "format", "too_large", "forbidden")
    yield spoilt(
        "a pickle", b"\x80\x04\x95\x1b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."
    )
    yield spoilt("one line of a megabyte", f"{header}\n{key},{'1' * (1 << 20)}\n", "format", "too_large", "forbidden")
    yield spoilt("a quarter of a million commas", header + "\n" + "," * 250_000, "format", "too_large", "forbidden")
    yield spoilt("nothing but line ends", "\n" * min(rules.max_bytes, 1 << 20), "format", "too_large", "forbidden")
    yield spoilt("more bytes than allowed", gold + b"1" * rules.max_bytes, "too_large", "forbidden")
