"""All jobs: starting, watching, ending."""

from __future__ import annotations

import itertools
import os
import time

from mlgym_sandbox.inside.runner.feeding import Feeder
from mlgym_sandbox.inside.runner.job import STREAM_WINDOW, Job
from mlgym_sandbox.inside.runner.loop import READ
from mlgym_sandbox.inside.runner.native import signal
from mlgym_sandbox.inside.runner.output import OutputLog
from mlgym_sandbox.inside.runner.processes import MARKER
from mlgym_sandbox.inside.runner.refusals import Refusal
from mlgym_sandbox.inside.runner.shell import Shell, quoted
from mlgym_sandbox.inside.runner.spawning import Spawner, check_command, sacrifice, widen
from mlgym_sandbox.inside.runner.wire import BACKLOG, CHUNK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mlgym_sandbox.inside.runner.loop import Loop
    from mlgym_sandbox.inside.runner.peer import Peer
    from mlgym_sandbox.inside.runner.processes import Processes
    from mlgym_sandbox.inside.runner.wire import Header

RUNNING_LIMIT = 64
REMEMBERED_JOBS = 256
RETAINED_OUTPUTS = 4
"""Outputs of ended jobs are dropped, oldest first, when all together exceed so many times one job's share."""
WAIT_FOR_DEAD_S = 5.0


