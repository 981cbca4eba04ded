"""What a task's generator is given, and the process in which it runs. Standard library only.

A generator is a function ``build(ctx: BuildContext) -> None`` in the task's ``generator.py``: it fills the
public folder (what agents see as ``/data``) and the private one (the vault: labels, answers). It runs by the
light environment's Python, in a process of its own, under limits; it learns the task's secret world only
through seeds.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mlgym_mcp.catalog.confined import end_with_server, limit, load_function

ADDRESS_SPACE: Final = 16 << 30
FILE_SIZE: Final = 8 << 30
OPEN_FILES: Final = 256


@dataclass(frozen=True)
class BuildContext:
    """One building of a preset's data.

    Attributes:
        task: the task's id.
        preset: ``mini`` or ``full``.
        params: the preset's parameters from ``task.toml``.
        public: the folder that becomes ``/data``, empty at first.
        private: the folder that becomes the vault, empty at first.
        secret: the task's secret world; use :meth:`rng` and :meth:`seed`.
        sources: the checked payloads of ``data.lock.toml``, by name; use :meth:`source`.
    """

    task: str
    preset: str
    params: dict[str, Any]
    public: Path
    private: Path
    secret: bytes = field(repr=False)
    sources: Mapping[str, Path] = field(default_factory=dict)
    report: Callable[[float, str], None] = lambda _fraction, _text: None

    def seed(self, name: str) -> int:
        """A 64-bit seed from the secret world, the preset and ``name``: always the same, and unknown to agents."""
        words = json.dumps(["build", self.task, self.preset, name]).encode()
        return int.from_bytes(hmac.digest(self.secret, words, hashlib.sha256)[:8], "little")

    def rng(self, name: str) -> random.Random:
        """A generator seeded by :meth:`seed`."""
        return random.Random(self.seed(name))

    def source(self, name: str) -> Path:
        """The file of a source of ``data.lock.toml``, decompressed and with the right checksum.

        Raises:
            KeyError: the lock file has no such source.
        """
        try:
            return self.sources[name]
        except KeyError:
            there = ", ".join(sorted(self.sources)) or "none"
            raise KeyError(f"data.lock.toml has no source {name!r}; there are: {there}") from None

    def progress(self, fraction: float, text: str = "") -> None:
        """Tell how far the building is, from 0 to 1."""
        self.report(min(1.0, max(0.0, float(fraction))), text)


def main(channel: int, alive: int) -> None:
    """Build as the order on ``channel`` says and end; the last line on it says whether that went well."""
    end_with_server(alive)
    with os.fdopen(channel, "r+b", buffering=0) as stream:
        order = json.loads(_line(stream))
        limit(
            {
                resource.RLIMIT_CPU: int(4 * order["timeout_s"]) + 10,
                resource.RLIMIT_AS: ADDRESS_SPACE,
                resource.RLIMIT_FSIZE: FILE_SIZE,
                resource.RLIMIT_NOFILE: OPEN_FILES,
            }
        )

        def say(**words: Any) -> None:
            stream.write(json.dumps(words).encode() + b"\n")

        try:
            build = load_function(Path(order["folder"]), order["entrypoint"])
            build(
                BuildContext(
                    task=order["task"],
                    preset=order["preset"],
                    params=order["params"],
                    public=Path(order["public"]),
                    private=Path(order["private"]),
                    secret=bytes.fromhex(order["secret"]),
                    sources={name: Path(path) for name, path in order["sources"].items()},
                    report=lambda fraction, text: say(fraction=fraction, text=text[:200]),
                )
            )
            last_word: dict[str, Any] = {"done": True}
        except BaseException as error:  # noqa: BLE001 - whatever it was, the server must hear of it
            traceback.print_exc()
            last_word = {"done": False, "error": f"{type(error).__name__}: {error}"[:2000]}
        for out in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                out.flush()
        say(**last_word)
    os.killpg(0, signal.SIGKILL)  # our own session: nothing that the generator started may outlive it


def _line(stream: Any) -> bytes:
    data = bytearray()
    while not data.endswith(b"\n"):
        piece = stream.read(65536)
        if not piece:
            os._exit(3)  # the server is gone
        data += piece
    return bytes(data)
