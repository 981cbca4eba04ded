"""All jobs."""

from __future__ import annotations

import itertools
import os
import time


class Jobs:
    """All jobs: starting, watching, ending."""

    def __init__(self, loop: Loop, config: Header, identity: Identity, processes: Processes) -> None:
        self.loop, self.config = loop, config
        self.identity, self.processes = identity, processes
        # Every job that runs or is remembered holds descriptors of the runner, which has the commands' limit.
        self.running_limit = min(RUNNING_LIMIT, max(1, config["nofile"] // 8))
        self.remembered = min(REMEMBERED_JOBS, max(1, config["nofile"] // 4))
        self.jobs: dict[str, Job] = {}
        self.by_pid: dict[int, Job] = {}
        self.numbers = itertools.count(1)
        self.shell_state = b""
        self.shell = next((path for path in ("/bin/bash", "/usr/bin/bash") if os.path.exists(path)), "/bin/sh")
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
        text = command if isinstance(command, str) else " ".join(map(shlex.quote, command))
        environment = dict(self.config["env"])
        environment.update(what["env"])
        job_id = header.get("job") or "j%d" % next(self.numbers)
        environment[MARKER] = job_id
        argv = [self.shell, "-c", command] if isinstance(command, str) else list(command)
        check_command(argv, environment)
        log = OutputLog(self.config["state_dir"], self.config["output_bytes"], self.drop_oldest_output)
        job = Job(job_id, text, log, header["grace_s"])
        keep: list[int] = []
        try:
            if header["keep_state"]:
                argv = self.with_state(command, what["env"], header.get("cwd"), keep)
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
        who: dict[str, Any] = {}
        if self.identity.uid is not None:
            who = {"user": self.identity.uid, "group": self.identity.gid, "extra_groups": []}
        output_read, output_write = os.pipe()
        opened = [output_write]
        stdin: int = subprocess.DEVNULL
        stdout = output_write
        stdin_write = stdout_read = -1
        if peer is not None:
            stdin, stdin_write = os.pipe()
            stdout_read, stdout = os.pipe()
            opened += [stdin, stdout]
        job.oom_before = self.oom_kills()
        try:
            enter(folder, self.identity)
            process = subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=stdout,
                stderr=output_write,
                env=env,
                start_new_session=True,
                close_fds=True,
                pass_fds=keep,
                **who,
            )
        except OSError as error:
            opened += [fd for fd in (output_read, stdin_write, stdout_read) if fd >= 0]
            raise start_refusal(error, argv[0]) from None
        finally:
            os.chdir("/")
            for fd in opened:
                os.close(fd)
        # Reaped by wait4 in Runner.reap, which also needs the resource usage; Popen must not try as well.
        process.returncode = 0
        job.pid = process.pid
        self.by_pid[job.pid] = job
        with self.identity:
            try:
                with open("/proc/%d/oom_score_adj" % job.pid, "w") as file:
                    file.write("1000")  # when memory runs out, the runner is the last to go
            except OSError:
                pass
        try:
            fcntl.fcntl(output_read, 1031, 1 << 20)  # F_SETPIPE_SZ: fewer turns for those who print a lot
        except OSError:
            pass
        os.set_blocking(output_read, False)
        job.output_fd = output_read
        self.loop.watch(output_read, READ, lambda: self.drain(job))
        if peer is not None:
            job.peer, job.stdin, job.stdout_fd = peer, Feeder(self.loop, stdin_write), stdout_read
            os.set_blocking(stdout_read, False)
            self.loop.watch(stdout_read, READ, lambda: self.forward(job))

    # --- shell state

    def with_state(self, command: str, env: dict[str, str], cwd: str | None, keep: list[int]) -> list[str]:
        """The command, begun where the last one ended and telling at its end where it is.

        Opens the files for that and adds them to ``keep``, the one to be written first.
        """
        keep.append(state_file(b""))
        steps = ["__c=$1", "shift"]
        if self.shell_state:
            keep.append(state_file(self.shell_state))
            steps += ["__d=$PWD", LOAD_STATE.replace("IN", str(keep[1]))]
            if cwd is not None:
                steps.append('cd -- "$__d"')
            steps += ["export %s=%s" % (name, shlex.quote(value)) for name, value in env.items()]
            steps.append("unset __d")
        steps += [SAVE_STATE.replace("OUT", str(keep[0])), 'eval "$__c"']
        return [self.shell, "-c", "; ".join(steps), "bash", command]

    def keep_state(self, job: Job) -> None:
        text = os.pread(job.state_fd, STATE_BYTES, 0).rstrip(b"\0")
        os.close(job.state_fd)
        job.state_fd = -1
        if text.endswith(STATE_END):  # else the shell was killed, replaced by exec, or had another trap
            self.shell_state = text

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
            self.keep_state(job)
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
