"""A program's modules as one that needs no files: as text for any Python, as bytecode for ours."""

from __future__ import annotations

import base64
import importlib.util
import marshal
import secrets
import sys
import zlib
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path

from mlgym_sandbox.home import home

_ROOT = Path(__file__).parents[2]
RUNNER = "runner"
PLAYER = "player"
LOADER = Path(__file__).with_name("loader.py")
"""Stands in front of the modules."""


@cache
def modules(program: str = RUNNER) -> Mapping[str, str]:
    """Return the text of every module of a program, by its name; packages above it are empty."""
    found = dict.fromkeys(("mlgym_sandbox", "mlgym_sandbox.inside"), "")
    for path in sorted(Path(__file__).with_name(program).glob("*.py")):
        name = ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path.read_text(encoding="utf-8")
    return found


def _start(program: str) -> str:
    return f"mlgym_sandbox.inside.{program}.main"


@cache
def source(program: str = RUNNER) -> str:
    """Return a program as text that any Python from 3.9 on can run, short enough to be one argument."""
    packed = base64.b64encode(zlib.compress(marshal.dumps(dict(modules(program)), 2), 9)).decode()
    lines = (
        LOADER.read_text(encoding="utf-8"),
        "import binascii, marshal, zlib",
        f"start(marshal.loads(zlib.decompress(binascii.a2b_base64({packed!r}))), {_start(program)!r})",
    )
    return "\n".join(lines)


def bytecode(first: str | None = None) -> Path:
    """Return a file with the runner as bytecode of this Python: compiling text at every start takes as long again.

    Args:
        first: text of a module to import before the runner's own.
    """
    texts = dict(modules())
    start: tuple[str, ...] = (_start(RUNNER),)
    if first is not None:
        texts["mlgym_sandbox.inside.first"] = first
        start = ("mlgym_sandbox.inside.first", _start(RUNNER))
    loader = LOADER.read_text(encoding="utf-8")
    key = sha256("\0".join((sys.version, loader, *texts, *texts.values())).encode()).hexdigest()[:16]
    ready = home("run", "templates") / f"runner-{key}.pyc"
    if not ready.exists():
        parts = {
            name: marshal.dumps(compile(text, f"<{name}>", "exec", dont_inherit=True, optimize=2)) if text else b""
            for name, text in texts.items()
        }
        text = f"{loader}\nstart({parts!r}, *{start!r})\n"
        program = compile(text, "<runner>", "exec", dont_inherit=True, optimize=2)
        unchecked = (1).to_bytes(4, "little") + bytes(8)
        making = ready.with_name(f".{ready.name}.{secrets.token_hex(4)}")
        making.write_bytes(importlib.util.MAGIC_NUMBER + unchecked + marshal.dumps(program))
        making.chmod(0o644)
        try:
            # Never in place of one that another start has made: a file that was unlinked cannot be mounted any more.
            ready.hardlink_to(making)
        except FileExistsError:
            pass
        making.unlink()
    return ready
