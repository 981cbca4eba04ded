"""The referee: the process in which a task's grader runs. Standard library only; see ``grader_process``.

The one way in and out is an inherited socket with frames: nothing that the grader, or anything it reads, prints
can be taken for a result. The server sends one ``grade`` frame; the referee may ask for players and tell its
progress; it ends with one frame: ``score``, ``invalid`` or ``error``.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from mlgym_mcp.catalog.confined import end_with_server, limit, load_function
from mlgym_mcp.grading.api import GradeContext, Score
from mlgym_mcp.grading.errors import GraderError, InvalidSubmission
from mlgym_mcp.grading.players import Ending, Player
from mlgym_mcp.grading.wire import PREFIX, decode_header, encode, header_length, payload_size

ADDRESS_SPACE: Final = 32 << 30
FILE_SIZE: Final = 1 << 30
OPEN_FILES: Final = 256
PROCESSES: Final = 16384
"""A bound on a fork bomb only: the kernel counts all processes of the user, whoever started them."""
_MESSAGE_CHARS: Final = 4000


class Control:
    """The referee's end of the control channel; blocking, one question at a time."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._descriptors: list[int] = []

    def send(self, header: Mapping[str, Any], payload: bytes = b"") -> None:
        """Send one frame."""
        self.send_encoded(encode(header, payload))

    def send_encoded(self, frame: bytes) -> None:
        """Send a frame that was encoded before."""
        self._channel.sendall(frame)

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """The next frame; ends the process when the server is gone."""
        header = decode_header(self._exactly(header_length(self._exactly(PREFIX.size))))
        return header, self._exactly(payload_size(header))

    def ask(self, header: Mapping[str, Any]) -> dict[str, Any]:
        """Send one frame and wait for its answer.

        Raises:
            GraderError: the server could not do it.
        """
        self.send(header)
        answer, _ = self.receive()
        if answer.get("ok") is not True:
            raise GraderError(str(answer.get("message")), kind="infrastructure")
        return answer

    def take_descriptor(self) -> int:
        """The file descriptor that came with the last answer."""
        return self._descriptors.pop()

    def _exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            data, descriptors, _, _ = socket.recv_fds(self._channel, size - len(parts), 1, socket.MSG_CMSG_CLOEXEC)
            self._descriptors += descriptors
            if not data:
                os._exit(3)  # the server is gone: nobody wants a score
            parts += data
        return bytes(parts)


class Players:
    """Gets players from the server, under the task's limits."""

    def __init__(self, control: Control, limits: Mapping[str, Any], deadline: float) -> None:
        self._control = control
        self._limits = limits
        self._deadline = deadline

    def __call__(self, entry: str, role: str, facts: Mapping[str, Any]) -> Player:
        """A player that has loaded ``entry`` and said hello."""
        number = self._control.ask({"op": "open"})["player"]
        player = Player(
            socket.socket(fileno=self._control.take_descriptor()),
            entry=entry,
            call_timeout_s=self._limits["call_timeout_s"],
            total_timeout_s=self._limits["total_timeout_s"],
            deadline=self._deadline,
            ending=lambda: self._ending(number),
            close=lambda: self._close(number),
        )
        try:
            player.hello(role, facts, timeout_s=self._limits["load_timeout_s"])
        except BaseException:
            player.close()
            raise
        return player

    def _ending(self, number: int) -> Ending:
        answer = self._control.ask({"op": "ending", "player": number})
        return Ending(exit_code=answer["exit_code"], reason=answer["reason"], oom=answer["oom"])

    def _close(self, number: int) -> None:
        self._control.ask({"op": "close", "player": number})


def main(control_fd: int, alive_fd: int) -> None:
    """Do one grading and end, this process and all it started."""
    end_with_server(alive_fd)
    control = Control(socket.socket(fileno=control_fd))
    _, payload = control.receive()
    facts = json.loads(payload)
    limit(
        {
            resource.RLIMIT_CPU: int(4 * facts["timeout_s"]) + 10,
            resource.RLIMIT_AS: ADDRESS_SPACE,
            resource.RLIMIT_FSIZE: FILE_SIZE,
            resource.RLIMIT_NOFILE: OPEN_FILES,
            resource.RLIMIT_NPROC: PROCESSES,
        }
    )
    try:
        header, result = _verdict(control, facts)
        last_word = encode(header, result)
    except BaseException as error:  # noqa: BLE001 - whatever it was, the server must hear of it
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"[:_MESSAGE_CHARS]
        kind: Literal["grader", "infrastructure"] = error.kind if isinstance(error, GraderError) else "grader"
        last_word = encode({"op": "error", "kind": kind, "message": message})
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    control.send_encoded(last_word)
    os.killpg(0, signal.SIGKILL)  # our own session: nothing that the grader started may outlive it


def _verdict(control: Control, facts: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    deadline: float = facts["deadline"]  # of the monotonic clock, which all processes of a machine share
    context = GradeContext(
        task=facts["task"],
        preset=facts["preset"],
        params=facts["params"],
        split=facts["split"],
        submission=Path(facts["submission"]),
        public_folder=Path(facts["public"]),
        private_folder=Path(facts["private"]),
        secret=bytes.fromhex(facts["secret"]),
        deadline=deadline,
        report=lambda fraction, text: control.send({"op": "progress", "fraction": fraction, "text": text[:200]}),
        **({} if facts["player"] is None else {"open_player": Players(control, facts["player"], deadline)}),
    )
    try:
        score = load_function(Path(facts["folder"]), facts["entrypoint"])(context)
    except InvalidSubmission as verdict:
        words = {"code": verdict.code, "sentence": verdict.sentence, "detail": verdict.detail}
        return {"op": "invalid"}, json.dumps(words).encode()
    if not isinstance(score, Score):
        raise GraderError(f"{facts['entrypoint']} returned {type(score).__name__}, expected a Score")
    return {"op": "score"}, json.dumps(score.as_json(), allow_nan=False).encode()
