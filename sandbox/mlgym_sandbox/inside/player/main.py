"""The player's program: frames in and out, the entry's import, and whatever the submission raises."""

from __future__ import annotations

import fcntl
import importlib
import importlib.util
import io
import json
import os
import struct
import sys
import traceback
from typing import Any

from mlgym_sandbox.inside.player.answers import AnswerError

MAX_HEADER = 64 * 1024
ERROR_CHARS = 1500
ROLES = {
    "arrays": "Arrays",
    "branching": "Branching",
    "call": "Call",
    "matches": "Matches",
    "policy": "Policy",
}
"""The class of each role; its module is named like the role, but for ``call``."""
_read, _write = os.read, os.write


def receive(fd: int, size: int) -> bytes:
    """Exactly ``size`` bytes, or EOFError."""
    parts = []
    while size:
        part = _read(fd, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def send(fd: int, data: bytes) -> None:
    """All of ``data``."""
    view = memoryview(data)
    while view:
        view = view[_write(fd, view) :]


def read_question(fd: int) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """The next question: its header, arguments and payload."""
    (length,) = struct.unpack("<I", receive(fd, 4))
    header = json.loads(receive(fd, length))
    payload = receive(fd, header["size"])
    split = header.get("args_size", 0)
    args = json.loads(payload[:split]) if split else header["args"]
    return header, args, payload[split:]


def frame(header: dict[str, Any], payload: bytes = b"") -> bytes:
    """Bytes of one answer."""
    raw = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    if len(raw) > MAX_HEADER:
        text = "the answer has %d bytes as JSON, at most %d are allowed" % (len(raw), MAX_HEADER)
        raise AnswerError("protocol", text)
    return struct.pack("<I", len(raw)) + raw + payload


def load_entry(entry: str) -> Any:
    """Import the submission's file under its own name, its folder first on the path."""
    root = os.getcwd()
    path = os.path.join(root, entry)
    for folder in (root, os.path.dirname(path)):
        if folder in sys.path:
            sys.path.remove(folder)
        sys.path.insert(0, folder)
    name = os.path.splitext(os.path.basename(entry))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise AnswerError("missing", "%s is not a Python file" % entry)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def role(name: str) -> Any:
    """The class of a role."""
    module = "calling" if name == "call" else name
    return getattr(importlib.import_module("mlgym_sandbox.inside.player." + module), ROLES[name])


class Program:
    """The submission behind its role."""

    def __init__(self) -> None:
        self.role: Any = None

    def answer(self, header: dict[str, Any], args: dict[str, Any], payload: bytes) -> bytes:
        """Bytes of the answer to one question; whatever the submission raises becomes an answer too."""
        seq = header["seq"]
        try:
            if header["op"] == "hello":
                self.role = role(args["role"])(load_entry(args["entry"]), args)
                result, data = {}, b""
            else:
                result, data = getattr(self.role, header["op"])(args, payload, header["reply_bytes"])
            return frame({"seq": seq, "ok": True, "result": result}, data)
        except AnswerError as error:
            return self.failure(seq, error.code, str(error))
        except BaseException as error:  # SystemExit and KeyboardInterrupt of the submission included
            traceback.print_exc()
            text = traceback.format_exception_only(type(error), error)[-1].strip()
            return self.failure(seq, "crash", "%s (%s)" % (text[:ERROR_CHARS], last_place(error)))

    @staticmethod
    def failure(seq: int, code: str, text: str) -> bytes:
        """Bytes of an answer that admits a failure."""
        text = text.encode("utf-8", "replace").decode("utf-8")[:ERROR_CHARS]
        return frame({"seq": seq, "ok": False, "code": code, "error": text})


def last_place(error: BaseException) -> str:
    """Where an exception came from: file and line."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "unknown place"
    return "%s, line %s" % (os.path.basename(frames[-1].filename), frames[-1].lineno)


def main() -> None:
    """Answer questions until stdin ends."""
    questions = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 10)
    answers = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 10)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what was printed must be there when we are killed
    program = Program()
    while True:
        try:
            question = read_question(questions)
        except EOFError:
            break
        send(answers, program.answer(*question))
    os._exit(0)  # threads and exit handlers of the submission are of no interest


if __name__ == "__main__":
    main()
