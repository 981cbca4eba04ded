"""Reading, writing, editing, listing and searching files in the sandbox."""

from __future__ import annotations

import ast
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from typing import Annotated

from pydantic import Field

from mlgym_mcp.session.errors import MisuseError
from mlgym_mcp.tools.reply import Call, Reply, cut, plural, size
from mlgym_sandbox import Sandbox
from mlgym_sandbox.errors import SandboxFileError

_READ_LIMIT = 1 << 20
_EDIT_LIMIT = 4 << 20
_WRITE_LIMIT = 3 << 20
_SCAN_LIMIT = 256 << 20
"""So far read_file looks for the line it is to begin with: everything goes through the server."""

_DIAGNOSE_LIMIT = 200_000
_HINT_CHARS, _HINT_LINES = 2000, 20_000
"""Larger pieces of text get no hint of what looks alike: it would hold up everybody."""

Path = Annotated[
    str,
    Field(
        max_length=4095,
        description="File path. Relative paths start at /workspace, e.g. 'train.py' or '/data/README.md'.",
    ),
]


@asynccontextmanager
async def _files(call: Call) -> AsyncIterator[Sandbox]:
    async with call.session.working() as sandbox:
        try:
            yield sandbox
        except SandboxFileError as exc:
            raise MisuseError(str(exc)) from exc


def _absolute(path: str) -> str:
    if not path or "\0" in path:
        raise MisuseError("The path is empty or holds a NUL character: pass a path like 'train.py'.")
    parts: list[str] = []
    for part in (path if path.startswith("/") else f"/workspace/{path}").split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def _writable(path: str) -> str:
    absolute = _absolute(path)
    if absolute == "/workspace" or not absolute.startswith(("/workspace/", "/tmp/")):  # noqa: S108 - the sandbox's
        raise MisuseError(
            f"{absolute} cannot be written: only files under /workspace (and /tmp) can. /data is read-only; "
            "copy what you want to change into /workspace."
        )
    return absolute


async def _text_of(sandbox: Sandbox, path: str) -> str:
    chunk = await sandbox.read_file(path, 0, _EDIT_LIMIT)
    if chunk.size > _EDIT_LIMIT:
        raise MisuseError(
            f"{path} has {size(chunk.size)}; edit_file works on files up to {size(_EDIT_LIMIT)}. Use shell with sed."
        )
    try:
        return chunk.data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise MisuseError(f"{path} is not UTF-8 text (byte {exc.start}); edit it with shell.") from exc


async def read_file(
    call: Call,
    path: Path,
    offset: Annotated[int, Field(ge=1, description="First line to read, counted from 1.")] = 1,
    limit: Annotated[int, Field(ge=1, le=5000, description="How many lines to read at most.")] = 500,
) -> Reply:
    """Read a text file with line numbers.

    Long files come in pieces: the last line of the answer tells the offset of the next piece. Binary files
    are not shown: use shell with python to look into them.
    """
    path = _absolute(path)
    async with _files(call) as sandbox:
        start, line_number, total = 0, 1, 0
        lines: list[str] = []
        more = False
        pending = b""
        chars = 0
        while True:
            chunk = await sandbox.read_file(path, start, _READ_LIMIT if offset > 1 else 128 << 10)
            total = chunk.size
            if start == 0 and b"\0" in chunk.data[:8192]:
                raise MisuseError(
                    f"{path} is a binary file ({size(total)}). Look at it with shell, for example "
                    f"python -c \"import numpy as np; print(np.load('{path}', mmap_mode='r').shape)\"."
                )
            data = pending + chunk.data
            start += len(chunk.data)
            at_end = start >= total or not chunk.data
            pieces = data.split(b"\n")
            pending = b"" if at_end else pieces.pop()
            if at_end and pieces and pieces[-1] == b"":
                pieces.pop()
            if len(pending) > _READ_LIMIT:  # a line without an end: its beginning is enough
                pending = pending[:_READ_LIMIT]
                if line_number + len(pieces) >= offset:
                    pieces.append(pending)
            for piece in pieces:
                if line_number >= offset:
                    if len(lines) >= limit or chars > 18_000:
                        more = True
                        break
                    text = piece.decode("utf-8", "replace").rstrip("\r")
                    if len(text) > 2000:
                        plus = " or more" if len(piece) >= _READ_LIMIT else ""
                        text = f"{text[:2000]} [line cut: {len(text)} characters{plus}]"
                    lines.append(f"{line_number:6}\t{text}")
                    chars += len(lines[-1]) + 1
                line_number += 1
            more = more or (len(pending) >= _READ_LIMIT and bool(lines))
            if more or at_end:
                break
            if not lines and start >= _SCAN_LIMIT:
                raise MisuseError(
                    f"Line {offset} is not within the first {size(_SCAN_LIMIT)} of {path} ({size(total)}): use shell, "
                    f"for example sed -n '{offset},{offset + 50}p' {path}."
                )
    if not lines:
        known = line_number - 1
        if offset > 1:
            raise MisuseError(f"{path} has {plural(known, 'line')}; offset {offset} is past its end.")
        return Reply(f"({path} is empty)", meta={"size": total})
    last = offset + len(lines) - 1
    tail = f"\n[{size(total)} in all; more lines follow: read_file(path, offset={last + 1})]" if more else ""
    return Reply("\n".join(lines) + tail, meta={"size": total, "first_line": offset, "last_line": last})


