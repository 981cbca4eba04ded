"""Work on many files: forked children of the runner that have become the agent."""

from __future__ import annotations

import fcntl
import os
import resource
import sys

from mlgym_sandbox.inside.runner.feeding import Feeder
from mlgym_sandbox.inside.runner.files import write_all
from mlgym_sandbox.inside.runner.loop import READ
from mlgym_sandbox.inside.runner.native import dumps, loads, signal
from mlgym_sandbox.inside.runner.refusals import Refusal, file_refusal
from mlgym_sandbox.inside.runner.wire import BACKLOG, CHUNK, HEADER_LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mlgym_sandbox.inside.runner.identity import Identity
    from mlgym_sandbox.inside.runner.loop import Loop, Timer
    from mlgym_sandbox.inside.runner.peer import Peer
    from mlgym_sandbox.inside.runner.processes import Processes
    from mlgym_sandbox.inside.runner.wire import Header

    Work = Callable[[int, int], Header]
    """What the child does, with the descriptors it reads from and writes to."""


class Errand:
    """Work on many files, done by a forked child that has become the agent; the runner's loop goes on.

    The child writes its payload to one pipe, which is passed on as frames, and its verdict to another.
    """

    def __init__(
        self, seconds: float, work: Work, deliver: Callable[[bytes], None], done: Callable[[Header], None]
    ) -> None:
        self.work, self.deliver, self.done = work, deliver, done
        self.seconds = seconds
        self.verdict = b""
        self.pid = 0
        self.feeder: Feeder | None = None
        self.fds: list[int] = []
        self.timer: Timer | None = None
        self.peer: Peer | None = None
        self.late = False

    def begin(self, loop: Loop, identity: Identity, processes: Processes, fed: bool) -> None:
        out_read, out_write = os.pipe()
        said_read, said_write = os.pipe()
        in_read, in_write = os.pipe() if fed else (os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1)
        try:
            try:
                self.pid = os.fork()
            except BlockingIOError:
                processes.reap()
                self.pid = os.fork()
        except OSError:
            for fd in (out_read, out_write, said_read, said_write, in_read, in_write):
                if fd >= 0:
                    os.close(fd)
            raise Refusal("busy", "no process can be started: the sandbox is at its limit; stop something") from None
        if self.pid == 0:
            self.child(identity, in_read, out_write, said_write)
        processes.errands.add(self.pid)
        for fd in (out_write, said_write, in_read):
            os.close(fd)
        if fed:
            self.feeder = Feeder(loop, in_write)
        self.loop, self.identity = loop, identity
        self.fds = [out_read, said_read]
        os.set_blocking(out_read, False)
        loop.watch(out_read, READ, lambda: self.on_payload(out_read))
        loop.watch(said_read, READ, lambda: self.on_verdict(said_read))
        self.timer = loop.after(self.seconds, self.out_of_time)

    def child(self, identity: Identity, in_fd: int, out_fd: int, said_fd: int) -> None:
        verdict: Header = {"ok": False, "kind": "internal", "message": "the sandbox failed at its own work"}
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            null = os.open("/dev/null", os.O_RDWR)
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in (null, null, null, in_fd, out_fd, said_fd)]
            for low, fd in enumerate(high):
                os.dup2(fd, low)
            os.closerange(6, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
            in_fd, out_fd, said_fd = 3, 4, 5
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write("1000")
        except OSError:
            pass  # only the last step may fail
        try:
            identity.become()
            sys.setrecursionlimit(10_000)  # folders can be nested that deep
            resource.setrlimit(resource.RLIMIT_CPU, (int(self.seconds) + 2,) * 2)
            verdict = dict(self.work(in_fd, out_fd), ok=True)
        except Refusal as refusal:
            verdict.update(kind=refusal.kind, message=str(refusal))
        except BrokenPipeError:
            pass
        except OSError as error:
            verdict.update(kind="file", message=str(file_refusal(error, str(error.filename or "the file"))))
        except BaseException as problem:
            verdict["message"] = "the sandbox failed at its own work: %r" % (problem,)
        try:
            write_all(said_fd, dumps(verdict).encode()[:HEADER_LIMIT])
        finally:
            os._exit(0)

    def on_payload(self, fd: int) -> None:
        if self.peer is not None and self.peer.pending > BACKLOG:
            self.loop.unwatch(fd)
            self.peer.when_drained.append(lambda: self.resume(fd))
            return
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return
        if data:
            self.deliver(data)
        else:
            self.drop(fd)

    def resume(self, fd: int) -> None:
        if fd in self.fds:
            self.loop.watch(fd, READ, lambda: self.on_payload(fd))

    def on_verdict(self, fd: int) -> None:
        data = os.read(fd, CHUNK)
        self.verdict += data
        if not data:
            self.drop(fd)

    def drop(self, fd: int) -> None:
        self.loop.unwatch(fd)
        os.close(fd)
        self.fds.remove(fd)
        if not self.fds:
            self.finish()

    def out_of_time(self) -> None:
        self.late = True
        self.kill()

    def kill(self) -> None:
        with self.identity:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except OSError:
                pass

    def finish(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if self.feeder is not None:
            self.feeder.close()
        try:
            verdict = loads(self.verdict)
        except ValueError:
            why = "took longer than %g s" % self.seconds if self.late else "was killed"
            verdict = {"ok": False, "kind": "late" if self.late else "busy", "message": "the operation %s" % why}
        self.done(verdict)
