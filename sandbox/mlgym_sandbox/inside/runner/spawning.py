"""Starting a command as the agent: nothing inherited but what it is given, in a session of its own."""

from __future__ import annotations

import errno
import fcntl
import os
import sys

from mlgym_sandbox.inside.runner.refusals import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mlgym_sandbox.inside.runner.identity import Identity
    from mlgym_sandbox.inside.runner.processes import Processes

ARGUMENT_LIMIT = 120 * 1024
"""Linux takes at most 128 KiB in one argument."""
F_SETPIPE_SZ = 1031


class Spawner:
    """Starts commands.

    What ``subprocess`` would do, by the same function of the interpreter but without importing it: the smaller
    the runner, the quicker its forks. Interpreters whose function we do not know get the whole of ``subprocess``.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes, self.identity = processes, processes.identity
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def spawn(
        self,
        argv: list[str],
        env: dict[str, str],
        folder: str,
        stdin: int | None,
        stdout: int,
        stderr: int,
        keep: list[int],
    ) -> int:
        """Start a program in a folder and return its pid; ``keep`` are the other descriptors it gets.

        Raises:
            Refusal: the folder cannot be entered, the program not started.
        """
        descriptors = (self.null if stdin is None else stdin, stdout, stderr)
        enter(folder, self.identity)
        try:
            try:
                return self.fork_exec(argv, env, descriptors, keep)
            except BlockingIOError:
                self.processes.reap()
                return self.fork_exec(argv, env, descriptors, keep)
        except OSError as error:
            raise start_refusal(error, argv[0]) from None
        finally:
            os.chdir("/")

    def fork_exec(
        self, argv: list[str], env: dict[str, str], descriptors: tuple[int, int, int], keep: list[int]
    ) -> int:
        if not (3, 9) <= sys.version_info[:2] <= (3, 14) or sys.implementation.name != "cpython":
            return self.popen(argv, env, descriptors, keep)
        import _posixsubprocess

        program = os.fsencode(argv[0])
        candidates: tuple[bytes, ...] = (program,)
        if b"/" not in program:
            path = os.fsencode(env.get("PATH", os.defpath))
            candidates = tuple(os.path.join(place, program) for place in path.split(b":"))
        groups: tuple[Any, ...] = (None, None, None)  # gid, supplementary groups, uid
        if self.identity.uid is not None:
            groups = (self.identity.gid, [], self.identity.uid)
        said, say = os.pipe()
        arguments: list[Any] = [
            [os.fsencode(word) for word in argv],
            candidates,
            True,  # close all descriptors but
            tuple(sorted([*keep, say])),
            None,  # in the current folder
            [os.fsencode("%s=%s" % pair) for pair in env.items()],
            *(descriptors[0], -1, -1, descriptors[1], -1, descriptors[2], said, say),
            True,  # restore signals
            True,  # new session
        ]
        if sys.version_info >= (3, 11):
            arguments.append(-1)  # its own process group already
        arguments += [*groups, -1, None]  # umask as it is, nothing of ours to call
        if (3, 11) <= sys.version_info < (3, 14):
            arguments.append(True)  # vfork where that is safe
        function: Any = _posixsubprocess.fork_exec
        try:
            try:
                pid: int = function(*arguments)
            finally:
                os.close(say)
            problem = b""
            while part := os.read(said, 4096):  # until the program has been started: it comes in several pieces
                problem += part
        finally:
            os.close(said)
        if problem:  # "OSError:<errno, hexadecimal>:<where>"
            os.waitpid(pid, 0)
            number = int(problem.split(b":")[1], 16)
            raise OSError(number, os.strerror(number))
        return pid

    def popen(self, argv: list[str], env: dict[str, str], descriptors: tuple[int, int, int], keep: list[int]) -> int:
        import subprocess

        who: dict[str, Any] = {}
        if self.identity.uid is not None:
            who = {"user": self.identity.uid, "group": self.identity.gid, "extra_groups": []}
        stdin, stdout, stderr = descriptors
        process = subprocess.Popen(
            argv, stdin=stdin, stdout=stdout, stderr=stderr, env=env, start_new_session=True, pass_fds=keep, **who
        )
        process.returncode = 0  # it is reaped elsewhere; Popen must not try as well
        return process.pid


def enter(folder: str, identity: Identity) -> None:
    """Change to a folder as the agent: the runner may have no right to enter a private one."""
    try:
        with identity:
            os.chdir(folder)
    except OSError as error:
        raise Refusal("file", "the working directory %s cannot be entered: %s" % (folder, error.strerror)) from None


def check_command(argv: list[str], environment: dict[str, str]) -> None:
    if not argv or not argv[0]:
        raise Refusal("misuse", "the command is empty")
    check_environment(environment, argv)


def check_environment(environment: dict[str, str], argv: Sequence[str] = ()) -> None:
    for name in environment:
        if not name or "=" in name:
            raise Refusal("misuse", "%r is no name of an environment variable" % name)
    for text in (*argv, *environment, *environment.values()):
        if not isinstance(text, str) or "\0" in text:
            raise Refusal("misuse", "the command and its environment must be text without NUL characters")
        if len(os.fsencode(text)) > ARGUMENT_LIMIT:
            raise Refusal(
                "misuse",
                "the command has an argument of more than %d bytes; write it to a file and run that" % ARGUMENT_LIMIT,
            )


def start_refusal(error: OSError, program: str) -> Refusal:
    if error.errno in (errno.EAGAIN, errno.ENOMEM):
        return Refusal(
            "busy", "no process can be started: the sandbox is at its process or memory limit; stop something"
        )
    return Refusal("misuse", "cannot start %r: %s" % (program, error.strerror))


def sacrifice(pid: int, identity: Identity) -> None:
    """When memory runs out, the runner is the last to go."""
    with identity:
        try:
            fd = os.open("/proc/%d/oom_score_adj" % pid, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return
    try:
        os.write(fd, b"1000")
    except OSError:
        pass
    finally:
        os.close(fd)


def widen(pipe: int) -> None:
    """Fewer turns for those who print a lot."""
    try:
        fcntl.fcntl(pipe, F_SETPIPE_SZ, 1 << 20)
    except OSError:
        pass