class Jobs:
    """All jobs: starting, watching, ending."""

    def __init__(self, loop: Loop, config: Header, processes: Processes) -> None:
        self.loop, self.config = loop, config
        self.processes = processes
        # Every job that runs or is remembered holds descriptors of the runner, which has the commands' limit.
        self.running_limit = min(RUNNING_LIMIT, max(1, config["nofile"] // 8))
        self.remembered = min(REMEMBERED_JOBS, max(1, config["nofile"] // 4))
        self.jobs: dict[str, Job] = {}
        self.by_pid: dict[int, Job] = {}
        self.numbers = itertools.count(1)
        self.shell = Shell()
        self.spawner = Spawner(processes)
        self.oom_kills: Callable[[], int] = lambda: 0
        self.on_activity: Callable[[], None] = lambda: None

    def get(self, job_id: Any) -> Job:
        job = self.jobs.get(job_id)
        if job is None:
            raise Refusal("job", "there is no job %r in this sandbox; job_list shows those there are" % (job_id,))
        return job

    def running(self) -> list[Job]:
        return [job for job in self.jobs.values() if not job.over]

    # --- starting

    def start(self, header: Header, what: Header, folder: str, peer: Peer) -> Job:
        if len(self.running()) >= self.running_limit:
            raise Refusal("busy", "%d jobs are running already; stop one first" % self.running_limit)
        command = what["command"]
        text = command if isinstance(command, str) else " ".join(map(quoted, command))
        environment = dict(self.config["env"])
        environment.update(what["env"])
        job_id = header.get("job") or "j%d" % next(self.numbers)
        environment[MARKER] = job_id
        argv = [self.shell.path, "-c", command] if isinstance(command, str) else list(command)
        check_command(argv, environment)
        log = OutputLog(self.config["state_dir"], self.config["output_bytes"], self.drop_oldest_output)
        job = Job(job_id, text, log, header["grace_s"])
        keep: list[int] = []
        try:
            if header["keep_state"]:
                argv = self.shell.resume(command, what["env"], header.get("cwd"), keep)
            self.spawn(job, argv, environment, folder, keep, peer if header["stream"] else None)
        except BaseException:
            job.log.drop()
            for fd in keep:
                os.close(fd)
            raise
        if keep:
            job.state_fd = keep.pop(0)
            for fd in keep:
                os.close(fd)
        self.jobs[job.id] = job
        if header["timeout_s"] is not None:
            job.deadline = self.loop.after(header["timeout_s"], lambda: self.end(job, "timeout", job.grace_s))
        self.forget_old()
        self.on_activity()
        return job

    def spawn(
        self, job: Job, argv: list[str], env: dict[str, str], folder: str, keep: list[int], peer: Peer | None
    ) -> None:
        output_read, output = os.pipe()
        inner, outer = [output], [output_read]
        stdin, stdout = None, output
        if peer is not None:
            stdin, stdin_write = os.pipe()
            stdout_read, stdout = os.pipe()
            inner += [stdin, stdout]
            outer += [stdin_write, stdout_read]
        job.oom_before = self.oom_kills()
        try:
            job.pid = self.spawner.spawn(argv, env, folder, stdin, stdout, output, keep)
        except BaseException:
            inner += outer
            raise
        finally:
            for fd in inner:
                os.close(fd)
        self.by_pid[job.pid] = job
        sacrifice(job.pid, self.processes.identity)
        widen(output_read)
        os.set_blocking(output_read, False)
        job.output_fd = output_read
        self.loop.watch(output_read, READ, lambda: self.drain(job))
        if peer is not None:
            job.peer, job.stdin, job.stdout_fd = peer, Feeder(self.loop, stdin_write), stdout_read
            os.set_blocking(stdout_read, False)
            self.loop.watch(stdout_read, READ, lambda: self.forward(job))

    # --- output

    def drain(self, job: Job, rounds: int = 4) -> None:
        """Fetch what a job printed; ``rounds`` keeps one that prints all the time from starving others."""
        for _ in range(rounds):
            try:
                data = os.read(job.output_fd, CHUNK)
            except BlockingIOError:
                return
            if not data:
                self.loop.unwatch(job.output_fd)
                os.close(job.output_fd)
                job.output_fd = -1
                return
            job.log.append(data)

    def forward(self, job: Job) -> None:
        """Send a stream's stdout on, as far as the server has given credit."""
        peer = job.peer
        if job.stdout_fd < 0:
            return
        if peer is not None and (job.credit <= 0 or peer.pending > BACKLOG):
            self.loop.unwatch(job.stdout_fd)
            if job.credit > 0:
                peer.when_drained.append(lambda: self.resume(job))
            return
        try:
            data = os.read(job.stdout_fd, min(65536, job.credit) if peer is not None else 65536)
        except BlockingIOError:
            return
        if data:
            job.credit -= len(data)
            if peer is not None:
                peer.send({"event": "data", "job": job.id}, data)
            return
        self.loop.unwatch(job.stdout_fd)
        os.close(job.stdout_fd)
        job.stdout_fd = -1
        if peer is not None:
            peer.send({"event": "eof", "job": job.id})

    def resume(self, job: Job) -> None:
        if job.stdout_fd >= 0:
            self.loop.watch(job.stdout_fd, READ, lambda: self.forward(job))

    def orphan_streams(self, peer: Peer) -> None:
        """A stream without the server that held it is of no use to anybody."""
        for job in list(self.jobs.values()):
            if job.peer is peer:
                job.peer = None
                job.credit = STREAM_WINDOW
                self.resume(job)
                if job.stdin is not None:
                    job.stdin.close()
                self.end(job, "session", 0.0)

    # --- ending

    def end(self, job: Job, reason: str, grace_s: float) -> None:
        """Have a job ended: SIGTERM for its processes, after the grace SIGKILL for all it ever started."""
        now = time.monotonic()
        first = job.kill_at is None
        if not job.over and job.reason is None:
            job.reason = reason
        job.kill_at = now + grace_s if job.kill_at is None else min(job.kill_at, now + grace_s)
        if grace_s > 0 and first:
            self.processes.signal(self.processes.tree(job.id, job.leader), signal.SIGTERM)
        self.press(job)

    def press(self, job: Job) -> None:
        """One look at a job that is to end: over, still in its grace, or to be killed (again)."""
        if job.look is not None:
            job.look.cancel()
            job.look = None
        if job.kill_at is None:
            return
        now = time.monotonic()
        left = self.processes.tree(job.id, job.leader)
        ended = job.exited or job.over
        if now >= job.kill_at or (ended and not left):
            if job.give_up_at is None:
                job.give_up_at = now + WAIT_FOR_DEAD_S
            if not job.over and not any(other is not job for other in self.running()):
                self.processes.signal_all(signal.SIGKILL)  # also what has escaped from the job's tree
            elif left:
                self.processes.signal(left, signal.SIGKILL)
            if left:
                left = self.processes.tree(job.id, job.leader)
            if (ended and not left) or now > job.give_up_at:
                job.kill_at = job.give_up_at = None
                self.conclude(job)
                gone, job.gone = job.gone, []
                for action in gone:
                    action()
                return
        job.look = self.loop.after(0.005 if now >= job.kill_at else 0.05, lambda: self.press(job))

    def end_everything(self, reason: str) -> None:
        """Kill all that the agent runs, jobs and leftovers of jobs."""
        running = self.running()
        for job in running:
            if job.reason is None:
                job.reason = reason
            job.kill_at = time.monotonic()
        self.processes.signal_all(signal.SIGKILL)
        for job in running:
            self.press(job)

    def reaped(self, pid: int, status: int) -> bool:
        """The leader of a job has exited; say whether ``pid`` was one."""
        job = self.by_pid.pop(pid, None)
        if job is None:
            return False
        job.exited = True
        if os.WIFSIGNALED(status):
            job.exit_code = 128 + os.WTERMSIG(status)
            killed = True
        else:
            job.exit_code = os.WEXITSTATUS(status)
            killed = job.exit_code == 128 + signal.SIGKILL
        job.oom = self.oom_kills() > job.oom_before
        if job.reason is None and killed and job.oom:
            job.reason = "oom"
        elif job.reason is None and os.WIFSIGNALED(status):
            job.reason = "signal"
        if job.state_fd >= 0:
            self.shell.keep(job.state_fd)
            os.close(job.state_fd)
            job.state_fd = -1
        if job.kill_at is None:
            self.conclude(job)
        else:
            self.press(job)
        return True

    def conclude(self, job: Job) -> None:
        if job.over:
            return
        if job.exit_code is None:
            job.exit_code = 128 + signal.SIGKILL  # killed, but stuck in the kernel
        if job.output_fd >= 0:
            self.drain(job, 16)
        if job.stdin is not None:
            job.stdin.close()
        if job.deadline is not None:
            job.deadline.cancel()
        job.seconds = time.monotonic() - job.begun
        waiting, job.waiting = job.waiting, []
        for action in waiting:
            action()

    def drop_oldest_output(self) -> bool:
        """Give up the output of one ended job; say whether there was one."""
        for job in self.jobs.values():
            if job.over and job.log.kept:
                job.log.drop()
                return True
        return False

    def forget_old(self) -> None:
        """Drop the oldest outputs and jobs beyond what is kept."""
        kept = sum(job.log.kept for job in self.jobs.values())
        excess = len(self.jobs) - self.remembered
        for job in list(self.jobs.values()):
            full = kept > RETAINED_OUTPUTS * self.config["output_bytes"]
            if not full and excess <= 0:
                return
            if not job.over:
                continue
            kept -= job.log.kept
            job.log.drop()
            if excess > 0:
                excess -= 1
                if job.output_fd >= 0:
                    self.loop.unwatch(job.output_fd)
                    os.close(job.output_fd)
                    job.output_fd = -1
                del self.jobs[job.id]
