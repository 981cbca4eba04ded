"""Shell commands that begin where the last one ended: its directory and exported variables."""

from __future__ import annotations

import fcntl
import os

from mlgym_sandbox.inside.runner.refusals import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

STATE_BYTES = 256 * 1024
"""Largest shell state that is carried to the next job."""
SAVE_STATE = r"""trap '{ export -p; printf "cd -- %q\n:\n" "$PWD"; } >&OUT 2>/dev/null' EXIT"""
LOAD_STATE = (
    'IFS= read -r -d "" -u IN __m; __j=$MLGYM_JOB; eval "$__m" 2>/dev/null; '
    'export MLGYM_JOB=$__j; [ "$PWD" -ef . ] || cd -P . 2>/dev/null; unset __m __j; exec IN<&-'
)
STATE_END = b"\n:\n"
NEEDS_NO_QUOTES = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_")


class Shell:
    """The shell, and where it was left."""

    def __init__(self) -> None:
        self.path = next((path for path in ("/bin/bash", "/usr/bin/bash") if os.path.exists(path)), "/bin/sh")
        self.state = b""

    def resume(self, command: str, env: Mapping[str, str], cwd: str | None, files: list[int]) -> list[str]:
        """The command, begun where the last one ended and telling at its end where it is.

        Opens the files for that and adds them to ``files``, the one to be written first.
        """
        files.append(state_file(b""))
        steps = ["__c=$1", "shift"]
        if self.state:
            files.append(state_file(self.state))
            steps += ["__d=$PWD", LOAD_STATE.replace("IN", str(files[1]))]
            if cwd is not None:
                steps.append('cd -- "$__d"')
            steps += ["export %s=%s" % (name, quoted(value)) for name, value in env.items()]
            steps.append("unset __d")
        steps += [SAVE_STATE.replace("OUT", str(files[0])), 'eval "$__c"']
        return [self.path, "-c", "; ".join(steps), "bash", command]

    def keep(self, fd: int) -> None:
        """Remember where a command has ended."""
        text, size = b"", 4096
        while not text.endswith(b"\0") and len(text) < STATE_BYTES:
            text += os.pread(fd, size, len(text))  # what was never written reads as zeros, but slowly
            size = STATE_BYTES - len(text)
        text = text.rstrip(b"\0")
        if text.endswith(STATE_END):  # else the shell was killed, replaced by exec, or had another trap
            self.state = text

    def move(self, state: bytes) -> None:
        """Take up a state that was kept before; an empty one is a new shell's."""
        if len(state) > STATE_BYTES or (state and not state.endswith(STATE_END)):
            raise Refusal("misuse", "that is no state of a shell")
        self.state = state


def state_file(content: bytes) -> int:
    """An unnamed file of fixed size, sealed: a job cannot fill memory through it."""
    fd = os.memfd_create("state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, STATE_BYTES)
    os.pwrite(fd, content, 0)
    fcntl.fcntl(fd, 1033, 0x1 | 0x2 | 0x4)  # F_ADD_SEALS: SEAL, SHRINK, GROW
    return fd


def quoted(text: str) -> str:
    """Text as one word of a shell command."""
    if text and NEEDS_NO_QUOTES.issuperset(text):
        return text
    return "'" + text.replace("'", "'\"'\"'") + "'"
