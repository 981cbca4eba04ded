"""The one long-lived program inside a sandbox: runs commands and touches files for a server outside.

One file, standard library only, Python 3.9 or newer, started as ``python3 -I -S -B -c TEXT`` (or from a file)
and configured by the environment variable ``MLGYM_RUNNER``. One thread, one loop over a selector.

It is PID 1 where the sandbox has its own pid namespace. Where it can, it has another uid than the commands,
so that they can neither signal it nor reach its descriptors; it takes the agent's uid for everything it does
on the agent's behalf. Nothing a command prints is ever read as protocol: output is payload, counted and kept.

Sections: wire, loop, identity, processes, output, feeding, jobs, files, errands, connections, runner.
"""

from __future__ import annotations

import collections
import errno
import fcntl
import heapq
import itertools
import json
import os
import re
import resource
import selectors
import shlex
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

Header = Dict[str, Any]

CHUNK = 256 * 1024
HEADER_LIMIT = 64 * 1024
PAYLOAD_LIMIT = 1 << 20
MAGIC_BYTES = 32
STREAM_WINDOW = 1 << 20
"""Bytes of a stream's stdout that may be under way unread."""
BACKLOG = 4 << 20
"""Bytes waiting to be sent above which nothing more is fetched from pipes."""
RUNNING_LIMIT = 64
REMEMBERED_JOBS = 256
RETAINED_OUTPUTS = 4
"""Outputs of ended jobs are dropped, oldest first, when all together exceed so many times one job's share."""
STATE_BYTES = 256 * 1024
"""Largest shell state (directory and exported variables) that is carried to the next job."""
ARGUMENT_LIMIT = 120 * 1024
"""Linux takes at most 128 KiB in one argument."""
WAIT_FOR_DEAD_S = 5.0
MARKER = "MLGYM_JOB"


class Refusal(Exception):
    """A request that cannot be done; ``kind`` picks the exception on the server's side."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


# ---------------------------------------------------------------------------------------------------- wire


def encode(header: Header, payload: bytes = b"") -> bytes:
    if payload:
        header["size"] = len(payload)
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<I", len(text)) + text + payload


class Decoder:
    """Cuts the server's bytes into frames."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.header: Optional[Header] = None
        self.size = 0

    def feed(self, data: bytes) -> Iterator[Tuple[Header, bytes]]:
        self.buffer += data
        while True:
            if self.header is None:
                if len(self.buffer) < 4:
                    return
                (length,) = struct.unpack_from("<I", self.buffer)
                if length > HEADER_LIMIT:
                    raise ValueError("header too long")
                if len(self.buffer) < 4 + length:
                    return
                header = json.loads(bytes(self.buffer[4 : 4 + length]))
                if not isinstance(header, dict):
                    raise ValueError("header is no object")
                size = header.get("size", 0)
                if not isinstance(size, int) or not 0 <= size <= PAYLOAD_LIMIT:
                    raise ValueError("payload too long")
                del self.buffer[: 4 + length]
                self.header, self.size = header, size
            if len(self.buffer) < self.size:
                return
            header, payload = self.header, bytes(self.buffer[: self.size])
            del self.buffer[: self.size]
            self.header = None
            yield header, payload


# ---------------------------------------------------------------------------------------------------- loop


class Timer:
    """A callback at a moment of the monotonic clock, until cancelled."""

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Optional[Callable[[], None]] = action

    def cancel(self) -> None:
        self.action = None