async def write_file(
    call: Call,
    path: Path,
    content: Annotated[str, Field(description="The whole new content of the file, as it shall stand.")],
) -> Reply:
    """Create a file, or replace all of it. Missing folders are made.

    For a small change in an existing file use edit_file.
    """
    path = _writable(path)
    data = content.encode("utf-8", "replace")
    if len(data) > _WRITE_LIMIT:
        raise MisuseError(
            f"The content has {size(len(data))}; write_file takes up to {size(_WRITE_LIMIT)}. "
            "Make large files with a program run by shell."
        )
    async with _files(call) as sandbox:
        await sandbox.write_file(path, data)
    report = (
        f"Wrote {path}: {plural(content.count(chr(10)) + (not content.endswith(chr(10)) and bool(content)), 'line')}"
    )
    return Reply(f"{report}, {size(len(data))}.{_diagnose(path, content)}", meta={"size": len(data)})


async def edit_file(
    call: Call,
    path: Path,
    old: Annotated[
        str,
        Field(
            description="Text to replace: exact, with its indentation, and found exactly once in the file. "
            "Leave empty to replace by line numbers."
        ),
    ] = "",
    new: Annotated[str, Field(description="Text to put in its place (empty deletes).")] = "",
    first_line: Annotated[
        int, Field(ge=0, description="With an empty old: first line to replace, counted from 1. 0 is unused.")
    ] = 0,
    last_line: Annotated[
        int,
        Field(
            ge=0,
            description="With an empty old: last line to replace. first_line - 1 inserts before first_line.",
        ),
    ] = 0,
) -> Reply:
    """Change part of a text file: replace one exact piece of text, or a range of lines.

    The answer shows the changed lines, and syntax errors if the file is Python. The edit is kept even then.
    """
    path = _writable(path)
    async with _files(call) as sandbox:
        before = await _text_of(sandbox, path)
        if "\r\n" in before and before.count("\n") == before.count("\r\n"):
            # read_file shows no carriage returns, so neither do old and new have any.
            old, new = (text.replace("\r\n", "\n").replace("\n", "\r\n") for text in (old, new))
        if old:
            if first_line or last_line:
                raise MisuseError("Pass either old or first_line and last_line, not both.")
            after, at = _replace_text(path, before, old, new)
        else:
            after, at = _replace_lines(path, before, new, first_line, last_line)
        if after == before:
            raise MisuseError("The edit changes nothing: new is the same as what is there.")
        await sandbox.write_file(path, after.encode("utf-8"))
    first = before.count("\n", 0, at) + 1
    changed = max(1, new.count("\n") + (not new.endswith("\n")))
    return Reply(
        f"Edited {path}. Lines around the change:\n{_around(after, first, changed)}{_diagnose(path, after)}",
        meta={"first_line": first},
    )


def _replace_text(path: str, text: str, old: str, new: str) -> tuple[str, int]:
    count = text.count(old)
    if count == 1:
        at = text.index(old)
        return text[:at] + new + text[at + len(old) :], at
    if count > 1:
        lines = _line_numbers(text, old, 10)
        raise MisuseError(
            f"The text to replace is in {path} {count} times (lines {', '.join(lines)}): add lines around it until "
            "it is unique, or use first_line and last_line."
        )
    near = _alike(text, old)
    hint = (
        f" Lines {', '.join(map(str, near))} look alike but differ in spaces or in what stands around them."
        if near
        else ""
    )
    raise MisuseError(f"The text to replace is not in {path}.{hint} Read the file and copy the text exactly.")


def _line_numbers(text: str, piece: str, limit: int) -> list[str]:
    """Return the lines in which a piece of text begins."""
    numbers: list[str] = []
    line, done, at = 1, 0, text.find(piece)
    while at >= 0 and len(numbers) < limit:
        line += text.count("\n", done, at)
        numbers.append(str(line))
        done, at = at, text.find(piece, at + len(piece))
    return numbers


