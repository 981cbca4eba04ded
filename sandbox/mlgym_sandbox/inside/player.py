"""Runs a submission's program for the referee: reads questions on stdin, writes answers to stdout.

Standard library only (numpy in the role ``policy``), Python >= 3.9, one file: the server passes its source on
the command line into a fresh sandbox whose working directory holds the submission.

Frames: ``u32 LE header length | JSON header | payload``. A question is ``{"seq", "op", "args" | "args_size",
"reply_bytes", "size"}``; an answer is ``{"seq", "ok": true, "result": {...}}`` followed by exactly
``reply_bytes`` bytes, or ``{"seq", "ok": false, "code", "error"}`` followed by none.

Operations, after ``hello {"role", "entry", ...facts}`` which imports the entry:

* role ``matches``: ``start {"matches": n}``; ``move {"live": [ids], "news": [[id, mine, theirs]]}`` answers
  ``{"moves": [...]}``: one ``move(history)`` per live match, history a list of ``(mine, theirs)``.
* role ``policy``: ``load {"index"}`` calls ``make_policy(folder, index)``; ``reset {"n"}`` calls
  ``policy.reset(n)``; ``act`` with a payload of n observations and n done bytes calls
  ``policy.act(obs, done)`` and answers n raw actions.
* role ``call``: ``call {"function", "args"}`` answers ``{"value": function(*args)}``.

What this program protects: stray prints cannot corrupt a frame, because the real stdin and stdout are moved
to private descriptors before the submission is loaded. What it does not, and need not, protect: the
submission shares this process, so it may find those descriptors, forge answers or replace this code. All it
can do with that is to choose its own answers, which is what it is asked for anyway: no label, opponent,
clock, random state or score is here; the referee computes every length, checks every value, and believes
nothing else.
"""

from __future__ import annotations

import fcntl
import importlib
import importlib.util
import io
import json
import operator
import os
import struct
import sys
import traceback
from typing import Any

MAX_HEADER = 64 * 1024
ERROR_CHARS = 1500
_read, _write = os.read, os.write

Answer = tuple[dict[str, Any], bytes]


class AnswerError(Exception):
    """The submission's answer cannot be passed on; ``code`` as in the referee's list."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


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


def attribute(owner: Any, name: str, where: str) -> Any:
    """A function of the submission, or AnswerError."""
    found = getattr(owner, name, None)
    if not callable(found):
        raise AnswerError("missing", "%s has no function %s()" % (where, name))
    return found


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


class Matches:
    """Role ``matches``: keeps one history per match and asks for one move in each live one."""

    def __init__(self, module: Any, facts: dict[str, Any]) -> None:
        self.move_of = attribute(module, "move", facts["entry"])
        self.histories: list[list[tuple[Any, Any]]] = []

    def start(self, args: dict[str, Any], _payload: bytes, _size: int) -> Answer:
        """Fresh histories."""
        self.histories = [[] for _ in range(args["matches"])]
        return {}, b""

    def move(self, args: dict[str, Any], _payload: bytes, _size: int) -> Answer:
        """Note what was played, then ask for a move in each live match."""
        for match, mine, theirs in args["news"]:
            self.histories[match].append((mine, theirs))
        return {"moves": [whole(self.move_of(list(self.histories[match]))) for match in args["live"]]}, b""


def whole(move: Any) -> Any:
    """An integer, or a list of integers; numpy's count as such."""
    try:
        return operator.index(move)
    except TypeError:
        pass
    try:
        return [operator.index(value) for value in move]
    except TypeError:
        text = "move() returned %.60r, expected an integer or a list of integers" % (move,)
        raise AnswerError("range", text) from None


class Policy:
    """Role ``policy``: raw arrays in, raw arrays out."""

    def __init__(self, module: Any, facts: dict[str, Any]) -> None:
        np: Any = importlib.import_module("numpy")
        self.np = np
        self.make = attribute(module, "make_policy", facts["entry"])
        self.policy: Any = None
        self.obs = np.dtype("<" + facts["obs"]["dtype"]), tuple(facts["obs"].get("shape", ()))
        self.action = np.dtype("<" + facts["act"]["dtype"]), tuple(facts["act"].get("shape", ()))
        self.slots = facts["n"]

    def load(self, args: dict[str, Any], _payload: bytes, _size: int) -> Answer:
        """A policy: one of several checkpoints, by index."""
        self.policy = self.make(os.getcwd(), args["index"])
        return {}, b""

    def reset(self, args: dict[str, Any], _payload: bytes, _size: int) -> Answer:
        """New episodes in all slots; a policy without memory needs no ``reset``."""
        self.slots = args["n"]
        if callable(getattr(self.policy, "reset", None)):
            self.policy.reset(self.slots)
        return {}, b""

    def act(self, _args: dict[str, Any], payload: bytes, size: int) -> Answer:
        """One action per slot."""
        np, (dtype, shape) = self.np, self.obs
        split = len(payload) - self.slots
        obs = np.frombuffer(payload[:split], dtype=dtype).reshape((self.slots, *shape))
        done = np.frombuffer(payload[split:], dtype=np.uint8).astype(bool)
        actions = np.asarray(attribute(self.policy, "act", "the policy")(obs, done))
        dtype, shape = self.action
        if actions.shape != (self.slots, *shape):
            text = "act() returned shape %s, expected %s" % (actions.shape, (self.slots, *shape))
            raise AnswerError("format", text)
        if actions.dtype.kind not in "buif":
            raise AnswerError("format", "act() returned dtype %s, expected numbers" % (actions.dtype,))
        with np.errstate(all="ignore"):
            raw = np.ascontiguousarray(actions.astype(dtype))
        if dtype.kind in "iu" and not np.array_equal(raw, actions):
            raise AnswerError("range", "act() returned values that %s cannot hold" % (dtype.name,))
        data = raw.tobytes()
        if len(data) != size:
            raise AnswerError("protocol", "act() gave %d bytes, expected %d" % (len(data), size))
        return {}, data


class Call:
    """Role ``call``: any function of the submission, JSON in and out."""

    def __init__(self, module: Any, facts: dict[str, Any]) -> None:
        self.module = module
        self.entry = facts["entry"]

    def call(self, args: dict[str, Any], _payload: bytes, _size: int) -> Answer:
        """One call."""
        function = attribute(self.module, args["function"], self.entry)
        return {"value": function(*args["args"])}, b""


ROLES = {"matches": Matches, "policy": Policy, "call": Call}


class Program:
    """The submission behind its role."""

    def __init__(self) -> None:
        self.role: Any = None

    def answer(self, header: dict[str, Any], args: dict[str, Any], payload: bytes) -> bytes:
        """Bytes of the answer to one question; whatever the submission raises becomes an answer too."""
        seq = header["seq"]
        try:
            if header["op"] == "hello":
                self.role = ROLES[args["role"]](load_entry(args["entry"]), args)
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