class Loop:
    """Descriptors and timers; every callback runs here, one at a time."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.timers: List[Tuple[float, int, Timer]] = []
        self.order = itertools.count()

    def watch(self, fd: int, events: int, action: Callable[[], None]) -> None:
        if fd in self.selector.get_map():
            self.selector.modify(fd, events, action)
        else:
            self.selector.register(fd, events, action)

    def unwatch(self, fd: int) -> None:
        if fd in self.selector.get_map():
            self.selector.unregister(fd)

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        timer = Timer(action)
        heapq.heappush(self.timers, (time.monotonic() + seconds, next(self.order), timer))
        return timer

    def turn(self) -> None:
        """Wait for something to happen and deal with it."""
        while self.timers and self.timers[0][2].action is None:
            heapq.heappop(self.timers)
        timeout = max(0.0, self.timers[0][0] - time.monotonic()) if self.timers else None
        for key, _ in self.selector.select(timeout):
            if key.fd in self.selector.get_map():  # else: an earlier callback of this turn dropped it
                key.data()
        now = time.monotonic()
        while self.timers and self.timers[0][0] <= now:
            action = heapq.heappop(self.timers)[2].action
            if action is not None:
                action()


# ------------------------------------------------------------------------------------------------ identity


def prctl(option: int, value: int) -> None:
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 4, 36, 38


class Identity:
    """The agent's uid and gid; ``with identity:`` borrows them (the effective ones) for a moment.

    With the effective uid changed the kernel checks files and signals as for the agent, whatever
    capabilities the runner has; the real and saved uid stay, so the agent cannot signal the runner.
    """

    def __init__(self, uid: Optional[int], gid: Optional[int]) -> None:
        self.uid, self.gid = uid, gid
        self.own_uid, self.own_gid = os.geteuid(), os.getegid()
        self.depth = 0
        if uid is not None:
            os.setgroups([])

    def __enter__(self) -> None:
        self.depth += 1
        if self.uid is not None and self.depth == 1:
            os.setegid(self.gid if self.gid is not None else self.uid)
            os.seteuid(self.uid)

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        if self.uid is not None and self.depth == 0:
            os.seteuid(self.own_uid)
            os.setegid(self.own_gid)

    def become(self) -> None:
        """Turn this (forked) process into the agent for good."""
        if self.uid is not None:
            gid = self.gid if self.gid is not None else self.uid
            os.setresgid(gid, gid, gid)
            os.setresuid(self.uid, self.uid, self.uid)


# ----------------------------------------------------------------------------------------------- processes


class Process:
    """One line of the process table."""

    __slots__ = ("cpu_s", "group", "parent", "pid", "resident", "session", "state")

    def __init__(self, pid: int, fields: List[bytes]) -> None:
        self.pid = pid
        self.state = fields[0]
        self.parent, self.group, self.session = int(fields[1]), int(fields[2]), int(fields[3])
        self.cpu_s = (int(fields[11]) + int(fields[12])) / CLOCK_TICKS
        self.resident = int(fields[21]) * PAGE


CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Processes:
    """Everything the agent runs: seen through /proc, signalled with the agent's rights."""

    def __init__(self, identity: Identity, everyone: bool) -> None:
        self.identity = identity
        self.everyone = everyone
        self.own = os.getpid()
        self.errands: Set[int] = set()
        """Forked children of the runner itself: never counted nor killed as the agent's."""

    def table(self) -> Dict[int, Process]:
        """All living processes of the agent (no zombies), by pid."""
        found: Dict[int, Process] = {}
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            pid = int(name)
            if pid == self.own or pid in self.errands:
                continue
            try:
                with open("/proc/%d/stat" % pid, "rb") as file:
                    line = file.read()
                process = Process(pid, line[line.rindex(b")") + 2 :].split())
            except (OSError, ValueError, IndexError):
                continue  # gone meanwhile
            if process.state not in b"ZX":
                found[pid] = process
        if self.everyone:
            return found
        mine = self.descendants(found, {self.own})
        return {pid: process for pid, process in found.items() if pid in mine}

    @staticmethod
    def descendants(table: Dict[int, Process], roots: Set[int]) -> Set[int]:
        children: Dict[int, List[int]] = {}
        for process in table.values():
            children.setdefault(process.parent, []).append(process.pid)
        reached: Set[int] = set()
        todo = list(roots)
        while todo:
            for child in children.get(todo.pop(), ()):
                if child not in reached:
                    reached.add(child)
                    todo.append(child)
        return reached

    def tree(self, job_id: str, leader: Optional[int]) -> Set[int]:
        """The processes of one job: its session and group, what carries its mark, and what they started.

        ``leader`` is ``None`` once the first process was reaped: its number may belong to another by now.
        """
        table = self.table()
        mark = ("%s=%s" % (MARKER, job_id)).encode()
        roots: Set[int] = set()
        with self.identity:
            for pid, process in table.items():
                if leader is not None and leader in (pid, process.group, process.session):
                    roots.add(pid)
                elif self.marked(pid, mark):
                    roots.add(pid)
        return roots | self.descendants(table, roots)

    @staticmethod
    def marked(pid: int, mark: bytes) -> bool:
        try:
            with open("/proc/%d/environ" % pid, "rb") as file:
                return mark in file.read().split(b"\0")
        except OSError:
            return False

    def signal(self, pids: Set[int], number: int) -> None:
        with self.identity:
            for pid in pids:
                try:
                    os.kill(pid, number)
                except OSError:
                    pass  # gone meanwhile

    def signal_all(self, number: int) -> None:
        """Send a signal to everything of the agent, in one stroke where the kernel can do that."""
        if self.everyone and not self.errands and self.own == 1:
            # From PID 1 this reaches all processes of the namespace but PID 1. No fork: a fork bomb that holds
            # every process the sandbox may have cannot prevent it.
            with self.identity:
                try:
                    os.kill(-1, number)
                except OSError:
                    pass  # there is nobody
            return
        end = time.monotonic() + 2.0
        seen: Set[int] = set()
        while True:
            found = set(self.table())
            if not found - seen or time.monotonic() > end:
                return
            self.signal(found, number)
            if number != signal.SIGKILL:
                seen |= found  # killed ones vanish, others are signalled once