def _alike(text: str, old: str) -> list[int]:
    """Return up to five lines that are in ``old`` if spaces do not count."""
    squeezed = " ".join(old.split())
    near: list[int] = []
    if not squeezed or len(squeezed) > _HINT_CHARS:
        return near
    for number, line in enumerate(islice(text.split("\n"), _HINT_LINES), 1):
        words = " ".join(line.split())
        if words and words in squeezed:
            near.append(number)
            if len(near) == 5:
                break
    return near


def _replace_lines(path: str, text: str, new: str, first: int, last: int) -> tuple[str, int]:
    if first == 0:
        raise MisuseError("Nothing to replace: pass old (exact text), or first_line and last_line.")
    lines = _lines(text)
    end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    if first > len(lines) + 1 or last > len(lines) or last < first - 1:
        raise MisuseError(
            f"Lines {first} to {last} do not exist in {path}, which has {plural(len(lines), 'line')}. "
            "last_line must be first_line or more (first_line - 1 inserts)."
        )
    if new and not new.endswith("\n"):
        new += end
    head = "".join(lines[: first - 1])
    if head and not head.endswith("\n"):
        head += end
    return head + new + "".join(lines[last:]), len(head)


def _lines(text: str) -> list[str]:
    """Return the lines with their ends, as read_file counts them: only a newline separates."""
    lines = [f"{line}\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def _around(text: str, first: int, changed: int) -> str:
    lines = [line.rstrip("\r\n") for line in _lines(text)]
    low, high = max(1, first - 3), min(len(lines), first + changed + 2)
    shown = [f"{i:6}\t{lines[i - 1][:500]}" for i in range(low, high + 1)]
    if len(shown) > 80:
        shown = [*shown[:40], f"      \t[... {len(shown) - 80} lines ...]", *shown[-40:]]
    return "\n".join(shown)


def _diagnose(path: str, text: str) -> str:
    """Return a sentence on Python syntax errors, or nothing. The text is parsed, never run."""
    if not path.endswith(".py") or len(text) > _DIAGNOSE_LIMIT:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except SyntaxError as exc:
        source = (exc.text or "").strip()[:200]
        return f"\nPython syntax error in line {exc.lineno}: {exc.msg}{f' in: {source}' if source else ''}"
    except (ValueError, RecursionError, MemoryError) as exc:
        return f"\nPython cannot read this file: {exc}"
    return ""


async def list_files(
    call: Call,
    path: Annotated[
        str, Field(max_length=4095, description="Folder to list, e.g. '.' for /workspace or '/data'.")
    ] = ".",
    depth: Annotated[int, Field(ge=1, le=10, description="How many levels of folders to go down.")] = 2,
) -> Reply:
    """List files and folders with their sizes."""
    path = _absolute(path)
    async with _files(call) as sandbox:
        listing = await sandbox.list_files(path, depth=depth, limit=1000)
    if not listing.entries:
        return Reply(f"({path} is empty)")
    lines = [
        f"{entry.path}/"
        if entry.kind == "dir"
        else f"{entry.path}  {size(entry.size) if entry.kind == 'file' else entry.kind}"
        for entry in listing.entries
    ]
    tail = "\n[more entries were left out: list a folder below, or use a smaller depth]" if listing.truncated else ""
    return Reply(cut("\n".join(lines), "list a folder below it") + tail, meta={"entries": len(lines)})


async def search_files(
    call: Call,
    pattern: Annotated[str, Field(max_length=1000, description="Python regular expression, matched line by line.")],
    path: Annotated[str, Field(max_length=4095, description="File or folder to search.")] = ".",
    glob: Annotated[
        str, Field(max_length=500, description="Only files whose name matches, e.g. '*.py'. Empty for all.")
    ] = "",
    ignore_case: Annotated[bool, Field(description="Whether upper and lower case are the same.")] = False,
) -> Reply:
    """Search text files for a regular expression and show the matching lines."""
    async with _files(call) as sandbox:
        found = await sandbox.search(pattern, _absolute(path), glob=glob or None, ignore_case=ignore_case)
    if not found.matches and found.truncated:
        text = "The search took too long and was given up, without a match so far: narrow the pattern, path or glob."
        return Reply(text, meta={"matches": 0})
    if not found.matches:
        return Reply(f"No match in {plural(found.files_searched, 'file')}.", meta={"matches": 0})
    lines = [f"{m.path}:{m.line}: {m.text}" for m in found.matches]
    tail = "\n[there are more matches: narrow the pattern, the path or the glob]" if found.truncated else ""
    return Reply(cut("\n".join(lines), "narrow the pattern") + tail, meta={"matches": len(lines)})
