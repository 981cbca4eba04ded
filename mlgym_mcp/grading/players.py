"""The referee's end of a player: asks the agent's program, believes nothing. Standard library only.

Rules: every reply must echo the request's number, be strict JSON in a header of at most 64 KiB, and be
followed by exactly the bytes that the referee computed beforehand; every wait has a deadline of its own and
shares a total; any breach makes the submission invalid with a typed code.
"""

from __future__ import annotations

import contextlib
import json
import math
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from mlgym_mcp.grading.errors import InvalidSubmission
from mlgym_mcp.grading.wire import MAX_HEADER, PREFIX, WireError, decode_header, encode, header_length

PROTOCOL: Final = 1
ROLES: Final = ("arrays", "branching", "call", "matches", "policy")
BATCH: Final = 1000
"""Matches per request of :meth:`Player.moves`, so that an honest reply fits a header."""
MAX_REPLY: Final = 1024 * 1024 * 1024
_INLINE_ARGS: Final = MAX_HEADER - 4096
_FORMATS: Final[dict[str, Any]] = {
    "u1": "B",
    "i1": "b",
    "u2": "H",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "f4": "f",
    "f8": "d",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a player's program ended, as the server saw it; ``exit_code`` is ``None`` while it runs."""

    exit_code: int | None = None
    reason: str | None = None
    oom: bool = False


class Player:
    """The agent's program in a sandbox of its own, asked over a byte stream. A context manager.

    Made by :meth:`GradeContext.player`. Use :meth:`call` for anything, or what fits the role: :meth:`start`
    and :meth:`moves` for ``matches``, :meth:`load`, :meth:`reset` and :meth:`act` for ``policy``,
    :meth:`function` for ``call``. All raise :class:`InvalidSubmission`, never anything that blames the
    referee for what the player did.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        entry: str,
        call_timeout_s: float,
        total_timeout_s: float,
        deadline: float,
        ending: Callable[[], Ending] = Ending,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._socket = connection
        self._entry = entry
        self._call_timeout_s = call_timeout_s
        self._left_s = total_timeout_s
        self._total_timeout_s = total_timeout_s
        self._deadline = deadline
        self._ending = ending
        self._close = close
        self._seq = 0
        self._closed = False
        self._role = ""
        self._act_format: tuple[Any, int] = ("B", 1)
        self._act_below: float | None = None
        self._slots = 0

    # -- life ------------------------------------------------------------------------------------------------

    def hello(self, role: str, facts: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Say what is wanted; the player loads the agent's program and answers. Done by ``ctx.player``."""
        if role not in ROLES:
            raise ValueError(f"role must be one of {', '.join(ROLES)}, got {role!r}")
        self._role = role
        if role == "policy":
            self._slots, self._act_format, self._act_below = _policy_shape(facts)
        args = {"proto": PROTOCOL, "role": role, "entry": self._entry, **facts}
        return self.call("hello", args, timeout_s=timeout_s)[0]

    def close(self) -> None:
        """End the player and give its sandbox back. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._socket.close()
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- asking ----------------------------------------------------------------------------------------------

    def call(
        self,
        op: str,
        args: Mapping[str, Any] | None = None,
        payload: bytes = b"",
        reply_bytes: int = 0,
        timeout_s: float | None = None,
    ) -> tuple[dict[str, Any], bytes]:
        """Ask one question and wait for its answer.

        Args:
            op: what is asked; see ``inside/player/`` for the roles' operations.
            args: JSON arguments, of any size.
            payload: raw bytes for the player.
            reply_bytes: how many raw bytes a good reply must carry: exactly so many are read.
            timeout_s: longest wait in seconds; default: the task's limit per call.

        Returns:
            The reply's ``result`` object and its payload. Its content is the agent's word: check it.

        Raises:
            InvalidSubmission: ``timeout``, ``protocol`` or ``crash``; or what the player itself admitted.
        """
        if not 0 <= reply_bytes <= MAX_REPLY:
            raise ValueError(f"reply_bytes must be between 0 and {MAX_REPLY}, got {reply_bytes}")
        self._seq += 1
        now = time.monotonic()
        limit_s = self._call_timeout_s if timeout_s is None else timeout_s
        until = min(now + min(limit_s, self._left_s), self._deadline)
        try:
            self._refuse_early_words(op)
            self._send(self._request(op, args or {}, payload, reply_bytes), until)
            reply = decode_header(self._receive(header_length(self._receive(PREFIX.size, until)), until))
            result = self._judge(op, reply)
            return result, self._receive(reply_bytes, until)
        except WireError as error:
            raise InvalidSubmission(
                "protocol", f"{self._entry} broke the player's protocol when asked to {op!r}", str(error)
            ) from None
        except TimeoutError:
            raise self._too_late(op, limit_s, time.monotonic()) from None
        except (EOFError, ConnectionError):
            raise self._gone(op) from None
        finally:
            self._left_s -= time.monotonic() - now

    def _request(self, op: str, args: Mapping[str, Any], payload: bytes, reply_bytes: int) -> bytes:
        raw = json.dumps(args, separators=(",", ":"), allow_nan=False).encode()
        header: dict[str, Any] = {"seq": self._seq, "op": op, "reply_bytes": reply_bytes}
        if len(raw) <= _INLINE_ARGS:
            return encode({**header, "args": args}, payload)
        return encode({**header, "args_size": len(raw)}, raw + payload)

    def _judge(self, op: str, reply: dict[str, Any]) -> dict[str, Any]:
        if type(reply.get("seq")) is not int or reply["seq"] != self._seq:
            raise WireError(f"reply number {str(reply.get('seq'))[:40]!r} instead of {self._seq}")
        if reply.get("ok") is True:
            result = reply.get("result", {})
            if not isinstance(result, dict):
                raise WireError("the reply's result is not a JSON object")
            return result
        if reply.get("ok") is not False:
            raise WireError("the reply says neither ok true nor ok false")
        code = reply.get("code")
        error = reply.get("error")
        text = error if isinstance(error, str) else "no reason given"
        if code not in ("missing", "format", "range", "protocol"):
            code = "crash"
        sentence = _ADMITTED[code].format(entry=self._entry, op=op)
        raise InvalidSubmission(code, sentence, text)

    def _too_late(self, op: str, limit_s: float, now: float) -> InvalidSubmission:
        if now >= self._deadline:
            return InvalidSubmission("timeout", f"{self._entry} was still at work when the grading's time was over")
        if limit_s >= self._left_s:
            total = f"{self._total_timeout_s:g} seconds"
            return InvalidSubmission("timeout", f"{self._entry} used up the {total} allowed for all its answers")
        return InvalidSubmission(
            "timeout", f"{self._entry} did not answer {op!r} within the {limit_s:g} seconds allowed per call"
        )

    def _gone(self, op: str) -> InvalidSubmission:
        ending = self._ending()
        sentence = f"{self._entry} ended when asked to {op!r}, an answer was expected"
        if ending.oom:
            return InvalidSubmission("crash", f"{self._entry} ran out of memory when asked to {op!r}")
        if ending.reason == "timeout":
            return InvalidSubmission("timeout", f"{self._entry} ran longer than the time allowed in all")
        detail = "its output was closed" if ending.exit_code is None else f"exit code {ending.exit_code}"
        if ending.reason:
            detail += f", killed: {ending.reason}"
        return InvalidSubmission("crash", sentence, detail)

    # -- bytes -----------------------------------------------------------------------------------------------

    def _refuse_early_words(self, op: str) -> None:
        readable, _, _ = select.select([self._socket], [], [], 0)
        if readable and self._socket.recv(1, socket.MSG_PEEK):
            raise WireError(f"an answer to {op!r} came before the question")

    def _send(self, data: bytes, until: float) -> None:
        self._socket.settimeout(_left(until))
        self._socket.sendall(data)

    def _receive(self, size: int, until: float) -> bytes:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            self._socket.settimeout(_left(until))
            count = self._socket.recv_into(view)
            if not count:
                raise EOFError
            view = view[count:]
        return bytes(buffer)

    # -- role "matches" --------------------------------------------------------------------------------------

    def start(self, matches: int) -> None:
        """Begin ``matches`` fresh matches, numbered from 0, with empty histories; forget earlier ones."""
        self.call("start", {"matches": matches})

    def moves(
        self,
        live: Sequence[int],
        news: Iterable[tuple[int, Any, Any]] = (),
        *,
        low: int,
        high: int,
        length: int | None = None,
    ) -> list[Any]:
        """Ask for one move in each live match: ``move(history)``, with history a list of ``(mine, theirs)``.

        Args:
            live: the matches in which a move is wanted, all played in lockstep.
            news: ``(match, mine, theirs)`` rounds played since the last question: appended to the histories
                that the player keeps. What was really played is the referee's word, not the player's.
            low: the smallest integer allowed.
            high: the largest integer allowed.
            length: ``None`` for one integer per move, else for a list of exactly so many.

        Returns:
            The moves in the order of ``live``: ints, or lists of ints; checked.
        """
        by_match: dict[int, list[tuple[int, Any, Any]]] = {}
        for item in news:
            by_match.setdefault(item[0], []).append(item)
        answers: list[Any] = []
        for start in range(0, len(live), BATCH):
            batch = list(live[start : start + BATCH])
            told = batch if start + BATCH < len(live) else list(by_match)
            known = [item for match in told for item in by_match.pop(match, ())]
            result, _ = self.call("move", {"live": batch, "news": known})
            moves = result.get("moves")
            if not isinstance(moves, list) or len(moves) != len(batch):
                raise InvalidSubmission("protocol", f"{self._entry}: {len(batch)} moves were expected in one reply")
            for move in moves:
                self._check_move(move, low, high, length)
            answers += moves
        return answers

    def _check_move(self, move: object, low: int, high: int, length: int | None) -> None:
        wanted = "an integer" if length is None else f"a list of {length} integers"
        values = [move] if length is None else move
        if not isinstance(values, list) or (length is not None and len(values) != length):
            raise InvalidSubmission(
                "range", f"{self._entry}: move() must return {wanted}", f"it returned {_short(move)}"
            )
        for value in values:
            if type(value) is not int or not low <= value <= high:
                raise InvalidSubmission(
                    "range",
                    f"{self._entry}: move() must return {wanted} between {low} and {high}",
                    f"it returned {_short(value)}",
                )

    # -- role "policy" ---------------------------------------------------------------------------------------

    def load(self, index: int = 0) -> None:
        """Load a policy: ``make_policy(folder, index)``; replaces the one before."""
        self.call("load", {"index": index})

    def reset(self, slots: int | None = None) -> None:
        """Begin episodes in so many slots (default: the hello's ``n``): the policy's ``reset(n)``."""
        self._slots = self._slots if slots is None else slots
        self.call("reset", {"n": self._slots})

    def act(self, obs: bytes, done: bytes | None = None) -> bytes:
        """Ask for one action per slot: the policy's ``act(obs, done)``.

        Args:
            obs: C-ordered array of the hello's ``obs`` dtype and shape, one per slot.
            done: one byte per slot, 1 where a new episode has begun; default: all 0.

        Returns:
            Raw actions: exactly one of the hello's ``act`` per slot, finite, and in ``[0, lt)`` where given.
        """
        code, items = self._act_format
        size = self._slots * items * _itemsize(code)
        mask = bytes(self._slots) if done is None else done
        _, reply = self.call("act", {}, payload=obs + mask, reply_bytes=size)
        values = memoryview(reply).cast(code)
        if code in "fd" and not all(map(math.isfinite, values)):
            raise InvalidSubmission("range", f"{self._entry}: act() returned a number that is not finite")
        if self._act_below is not None and not (min(values) >= 0 and max(values) < self._act_below):
            raise InvalidSubmission(
                "range",
                f"{self._entry}: act() must return numbers from 0 to below {self._act_below:g}",
                f"it returned values from {min(values)} to {max(values)}",
            )
        return reply

    # -- role "arrays" ---------------------------------------------------------------------------------------

    def arrays(
        self,
        function: str,
        inputs: Sequence[tuple[str, Sequence[int], bytes]],
        out: tuple[str, Sequence[int]],
        *,
        timeout_s: float | None = None,
    ) -> bytes:
        """Call a method with arrays; its answer as raw bytes of exactly the dtype and shape of ``out``.

        Args:
            function: the method of what the hello's ``make`` returned.
            inputs: dtype (such as ``u1``, ``f4``), shape, and C-ordered little-endian bytes of each argument.
            out: dtype and shape of the answer.
            timeout_s: longest wait in seconds; default: the task's limit per call.

        Returns:
            C-ordered little-endian bytes. Their values are the agent's word: check that they are finite.
        """
        code, shape = out
        size = math.prod(shape) * (2 if code == "f2" else _itemsize(_FORMATS[code]))
        args = {
            "function": function,
            "inputs": [[dtype, list(size)] for dtype, size, _ in inputs],
            "out": [code, list(shape)],
        }
        payload = b"".join(data for _, _, data in inputs)
        return self.call("arrays", args, payload, reply_bytes=size, timeout_s=timeout_s)[1]

    # -- role "call" -----------------------------------------------------------------------------------------

    def function(self, name: str, *args: Any, timeout_s: float | None = None) -> Any:
        """Call a function of the agent's program with JSON arguments; its JSON result, unchecked."""
        result, _ = self.call("call", {"function": name, "args": list(args)}, timeout_s=timeout_s)
        return result.get("value")


_ADMITTED: Final = {
    "missing": "{entry} lacks what {op!r} needs",
    "format": "{entry} gave an answer to {op!r} of the wrong kind",
    "range": "{entry} gave an answer to {op!r} that is out of range",
    "protocol": "{entry} could not answer {op!r} in the player's protocol",
    "crash": "{entry} raised an exception when asked to {op!r}",
}


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _short(value: object) -> str:
    with contextlib.suppress(ValueError, RecursionError):
        return repr(value)[:60]
    return "something that cannot be shown"


def _itemsize(code: str) -> int:
    return struct.calcsize(f"={code}")


def _policy_shape(facts: Mapping[str, Any]) -> tuple[int, tuple[Any, int], float | None]:
    act = facts["act"]
    if act["dtype"] not in _FORMATS:
        raise ValueError(f"act dtype must be one of {', '.join(_FORMATS)}, got {act['dtype']!r}")
    return int(facts["n"]), (_FORMATS[act["dtype"]], math.prod(act.get("shape", ()))), act.get("lt")