# -------------------------------------------------------------------------------------------------- output


class OutputLog:
    """What a job printed: the first three quarters of ``limit`` and, rolling, the last quarter."""

    def __init__(self, folder: str, limit: int) -> None:
        self.head = limit * 3 // 4
        self.ring = limit - self.head
        self.total = 0
        self.stuck: Optional[int] = None
        """Where keeping ended because the disk was full."""
        self.fd = self.open(folder)

    @staticmethod
    def open(folder: str) -> int:
        try:
            return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            fd, path = tempfile.mkstemp(dir=folder)
            os.unlink(path)
            return fd

    @property
    def kept(self) -> int:
        """Bytes on disk."""
        return 0 if self.fd < 0 else min(self.total, self.head + self.ring)

    def append(self, data: bytes) -> None:
        at, self.total = self.total, self.total + len(data)
        if self.stuck is not None or self.fd < 0:
            return
        try:
            if at < self.head:
                part = data[: self.head - at]
                os.pwrite(self.fd, part, at)
                at, data = at + len(part), data[len(part) :]
            if len(data) > self.ring:
                at, data = at + len(data) - self.ring, data[-self.ring :]
            while data:
                place = (at - self.head) % self.ring
                part = data[: self.ring - place]
                os.pwrite(self.fd, part, self.head + place)
                at, data = at + len(part), data[len(part) :]
        except OSError:
            self.stuck = min(at, self.head)

    def read(self, offset: int, limit: int) -> Tuple[int, bytes]:
        """Bytes from ``offset`` (negative: from the end), and where they really begin."""
        offset = max(0, self.total + offset) if offset < 0 else offset
        end = self.total if self.stuck is None else self.stuck
        if self.fd < 0 or offset >= end or limit <= 0:
            return (min(offset, self.total) if offset < end else self.total), b""
        parts: List[bytes] = []
        start = offset
        if offset < self.head:
            parts.append(os.pread(self.fd, min(limit, min(end, self.head) - offset), offset))
            offset += len(parts[0])
            limit -= len(parts[0])
            if end > self.head + self.ring:
                return start, parts[0]  # a gap follows
        else:
            start = offset = max(offset, end - self.ring)
        limit = min(limit, end - offset)
        while limit > 0 and offset >= self.head:
            place = (offset - self.head) % self.ring
            part = os.pread(self.fd, min(limit, self.ring - place), self.head + place)
            if not part:
                break
            parts.append(part)
            offset, limit = offset + len(part), limit - len(part)
        return start, b"".join(parts)

    def drop(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


# ------------------------------------------------------------------------------------------------- feeding


class Feeder:
    """Writes to a pipe as fast as its reader takes it; answers each piece when it has gone in."""

    def __init__(self, loop: Loop, fd: int) -> None:
        self.loop, self.fd = loop, fd
        os.set_blocking(fd, False)
        self.queue: collections.deque[Tuple[bytes, Callable[[bool], None]]] = collections.deque()
        self.ending = False

    def put(self, data: bytes, done: Callable[[bool], None]) -> None:
        if self.fd < 0 or self.ending:
            done(False)
            return
        self.queue.append((data, done))
        if len(self.queue) == 1:
            self.flush()

    def finish(self) -> None:
        """Close the pipe after all that was put."""
        self.ending = True
        if not self.queue:
            self.close()

    def flush(self) -> None:
        try:
            while self.queue:
                data, done = self.queue[0]
                sent = os.write(self.fd, data) if data else 0
                if sent < len(data):
                    self.queue[0] = (data[sent:], done)
                    continue
                self.queue.popleft()
                done(True)
        except BlockingIOError:
            self.loop.watch(self.fd, selectors.EVENT_WRITE, self.flush)
            return
        except OSError:
            self.close()  # the reader has gone
            return
        if self.ending:
            self.close()
        else:
            self.loop.unwatch(self.fd)

    def close(self) -> None:
        if self.fd >= 0:
            self.loop.unwatch(self.fd)
            os.close(self.fd)
            self.fd = -1
        while self.queue:
            self.queue.popleft()[1](False)


# ---------------------------------------------------------------------------------------------------- jobs

SAVE_STATE = r"""trap '{ printf "cd -- %q\n" "$PWD"; export -p; } >&FD 2>/dev/null' EXIT"""
LOAD_STATE = (
    'IFS= read -r -d "" -u FD __m; __j=$MLGYM_JOB; eval "$__m" 2>/dev/null; '
    "export MLGYM_JOB=$__j; unset __m __j"
)


class Job:
    """One command, from its start to the end of everything it started."""

    def __init__(self, job_id: str, command: str, log: OutputLog, grace_s: float) -> None:
        self.id, self.log, self.grace_s = job_id, log, grace_s
        self.command = command if len(command) <= 500 else command[:499] + "\u2026"
        self.pid: Optional[int] = None
        self.started, self.begun = time.time(), time.monotonic()
        self.seconds: Optional[float] = None
        self.exit_code: Optional[int] = None
        self.exited = False
        """The leader was reaped; the job is over when also nothing is left to kill."""
        self.reason: Optional[str] = None
        self.oom = False
        self.oom_before = 0
        self.kill_at: Optional[float] = None
        self.give_up_at: Optional[float] = None
        self.deadline: Optional[Timer] = None
        self.output_fd = -1
        self.state_fd = -1
        self.waiting: List[Callable[[], None]] = []
        self.peer: Optional[Peer] = None
        self.stdin: Optional[Feeder] = None
        self.stdout_fd = -1
        self.credit = STREAM_WINDOW

    @property
    def over(self) -> bool:
        return self.seconds is not None

    def status(self) -> Header:
        state = "running"
        if self.over:
            state = "killed" if self.reason is not None else "exited"
        return {
            "job": self.id,
            "command": self.command,
            "state": state,
            "exit_code": self.exit_code if self.over else None,
            "reason": None if self.reason == "signal" else self.reason,
            "started": self.started,
            "seconds": time.monotonic() - self.begun if self.seconds is None else self.seconds,
            "output_bytes": self.log.total,
            "oom": self.oom,
        }


class Jobs:
    """All jobs: starting, watching, ending."""

    def __init__(self, loop: Loop, config: Header, identity: Identity, processes: Processes) -> None:
        self.loop, self.config = loop, config
        self.identity, self.processes = identity, processes
        self.jobs: Dict[str, Job] = {}
        self.by_pid: Dict[int, Job] = {}
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

    def running(self) -> List[Job]:
        return [job for job in self.jobs.values() if not job.over]

    # --- starting

    def start(self, header: Header, what: Header, folder: str, peer: Peer) -> Job:
        if len(self.running()) >= RUNNING_LIMIT:
            raise Refusal("busy", "%d jobs are running already; stop one first" % RUNNING_LIMIT)
        command = what["command"]
        job_id = header.get("job") or "j%d" % next(self.numbers)
        text = command if isinstance(command, str) else " ".join(map(shlex.quote, command))
        log = OutputLog(self.config["state_dir"], self.config["output_bytes"])
        job = Job(job_id, text, log, float(header["grace_s"]))
        environment = dict(self.config["env"])
        environment.update(what["env"])
        environment[MARKER] = job_id
        keep: List[int] = []
        if header["keep_state"]:
            job.state_fd = self.make_state_file()
            keep.append(job.state_fd)
            command = self.with_state(command, what["env"], header.get("cwd"), job.state_fd)
        argv = [self.shell, "-c", command] if isinstance(command, str) else list(command)
        try:
            self.check(argv, environment)
            self.spawn(job, argv, environment, folder, keep, peer if header["stream"] else None)
        except BaseException:
            log.drop()
            if job.state_fd >= 0:
                os.close(job.state_fd)
            raise
        self.jobs[job.id] = job
        if header["timeout_s"] is not None:
            job.deadline = self.loop.after(header["timeout_s"], lambda: self.end(job, "timeout", job.grace_s))
        self.forget_old()
        self.on_activity()
        return job

    @staticmethod
    def check(argv: List[str], environment: Dict[str, str]) -> None:
        if not argv or not argv[0]:
            raise Refusal("misuse", "the command is empty")
        for text in itertools.chain(argv, environment, environment.values()):
            if "\0" in text:
                raise Refusal("misuse", "the command or its environment holds a NUL character")
            if len(text.encode("utf-8", "surrogateescape")) > ARGUMENT_LIMIT:
                raise Refusal(
                    "misuse",
                    "the command has an argument of more than %d bytes; write it to a file and run that"
                    % ARGUMENT_LIMIT,
                )

    def spawn(
        self, job: Job, argv: List[str], env: Dict[str, str], folder: str, keep: List[int], peer: Optional[Peer]
    ) -> None:
        who: Dict[str, Any] = {}
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
            with self.identity:  # the runner may have no right to enter a private folder of the agent
                os.chdir(folder)
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
            raise start_refusal(error, argv[0], folder) from None
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
        self.loop.watch(output_read, selectors.EVENT_READ, lambda: self.drain(job))
        if peer is not None:
            job.peer, job.stdin, job.stdout_fd = peer, Feeder(self.loop, stdin_write), stdout_read
            os.set_blocking(stdout_read, False)
            self.loop.watch(stdout_read, selectors.EVENT_READ, lambda: self.forward(job))

    # --- shell state

    def make_state_file(self) -> int:
        """An unnamed file of fixed size (sealed: a job cannot make it grow) holding the state so far."""
        fd = os.memfd_create("state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, STATE_BYTES)
        os.pwrite(fd, self.shell_state, 0)
        fcntl.fcntl(fd, 1033, 0x1 | 0x2 | 0x4)  # F_ADD_SEALS: SEAL, SHRINK, GROW
        return fd

    def with_state(self, command: Any, env: Dict[str, str], cwd: Optional[str], fd: int) -> str:
        if not isinstance(command, str):
            raise Refusal("misuse", "keep_state needs the command as text for the shell, not as a list")
        steps = []
        if self.shell_state:
            steps.append(LOAD_STATE)
            if cwd is not None:
                steps.append('cd -- "$__c"')
            steps += ["export %s=%s" % (name, shlex.quote(value)) for name, value in env.items()]
        steps.append(SAVE_STATE)
        line = "; ".join(steps).replace("FD", str(fd))
        if cwd is not None and self.shell_state:
            line = "__c=$PWD; " + line + "; unset __c"
        return line + "\n" + command

    def keep_state(self, job: Job) -> None:
        text = os.pread(job.state_fd, STATE_BYTES, 0)
        os.close(job.state_fd)
        job.state_fd = -1
        # The shell wrote from where reading the old state had left the file: its end is what counts.
        at = text.rfind(b"cd -- ", 0, text.find(b"\0")) if b"\0" in text else -1
        if at >= 0:
            self.shell_state = text[at:].split(b"\0", 1)[0]

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
            self.loop.watch(job.stdout_fd, selectors.EVENT_READ, lambda: self.forward(job))

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
            self.processes.signal(self.processes.tree(job.id, None if job.exited else job.pid), signal.SIGTERM)
        if first or grace_s <= 0:
            self.press(job)

    def press(self, job: Job) -> None:
        """One look at a job that is to end: over, still in its grace, or to be killed (again)."""
        assert job.kill_at is not None
        now = time.monotonic()
        left = self.processes.tree(job.id, None if job.exited else job.pid)
        if now >= job.kill_at or (job.exited and not left):
            if job.give_up_at is None:
                job.give_up_at = now + WAIT_FOR_DEAD_S
            others = [other for other in self.running() if other is not job]
            if not others and not job.over:
                self.processes.signal_all(signal.SIGKILL)
            elif left:
                self.processes.signal(left, signal.SIGKILL)
            left = self.processes.tree(job.id, None if job.exited else job.pid)
            if (job.exited and not left) or now > job.give_up_at:
                job.kill_at = job.give_up_at = None
                self.conclude(job)
                return
        self.loop.after(0.005 if now >= job.kill_at else 0.02, lambda: self.press(job) if job.kill_at else None)

    def end_everything(self, reason: str) -> None:
        """Kill all that the agent runs, jobs and leftovers of jobs."""
        for job in self.running():
            if job.reason is None:
                job.reason = reason
            if job.kill_at is None:
                job.kill_at = time.monotonic()
                self.loop.after(0, lambda job=job: self.press(job) if job.kill_at else None)  # type: ignore[misc]
        self.processes.signal_all(signal.SIGKILL)

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

    def forget_old(self) -> None:
        """Drop the oldest outputs and jobs beyond what is kept."""
        kept = sum(job.log.kept for job in self.jobs.values())
        excess = len(self.jobs) - REMEMBERED_JOBS
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


def start_refusal(error: OSError, program: str, folder: str) -> Refusal:
    if error.errno in (errno.EAGAIN, errno.ENOMEM):
        return Refusal("busy", "no process can be started: the sandbox is at its process or memory limit; stop something")
    if error.filename == program:
        return Refusal("misuse", "cannot start %r: %s" % (program, error.strerror))
    return Refusal("misuse", "cannot start %r in %s: %s" % (program, folder, error.strerror))
