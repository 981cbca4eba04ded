"""The one long-lived program inside a sandbox: runs commands and touches files for a server outside.

One file, standard library only, Python 3.9 or newer, started as ``python3 -I -S -B -c TEXT`` (or from a file)
and configured by the environment variable ``MLGYM_RUNNER``. One thread, one loop over a selector.

It is PID 1 where the sandbox has its own pid namespace. Where it can, it has another uid than the commands,
so that they can neither signal it nor reach its descriptors; it takes the agent's uid for everything it does
on the agent's behalf. Nothing a command prints is ever read as protocol: output is payload, counted and kept.

Sections: wire, loop, identity, processes, output, feeding, jobs, files, errands, connections, runner.
"""

# ruff: noqa: D102, D103, N818 - a program, not a library: comments where a name does not say it all

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
from functools import partial
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
                try:
                    header = json.loads(bytes(self.buffer[4 : 4 + length]))
                except RecursionError:
                    raise ValueError("header nested too deep") from None
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
        timeout = min(max(0.0, self.timers[0][0] - time.monotonic()), 3600.0) if self.timers else None
        for key, _ in self.selector.select(timeout):
            if self.selector.get_map().get(key.fd) is key:  # else: an earlier callback of this turn changed it
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
        # With the time of its own ended children; those that ended under it are nowhere else yet.
        self.cpu_s = sum(map(int, fields[11:15])) / CLOCK_TICKS
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

    def __init__(self, folder: str, limit: int, make_room: Callable[[], bool]) -> None:
        self.head = limit * 3 // 4
        self.ring = limit - self.head
        self.total = 0
        self.make_room = make_room
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
        while True:
            try:
                self.put(at, data)
                return
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self.make_room():
                    self.stuck = min(at, self.head)
                    return

    def put(self, at: int, data: bytes) -> None:
        if at < self.head:
            part = data[: self.head - at]
            pwrite_all(self.fd, part, at)
            at, data = at + len(part), data[len(part) :]
        if len(data) > self.ring:
            at, data = at + len(data) - self.ring, data[-self.ring :]
        while data:
            place = (at - self.head) % self.ring
            part = data[: self.ring - place]
            pwrite_all(self.fd, part, self.head + place)
            at, data = at + len(part), data[len(part) :]

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


def pwrite_all(fd: int, data: bytes, at: int) -> None:
    while data:
        sent = os.pwrite(fd, data, at)
        data, at = data[sent:], at + sent


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

SAVE_STATE = r"""trap '{ export -p; printf "cd -- %q\n:\n" "$PWD"; } >&OUT 2>/dev/null' EXIT"""
LOAD_STATE = (
    'IFS= read -r -d "" -u IN __m; __j=$MLGYM_JOB; eval "$__m" 2>/dev/null; '
    'export MLGYM_JOB=$__j; [ "$PWD" -ef . ] || cd -P . 2>/dev/null; unset __m __j; exec IN<&-'
)
STATE_END = b"\n:\n"


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
        """Set from the decision to end the job until nothing of it is left."""
        self.give_up_at: Optional[float] = None
        self.look: Optional[Timer] = None
        self.gone: List[Callable[[], None]] = []
        """Called when nothing of the job is left; ``waiting`` when the job is over."""
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

    @property
    def leader(self) -> Optional[int]:
        """The first process's number, while it cannot belong to another."""
        return None if self.over else self.pid

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
        # Every job that runs or is remembered holds descriptors of the runner, which has the commands' limit.
        self.running_limit = min(RUNNING_LIMIT, max(1, config["nofile"] // 8))
        self.remembered = min(REMEMBERED_JOBS, max(1, config["nofile"] // 4))
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
        keep: List[int] = []
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
        self.loop.watch(output_read, selectors.EVENT_READ, lambda: self.drain(job))
        if peer is not None:
            job.peer, job.stdin, job.stdout_fd = peer, Feeder(self.loop, stdin_write), stdout_read
            os.set_blocking(stdout_read, False)
            self.loop.watch(stdout_read, selectors.EVENT_READ, lambda: self.forward(job))

    # --- shell state

    def with_state(self, command: str, env: Dict[str, str], cwd: Optional[str], keep: List[int]) -> List[str]:
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


def enter(folder: str, identity: Identity) -> None:
    """Change to a folder as the agent: the runner may have no right to enter a private one."""
    try:
        with identity:
            os.chdir(folder)
    except OSError as error:
        raise Refusal("file", "the working directory %s cannot be entered: %s" % (folder, error.strerror)) from None


def state_file(content: bytes) -> int:
    """An unnamed file of fixed size, sealed: a job cannot fill memory through it."""
    fd = os.memfd_create("state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, STATE_BYTES)
    os.pwrite(fd, content, 0)
    fcntl.fcntl(fd, 1033, 0x1 | 0x2 | 0x4)  # F_ADD_SEALS: SEAL, SHRINK, GROW
    return fd


def check_command(argv: List[str], environment: Dict[str, str]) -> None:
    if not argv or not argv[0]:
        raise Refusal("misuse", "the command is empty")
    for name in environment:
        if not name or "=" in name:
            raise Refusal("misuse", "%r is no name of an environment variable" % name)
    for text in itertools.chain(argv, environment, environment.values()):
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


# --------------------------------------------------------------------------------------------------- files


def file_refusal(error: OSError, shown: str) -> Refusal:
    reasons = {
        errno.ENOENT: "does not exist",
        errno.EACCES: "may not be accessed: permission denied",
        errno.EPERM: "may not be accessed: not permitted",
        errno.EROFS: "is on a read-only file system",
        errno.ENOSPC: "cannot be written: no space is left",
        errno.EDQUOT: "cannot be written: the disk quota is used up",
        errno.EFBIG: "cannot be written: it would be larger than the file size limit",
        errno.ENOTDIR: "cannot be reached: a part of its path is not a directory",
        errno.EISDIR: "is a directory",
        errno.ELOOP: "cannot be reached: too many symbolic links",
        errno.ENAMETOOLONG: "has a name that is too long",
    }
    why = reasons.get(error.errno or 0, "failed: %s" % error.strerror)
    return Refusal("file", "%s %s" % (shown, why))


def kind_of(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "dir"
    return "link" if stat.S_ISLNK(mode) else "other"


def need_regular(mode: int, shown: str) -> None:
    if stat.S_ISREG(mode):
        return
    names = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    what = next((name for test, name in names if test(mode)), "something else")
    raise Refusal("file", "%s is %s, not a regular file" % (shown, what))


class Upload:
    """A file being written in several pieces, under a temporary name until the last."""

    def __init__(self, fd: int, temporary: str, target: str, peer: Peer) -> None:
        self.fd, self.temporary, self.target, self.peer = fd, temporary, target, peer


class Files:
    """Files as the agent may see and change them."""

    def __init__(self, config: Header, identity: Identity) -> None:
        self.identity = identity
        self.workspace: str = config["workspace"]
        self.map: Dict[str, str] = config["path_map"]
        self.read_only = [self.mapped(path) for path in config["read_only"]]
        self.proc = os.stat("/proc").st_dev
        self.uploads: Dict[str, Upload] = {}
        self.room: Callable[[int], None] = lambda size: None

    def mapped(self, path: Any) -> str:
        """The real path of what the agent calls ``path``; relative ones are below the workspace."""
        if not isinstance(path, str) or not path or "\0" in path:
            raise Refusal("file", "%r is no path" % (path,))
        whole: str = os.path.join(self.workspace, path)
        if self.map:
            whole = os.path.normpath(whole)
            for prefix, folder in self.map.items():
                if whole == prefix or whole.startswith(prefix + "/"):
                    return folder + whole[len(prefix) :]
        return whole

    def real(self, path: str) -> str:
        """Follow all links, and refuse what leads through /proc: its links reach into the runner itself."""
        todo = [part for part in self.mapped(path).split("/") if part not in ("", ".")][::-1]
        done, links = "/", 0
        while todo:
            part = todo.pop()
            if part == "..":
                done = os.path.dirname(done)
                continue
            step = os.path.join(done, part)
            try:
                info = os.lstat(step)
            except FileNotFoundError:
                return os.path.join(step, *todo[::-1])
            if info.st_dev == self.proc:
                raise Refusal("file", "%s leads into /proc, which is not for file operations; use a command" % path)
            if stat.S_ISLNK(info.st_mode):
                links += 1
                if links > 40:
                    raise OSError(errno.ELOOP, "too many symbolic links")
                target = os.readlink(step)
                if target.startswith("/"):
                    done = "/"
                todo += [piece for piece in target.split("/") if piece not in ("", ".")][::-1]
            else:
                done = step
        return done

    def read(self, path: str, offset: int, limit: int) -> Tuple[int, bytes]:
        with self.identity:
            real = self.real(path)
            need_regular(os.lstat(real).st_mode, path)
            fd = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            info = os.fstat(fd)
            need_regular(info.st_mode, path)
            return info.st_size, os.pread(fd, limit, offset)
        finally:
            os.close(fd)

    def describe(self, path: str) -> List[Any]:
        with self.identity:
            info = os.lstat(self.real(path))
        return [path, kind_of(info.st_mode), info.st_size, info.st_mtime]

    def write(self, header: Header, data: bytes, peer: Peer) -> None:
        """Write a whole file or one piece of it."""
        path: str = header["path"]
        part: str = header.get("part", "")
        last = bool(header.get("last", True))
        self.room(len(data))
        with self.identity:
            upload = self.uploads.pop(part, None) if part else None
            if upload is None:
                upload = self.begin(path, header["append"], peer)
            try:
                write_all(upload.fd, data)
                if last and upload.temporary:
                    os.rename(upload.temporary, upload.target)
                    upload.temporary = ""
            except BaseException:
                self.discard(upload)
                raise
            if last or not part:
                self.discard(upload)
            else:
                self.uploads[part] = upload

    def begin(self, path: str, append: bool, peer: Peer) -> Upload:
        real = self.real(path)
        for folder in self.read_only:
            if real == folder or real.startswith(folder + "/"):
                raise Refusal("file", "%s is read-only; write below %s instead" % (path, self.workspace))
        if path.endswith("/"):
            raise Refusal("file", "%s names a directory, not a file" % path)
        mode = None
        try:
            info = os.lstat(real)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(real), exist_ok=True)
        else:
            need_regular(info.st_mode, path)
            mode = stat.S_IMODE(info.st_mode)
            try:
                os.close(os.open(real, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
            except OSError as error:
                if error.errno != errno.ETXTBSY:  # a running program may be replaced, not changed
                    raise
        flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        if append:
            return Upload(os.open(real, flags | os.O_APPEND, 0o644), "", real, peer)
        temporary = os.path.join(os.path.dirname(real), ".%s.part" % os.urandom(8).hex())
        fd = os.open(temporary, flags | os.O_EXCL, 0o644)
        if mode is not None:
            os.fchmod(fd, mode)
        return Upload(fd, temporary, real, peer)

    def discard(self, upload: Upload) -> None:
        os.close(upload.fd)
        if upload.temporary:
            with self.identity:
                try:
                    os.unlink(upload.temporary)
                except OSError:
                    pass

    def abandon(self, part: Optional[str] = None, peer: Optional[Peer] = None) -> None:
        """Forget unfinished uploads: one by name, or all of a server that has gone."""
        for name, upload in list(self.uploads.items()):
            if name == part or upload.peer is peer:
                self.discard(self.uploads.pop(name))


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


# ------------------------------------------------------------------------------------------------- errands

Work = Callable[[int, int], Header]


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
        self.feeder: Optional[Feeder] = None
        self.fds: List[int] = []
        self.timer: Optional[Timer] = None
        self.peer: Optional[Peer] = None
        self.late = False

    def begin(self, loop: Loop, identity: Identity, processes: Processes, fed: bool) -> None:
        out_read, out_write = os.pipe()
        said_read, said_write = os.pipe()
        in_read, in_write = os.pipe() if fed else (os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1)
        try:
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
        loop.watch(out_read, selectors.EVENT_READ, lambda: self.on_payload(out_read))
        loop.watch(said_read, selectors.EVENT_READ, lambda: self.on_verdict(said_read))
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
            write_all(said_fd, json.dumps(verdict).encode()[:HEADER_LIMIT])
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
            self.loop.watch(fd, selectors.EVENT_READ, lambda: self.on_payload(fd))

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
            verdict = json.loads(self.verdict)
        except ValueError:
            why = "took longer than %g s" % self.seconds if self.late else "was killed"
            verdict = {"ok": False, "kind": "late" if self.late else "busy", "message": "the operation %s" % why}
        self.done(verdict)


def sorted_entries(folder: str) -> List[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def plain(name: str) -> str:
    """A file name as text that can go into JSON and UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def list_work(files: Files, path: str, depth: int, limit: int, hidden: bool) -> Work:
    def work(_: int, out_fd: int) -> Header:
        top = files.real(path)
        lines: List[bytes] = []
        left = limit

        def add(name: str, info: os.stat_result) -> None:
            row = [plain(name), kind_of(info.st_mode), info.st_size, info.st_mtime]
            lines.append(json.dumps(row).encode() + b"\n")

        def walk(folder: str, prefix: str, level: int) -> bool:
            nonlocal left
            for entry in sorted_entries(folder):
                if not hidden and entry.name.startswith("."):
                    continue
                if left <= 0:
                    return True
                try:
                    info = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                left -= 1
                add(prefix + entry.name, info)
                if level > 1 and stat.S_ISDIR(info.st_mode):
                    try:
                        if walk(entry.path, prefix + entry.name + "/", level - 1):
                            return True
                    except OSError:
                        pass  # not permitted, or too deep: its name is all there is to see
            return False

        try:
            info = os.lstat(top)
            truncated = False
            if stat.S_ISDIR(info.st_mode):
                truncated = walk(top, "", depth)
            else:
                add(os.path.basename(top), info)
        except OSError as error:
            raise file_refusal(error, path) from None
        write_all(out_fd, b"".join(lines))
        return {"truncated": truncated}

    return work


def search_work(files: Files, header: Header) -> Work:
    def work(_: int, out_fd: int) -> Header:
        path: str = header["path"]
        glob: str = header["glob"] or ""
        limit: int = header["limit"]
        try:
            wanted = re.compile(header["pattern"], re.IGNORECASE if header["ignore_case"] else 0)
        except (re.error, RecursionError, OverflowError) as error:
            raise Refusal("misuse", "%r is not a regular expression: %s" % (header["pattern"], error)) from None
        name_wanted = re.compile(glob_expression(glob)) if glob else None
        end: float = time.monotonic() + header["timeout_s"]
        counts = {"files": 0, "found": 0}

        def look(real: str, shown: str) -> bool:
            """Search one file; true when it is time to stop."""
            fd = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                if not stat.S_ISREG(os.fstat(fd).st_mode) or b"\0" in file.read(8192):
                    return False
                file.seek(0)
                counts["files"] += 1
                number = 0
                whole = True
                for raw in iter(lambda: file.readline(65536), b""):
                    number += whole
                    whole = raw.endswith(b"\n")
                    text = raw.decode("utf-8", "replace").rstrip("\r\n")
                    if wanted.search(text):
                        if counts["found"] >= limit:
                            return True
                        counts["found"] += 1
                        write_all(out_fd, json.dumps([plain(shown), number, text[:400]]).encode() + b"\n")
                    if number % 256 == 0 and time.monotonic() > end:
                        return True
            return time.monotonic() > end

        def walk(folder: str, prefix: str) -> bool:
            for entry in sorted_entries(folder):
                shown = prefix + entry.name
                try:
                    if entry.is_dir(follow_symlinks=False):
                        stop = walk(entry.path, shown + "/")
                    elif not entry.is_file(follow_symlinks=False):
                        continue
                    elif name_wanted and not name_wanted.fullmatch(shown if "/" in glob else entry.name):
                        continue
                    else:
                        stop = look(entry.path, shown)
                except OSError:
                    continue  # not readable: nothing to find
                if stop or time.monotonic() > end:
                    return True
            return False

        top = files.real(path)
        try:
            if stat.S_ISDIR(os.lstat(top).st_mode):
                truncated = walk(top, "")
            else:
                need_regular(os.lstat(top).st_mode, path)
                truncated = look(top, os.path.basename(top))
        except OSError as error:
            raise file_refusal(error, path) from None
        return {"truncated": truncated, "files": counts["files"]}

    return work


def glob_expression(glob: str) -> str:
    """A glob as a regular expression: ``*`` and ``?`` stay within a name, ``**`` crosses folders."""
    text, at = "", 0
    while at < len(glob):
        if glob.startswith("**/", at):
            text, at = text + "(?:.*/)?", at + 3
        elif glob.startswith("**", at):
            text, at = text + ".*", at + 2
        elif glob[at] == "*":
            text, at = text + "[^/]*", at + 1
        elif glob[at] == "?":
            text, at = text + "[^/]", at + 1
        elif glob[at] == "[" and "]" in glob[at + 2 :]:
            close = glob.index("]", at + 2)
            inside = glob[at + 1 : close].replace("\\", "\\\\").replace("[", "\\[")
            text, at = text + "[" + ("^" + inside[1:] if inside[0] in "!^" else inside) + "]", close + 1
        else:
            text, at = text + re.escape(glob[at]), at + 1
    return "(?s:%s)" % text


class TarSelection:
    """The regular files and folders that globs name; anything else that they name is refused."""

    def __init__(self, root: str, max_bytes: int, max_files: int) -> None:
        self.root, self.max_bytes, self.max_files = root, max_bytes, max_files
        self.chosen: Dict[str, os.stat_result] = {}
        self.total = 0

    def add(self, pattern: str) -> None:
        pieces = [piece for piece in pattern.split("/") if piece not in ("", ".")]
        if pattern.startswith("/") or ".." in pieces or not pieces:
            raise Refusal("misuse", "%r is no path or glob relative to the workspace" % pattern)
        self.expand("", pieces)

    def expand(self, folder: str, pieces: List[str]) -> None:
        piece, rest = pieces[0], pieces[1:]
        if piece == "**":
            if rest:
                self.expand(folder, rest)
            for name in self.names(folder):
                info = self.look(name)
                if info is None:
                    continue
                if not rest:
                    self.take(name, info)
                elif stat.S_ISDIR(info.st_mode):
                    self.expand(name, pieces)
            return
        plain_name = not any(mark in piece for mark in "*?[")
        wanted = re.compile(glob_expression(piece))
        names = [os.path.join(folder, piece)] if plain_name else self.names(folder)
        for name in names:
            info = self.look(name) if plain_name or wanted.fullmatch(os.path.basename(name)) else None
            if info is None:
                continue
            if not rest:
                self.take(name, info)
            elif stat.S_ISDIR(info.st_mode):
                self.expand(name, rest)
            elif stat.S_ISLNK(info.st_mode):
                self.refuse(name, info)

    def names(self, folder: str) -> List[str]:
        names = sorted(os.listdir(os.path.join(self.root, folder)))
        return [os.path.join(folder, name) for name in names]

    def look(self, name: str) -> Optional[os.stat_result]:
        try:
            return os.lstat(os.path.join(self.root, name))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def take(self, name: str, info: os.stat_result) -> None:
        if name in self.chosen:
            return
        if plain(name) != name:
            raise Refusal("tar", "the name of %s is not UTF-8; rename it" % plain(name))
        if len(self.chosen) >= self.max_files:
            raise Refusal(
                "tar", "more than %d files and directories are to be copied, from %s on" % (self.max_files, name)
            )
        if stat.S_ISDIR(info.st_mode):
            self.chosen[name] = info
            for inner in self.names(name):
                found = self.look(inner)
                if found is not None:
                    self.take(inner, found)
            return
        if not stat.S_ISREG(info.st_mode):
            self.refuse(name, info)
        self.chosen[name] = info
        self.total += info.st_size
        if self.total > self.max_bytes:
            raise Refusal("tar", "more than %d bytes are to be copied, with %s" % (self.max_bytes, name))

    @staticmethod
    def refuse(name: str, info: os.stat_result) -> None:
        what = "a symbolic link" if stat.S_ISLNK(info.st_mode) else "a pipe, socket or device"
        raise Refusal("tar", "%s is %s; only regular files and directories can be copied" % (plain(name), what))


class Trickle:
    """The file object that tarfile wants, over a descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write(self, data: bytes) -> int:
        write_all(self.fd, data)
        return len(data)

    def read(self, size: int) -> bytes:
        parts = []
        while size > 0:
            part = os.read(self.fd, min(size, CHUNK))
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class Exactly:
    """A file read as exactly so many bytes, whatever happens to it meanwhile."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd, self.left = fd, size

    def read(self, size: int) -> bytes:
        size = min(size, self.left)
        data = os.read(self.fd, size)
        self.left -= size
        while len(data) < size:
            more = os.read(self.fd, size - len(data))
            data += more or bytes(size - len(data))
        return data


def tar_work(files: Files, header: Header) -> Work:
    def work(_: int, out_fd: int) -> Header:
        import tarfile

        selection = TarSelection(files.real(files.workspace), header["max_bytes"], header["max_files"])
        for pattern in header["patterns"]:
            selection.add(pattern)
        sink: Any = Trickle(out_fd)
        with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for name in sorted(selection.chosen):
                info = selection.chosen[name]
                member = tarfile.TarInfo(name)
                member.mode, member.mtime = stat.S_IMODE(info.st_mode) & 0o777, int(info.st_mtime)
                if stat.S_ISDIR(info.st_mode):
                    member.type = tarfile.DIRTYPE
                    archive.addfile(member)
                    continue
                try:
                    fd = os.open(
                        os.path.join(selection.root, name),
                        os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC,
                    )
                except OSError as error:
                    raise file_refusal(error, name) from None
                try:
                    now = os.fstat(fd)
                    if not stat.S_ISREG(now.st_mode):
                        selection.refuse(name, now)
                    member.size = info.st_size
                    content: Any = Exactly(fd, info.st_size)
                    archive.addfile(member, content)
                finally:
                    os.close(fd)
        return {"files": len(selection.chosen), "bytes": selection.total}

    return work


def untar_work(files: Files, header: Header) -> Work:
    def work(in_fd: int, _: int) -> Header:
        import tarfile

        os.umask(0o022)
        path = header["path"]
        root = files.real(path)
        for folder in files.read_only:
            if root == folder or root.startswith(folder + "/"):
                raise Refusal("file", "%s is read-only" % path)
        origin: Any = Trickle(in_fd)
        try:
            archive = tarfile.open(fileobj=origin, mode="r|")
            for member in archive:
                pieces = [piece for piece in member.name.split("/") if piece not in ("", ".")]
                if member.name.startswith("/") or ".." in pieces:
                    raise Refusal("tar", "%r is a name outside the directory to unpack in" % member.name)
                target = os.path.join(root, *pieces)
                if member.isdir():
                    os.makedirs(target, exist_ok=True)
                elif not member.isreg():
                    raise Refusal("tar", "%r is a link or a device; only files and directories are taken" % member.name)
                else:
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    source = archive.extractfile(member)
                    assert source is not None
                    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                    fd = os.open(target, flags, 0o644)
                    try:
                        need_regular(os.fstat(fd).st_mode, member.name)
                        for data in iter(partial(source.read, CHUNK), b""):
                            write_all(fd, data)
                        os.fchmod(fd, member.mode & 0o777 | 0o600)
                    finally:
                        os.close(fd)
        except tarfile.TarError as error:
            raise Refusal("tar", "what was to be unpacked is no sound tar archive: %s" % error) from None
        while os.read(in_fd, CHUNK):
            pass  # the padding after the end
        return {}

    return work


def measure_work(files: Files, processes: Processes, paths: List[str]) -> Work:
    """Bytes on disk below some folders, with deleted files that a process still holds open."""

    def work(_: int, __: int) -> Header:
        total = 0
        seen: Set[Tuple[int, int]] = set()
        devices: Set[int] = set()
        opened: List[Tuple[str, int]] = []

        def add(info: os.stat_result) -> None:
            nonlocal total
            if info.st_nlink != 1:
                key = (info.st_dev, info.st_ino)
                if key in seen:
                    return
                seen.add(key)
            total += info.st_blocks * 512

        todo = [files.mapped(path) for path in paths]
        for path in todo:
            try:
                devices.add(os.stat(path).st_dev)
            except OSError:
                pass
        while todo:
            folder = todo.pop()
            try:
                entries = sorted_entries(folder)
            except PermissionError:
                try:  # the agent's own: what it has hidden counts as well
                    opened.append((folder, stat.S_IMODE(os.lstat(folder).st_mode)))
                    os.chmod(folder, 0o700)
                    entries = sorted_entries(folder)
                except OSError:
                    continue
            except OSError:
                continue
            for entry in entries:
                try:
                    info = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                add(info)
                if stat.S_ISDIR(info.st_mode) and info.st_dev in devices:
                    todo.append(entry.path)
        for folder, mode in reversed(opened):
            try:
                os.chmod(folder, mode)
            except OSError:
                pass
        for pid in processes.table():
            try:
                held = os.listdir("/proc/%d/fd" % pid)
            except OSError:
                continue
            for fd in held:
                try:
                    info = os.stat("/proc/%d/fd/%s" % (pid, fd))
                except OSError:
                    continue
                if info.st_nlink == 0 and info.st_dev in devices and stat.S_ISREG(info.st_mode):
                    add(info)
        return {"disk_bytes": total}

    return work


# --------------------------------------------------------------------------------------------- connections


class Peer:
    """The server at the other end, for as long as it is the one that is listened to."""

    def __init__(self, loop: Loop, fd: int, lost: Callable[[], None]) -> None:
        self.loop, self.fd, self.lost = loop, fd, lost
        self.alive = True
        self.pending = 0
        self.queue: collections.deque[memoryview] = collections.deque()
        self.when_drained: List[Callable[[], None]] = []

    def send(self, header: Header, payload: bytes = b"") -> None:
        if self.alive:
            self.raw(encode(header, payload))

    def raw(self, data: bytes) -> None:
        self.queue.append(memoryview(data))
        self.pending += len(data)
        if len(self.queue) == 1:
            self.flush()

    def flush(self) -> None:
        try:
            while self.queue:
                sent = os.write(self.fd, self.queue[0])
                self.pending -= sent
                if sent < len(self.queue[0]):
                    self.queue[0] = self.queue[0][sent:]
                else:
                    self.queue.popleft()
            self.loop.unwatch(self.fd)
        except BlockingIOError:
            self.loop.watch(self.fd, selectors.EVENT_WRITE, self.flush)
        except OSError:
            self.loop.unwatch(self.fd)
            self.queue.clear()
            self.pending = 0
            self.lost()
        if self.pending <= BACKLOG // 4 and self.when_drained:
            actions, self.when_drained = self.when_drained, []
            for action in actions:
                action()

    def retire(self) -> None:
        """Send nothing more to it."""
        self.alive = False
        self.loop.unwatch(self.fd)
        self.queue.clear()
        self.pending = 0
        actions, self.when_drained = self.when_drained, []
        for action in actions:
            action()


class Stdio:
    """Frames on descriptors 0 and 1, which outlive every server; each new one announces itself by the magic."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.loop = runner, runner.loop
        self.read_fd = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
        self.write_fd = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        os.set_blocking(self.read_fd, False)
        os.set_blocking(self.write_fd, False)
        self.tail = b""
        self.first = b""
        self.decoder: Optional[Decoder] = None
        self.listen()

    def listen(self) -> None:
        self.loop.watch(self.read_fd, selectors.EVENT_READ, self.on_bytes)

    def on_bytes(self) -> None:
        try:
            data = os.read(self.read_fd, CHUNK)
        except BlockingIOError:
            return
        if not data:  # nobody is attached; a later server may be
            self.loop.unwatch(self.read_fd)
            self.loop.after(0.5, self.listen)
            return
        magic = self.runner.magic
        if magic is None:
            self.first += data
            if len(self.first) < MAGIC_BYTES:
                return
            self.runner.magic, data = self.first[:MAGIC_BYTES], self.first[MAGIC_BYTES:]
            self.greet()
        else:
            data = self.rest_of_magic(data, magic)
            seen = self.tail + data
            at = seen.rfind(magic)
            if at >= 0:
                self.feed(data[: max(0, at - len(self.tail))])
                data = seen[at + MAGIC_BYTES :]
                self.tail = b""
                self.greet()
        self.tail = (self.tail + data)[-(MAGIC_BYTES - 1) :]
        self.feed(data)

    def rest_of_magic(self, data: bytes, magic: bytes) -> bytes:
        """Wait a moment for the rest when the bytes seem to break off within the magic.

        Else its beginning could complete a frame that a dead server left unfinished.
        """
        for size in range(min(len(data), MAGIC_BYTES - 1), 0, -1):
            if data.endswith(magic[:size]):
                try:
                    if selectors_wait(self.read_fd, 0.005):
                        data += os.read(self.read_fd, CHUNK)
                except BlockingIOError:
                    pass
                break
        return data

    def greet(self) -> None:
        self.decoder = Decoder()
        peer = Peer(self.loop, self.write_fd, lambda: None)
        self.runner.adopt(peer)

    def feed(self, data: bytes) -> None:
        peer = self.runner.peer
        if self.decoder is None or peer is None:
            return
        try:
            for header, payload in self.decoder.feed(data):
                self.runner.dispatch(peer, header, payload)
        except ValueError:
            self.decoder = None  # deaf until the next magic


def selectors_wait(fd: int, seconds: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        return bool(selector.select(seconds))


class Listener:
    """An inherited listening unix socket; the latest server that knows the magic is the one listened to."""

    def __init__(self, runner: Runner, fd: int) -> None:
        self.runner, self.loop = runner, runner.loop
        self.socket = socket.socket(fileno=fd)
        self.socket.setblocking(False)
        os.set_inheritable(fd, False)
        self.loop.watch(fd, selectors.EVENT_READ, self.accept)

    def accept(self) -> None:
        try:
            link, _ = self.socket.accept()
        except OSError:
            return
        link.setblocking(False)
        Link(self.runner, link)


class Link:
    """One accepted connection."""

    def __init__(self, runner: Runner, link: socket.socket) -> None:
        self.runner, self.loop, self.socket = runner, runner.loop, link
        self.first = b""
        self.decoder = Decoder()
        self.peer: Optional[Peer] = None
        self.write_fd = -1
        self.loop.watch(link.fileno(), selectors.EVENT_READ, self.on_bytes)
        self.loop.after(10.0, lambda: self.close() if self.peer is None else None)

    def on_bytes(self) -> None:
        try:
            data = self.socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        if self.peer is None:
            self.first += data
            if len(self.first) < MAGIC_BYTES:
                return
            magic, data = self.first[:MAGIC_BYTES], self.first[MAGIC_BYTES:]
            if self.runner.magic is None:
                self.runner.magic = magic
            if magic != self.runner.magic:
                self.close()
                return
            self.write_fd = os.dup(self.socket.fileno())  # read and write are watched apart
            self.peer = Peer(self.loop, self.write_fd, self.close)
            self.runner.adopt(self.peer)
        try:
            for header, payload in self.decoder.feed(data):
                if not self.peer.alive:
                    break
                self.runner.dispatch(self.peer, header, payload)
        except ValueError:
            self.close()
            return
        if not self.peer.alive:
            self.close()

    def close(self) -> None:
        if self.socket.fileno() < 0:
            return
        self.loop.unwatch(self.socket.fileno())
        self.socket.close()
        if self.peer is not None:
            self.runner.forget(self.peer)
            os.close(self.write_fd)


# -------------------------------------------------------------------------------------------------- runner


class Runner:
    """Everything together: requests in, replies out, children reaped."""

    def __init__(self, config: Header) -> None:
        self.config = config
        self.loop = Loop()
        self.magic: Optional[bytes] = None
        self.peer: Optional[Peer] = None
        self.heard = time.monotonic()
        self.stopping = False
        self.cpu_s = 0.0
        self.frozen = 0
        self.disk_bytes = 0
        self.disk_time = float("-inf")
        self.watching = False
        self.errands: Dict[Tuple[int, Any], Errand] = {}
        everyone = config["kill"] == "everyone"
        if not everyone:
            prctl(PR_SET_CHILD_SUBREAPER, 1)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        prctl(PR_SET_DUMPABLE, 0)
        os.umask(0o022)
        os.makedirs(config["state_dir"], mode=0o700, exist_ok=True)
        self.set_limits()
        self.identity = Identity(config["agent_uid"], config["agent_gid"])
        self.processes = Processes(self.identity, everyone)
        self.files = Files(config, self.identity)
        self.files.room = self.need_room
        self.jobs = Jobs(self.loop, config, self.identity, self.processes)
        self.jobs.oom_kills = self.oom_kills
        self.jobs.on_activity = self.watch_disk
        self.catch_signals()
        if config["transport"] == "stdio":
            Stdio(self)
        else:
            Listener(self, config["listen_fd"])
        self.check_lease()

    def set_limits(self) -> None:
        """Inherited by every command."""
        wanted = {
            resource.RLIMIT_NOFILE: self.config["nofile"],
            resource.RLIMIT_NPROC: self.config["nproc"],
            resource.RLIMIT_FSIZE: self.config["fsize_bytes"],
            resource.RLIMIT_CORE: 0,
        }
        for what, value in wanted.items():
            if value is not None:
                hard = resource.getrlimit(what)[1]
                value = value if hard == resource.RLIM_INFINITY else min(value, hard)
                resource.setrlimit(what, (value, value))

    def catch_signals(self) -> None:
        self.bell_read, bell_write = os.pipe()
        os.set_blocking(self.bell_read, False)
        os.set_blocking(bell_write, False)
        signal.set_wakeup_fd(bell_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # PID 1 is sent nothing that it does not handle. Commands of the same uid could send SIGTERM, so then
        # it is not handled either, and only the outside can end the sandbox.
        if self.identity.uid is not None or self.processes.own != 1:
            signal.signal(signal.SIGTERM, self.on_term)
        self.loop.watch(self.bell_read, selectors.EVENT_READ, self.reap)

    def on_term(self, *_: object) -> None:
        self.stopping = True

    def serve(self) -> None:
        while not self.stopping:
            self.loop.turn()
        self.processes.signal_all(signal.SIGKILL)

    def check_lease(self) -> None:
        if time.monotonic() - self.heard > self.config["ttl_s"]:
            self.stopping = True
        self.loop.after(min(30.0, self.config["ttl_s"] / 4 + 0.05), self.check_lease)

    def reap(self) -> None:
        try:
            while os.read(self.bell_read, 4096):
                pass
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.processes.errands:
                self.processes.errands.discard(pid)
                continue
            self.cpu_s += used.ru_utime + used.ru_stime
            self.jobs.reaped(pid, status)

    # --- servers

    def adopt(self, peer: Peer) -> None:
        """Listen to this server from now on, and to no other."""
        before = self.peer
        if before is not None:
            self.forget(before)
            before.lost()
        self.peer = peer
        self.heard = time.monotonic()
        peer.raw(self.magic or b"")

    def forget(self, peer: Peer) -> None:
        if not peer.alive:
            return
        peer.retire()
        if self.peer is peer:
            self.peer = None
        self.files.abandon(peer=peer)
        for errand in list(self.errands.values()):
            if errand.peer is peer:
                errand.kill()
        self.jobs.orphan_streams(peer)

    def dispatch(self, peer: Peer, header: Header, payload: bytes) -> None:
        self.heard = time.monotonic()
        number = header.get("id")
        try:
            handler = getattr(self, "op_%s" % header.get("op"), None)
            if handler is None:
                raise Refusal("misuse", "the sandbox knows no operation %r" % (header.get("op"),))
            answer = handler(peer, header, payload)
        except Refusal as refusal:
            answer = {"ok": False, "kind": refusal.kind, "message": str(refusal)}
        except OSError as error:
            said = file_refusal(error, str(header.get("path") or error.filename or "the file"))
            answer = {"ok": False, "kind": "file", "message": str(said)}
        except UnicodeError:
            answer = {"ok": False, "kind": "misuse", "message": "the request holds text that is not Unicode"}
        except Exception as problem:
            answer = {
                "ok": False,
                "kind": "internal",
                "message": "the sandbox failed at %r: %r" % (header.get("op"), problem),
            }
        if answer is not None and number is not None:
            body = answer.pop("payload", b"")
            answer.setdefault("ok", True)
            answer["id"] = number
            peer.send(answer, body)

    # --- operations: jobs

    def op_ping(self, peer: Peer, header: Header, payload: bytes) -> Header:
        return {}

    def op_start(self, peer: Peer, header: Header, payload: bytes) -> Optional[Header]:
        folder = self.files.mapped(header.get("cwd") or self.config["workspace"])
        job = self.jobs.start(header, json.loads(payload), folder, peer)

        def answer() -> Header:
            offset, data = job.log.read(0, header["limit"])
            return dict(job.status(), offset=offset, total=job.log.total, payload=data)

        return self.when_over(job, header["wait_s"], peer, header, answer)

    def op_wait(self, peer: Peer, header: Header, payload: bytes) -> Optional[Header]:
        job = self.jobs.get(header["job"])
        return self.when_over(job, header["timeout_s"], peer, header, job.status)

    def when_over(
        self, job: Job, seconds: float, peer: Peer, header: Header, answer: Callable[[], Header]
    ) -> Optional[Header]:
        """Answer when the job is over, at the latest after ``seconds``."""
        if job.over or seconds <= 0:
            return answer()

        def reply() -> None:
            timer.cancel()
            if reply in job.waiting:
                job.waiting.remove(reply)
            said = dict(answer(), id=header["id"], ok=True)
            peer.send(said, said.pop("payload", b""))

        timer = self.loop.after(seconds, reply)
        job.waiting.append(reply)
        return None

    def op_output(self, peer: Peer, header: Header, payload: bytes) -> Header:
        job = self.jobs.get(header["job"])
        offset, data = job.log.read(header["offset"], min(header["limit"], PAYLOAD_LIMIT))
        return {"offset": offset, "total": job.log.total, "payload": data}

    def op_stop(self, peer: Peer, header: Header, payload: bytes) -> Optional[Header]:
        job = self.jobs.get(header["job"])
        job.gone.append(lambda: peer.send(dict(job.status(), id=header["id"], ok=True)))
        self.jobs.end(job, "stopped", header["grace_s"])
        return None

    def op_jobs(self, peer: Peer, header: Header, payload: bytes) -> Header:
        rows = [job.status() for job in self.jobs.jobs.values()]
        return {"payload": json.dumps(rows).encode()[:PAYLOAD_LIMIT]}

    def op_kill_all(self, peer: Peer, header: Header, payload: bytes) -> Optional[Header]:
        self.jobs.end_everything("stopped")
        end = time.monotonic() + WAIT_FOR_DEAD_S

        def look() -> None:
            if (self.jobs.running() or self.processes.table()) and time.monotonic() < end:
                self.processes.signal_all(signal.SIGKILL)
                self.loop.after(0.01, look)
                return
            peer.send({"id": header["id"], "ok": True})

        look()
        return None

    def op_stdin(self, peer: Peer, header: Header, payload: bytes) -> Optional[Header]:
        job = self.jobs.get(header["job"])
        if job.stdin is None:
            raise Refusal("misuse", "job %s was not started as a stream" % job.id)
        job.stdin.put(payload, lambda taken: peer.send({"id": header["id"], "ok": True, "taken": taken}))
        return None

    def op_close_stdin(self, peer: Peer, header: Header, payload: bytes) -> Header:
        job = self.jobs.get(header["job"])
        if job.stdin is not None:
            job.stdin.finish()
        return {}

    def op_credit(self, peer: Peer, header: Header, payload: bytes) -> None:
        job = self.jobs.jobs.get(header["job"])
        if job is not None and job.peer is peer:
            job.credit += header["bytes"]
            self.jobs.resume(job)

    # --- operations: files

    def op_read(self, peer: Peer, header: Header, payload: bytes) -> Header:
        total, data = self.files.read(header["path"], header["offset"], min(header["limit"], PAYLOAD_LIMIT))
        return {"total": total, "payload": data}

    def op_write(self, peer: Peer, header: Header, payload: bytes) -> Header:
        self.files.write(header, payload, peer)
        return {}

    def op_stat(self, peer: Peer, header: Header, payload: bytes) -> Header:
        return {"entry": self.files.describe(header["path"])}

    def op_list(self, peer: Peer, header: Header, payload: bytes) -> None:
        work = list_work(self.files, header["path"], header["depth"], header["limit"], header["hidden"])
        self.run_errand(peer, header, work)

    def op_search(self, peer: Peer, header: Header, payload: bytes) -> None:
        # The child watches its own time; a pattern that never returns is killed a second later.
        self.run_errand(peer, header, search_work(self.files, header), extra_s=1.0, partial={"truncated": True})

    def op_tar(self, peer: Peer, header: Header, payload: bytes) -> None:
        self.run_errand(peer, header, tar_work(self.files, header), freeze=header["freeze"])

    def op_untar(self, peer: Peer, header: Header, payload: bytes) -> None:
        self.run_errand(peer, header, untar_work(self.files, header), fed=True)
        self.watch_disk()

    def op_feed(self, peer: Peer, header: Header, payload: bytes) -> Optional[Header]:
        errand = self.errands.get((id(peer), header["target"]))
        if errand is None or errand.feeder is None:
            return {"taken": False}
        errand.feeder.put(payload, lambda taken: peer.send({"id": header["id"], "ok": True, "taken": taken}))
        return None

    def op_feed_end(self, peer: Peer, header: Header, payload: bytes) -> Header:
        errand = self.errands.get((id(peer), header["target"]))
        if errand is not None and errand.feeder is not None:
            errand.feeder.finish()
        return {}

    def op_abandon(self, peer: Peer, header: Header, payload: bytes) -> None:
        if "part" in header:
            self.files.abandon(header["part"])
        errand = self.errands.get((id(peer), header.get("target")))
        if errand is not None:
            errand.kill()

    def run_errand(
        self,
        peer: Peer,
        header: Header,
        work: Work,
        *,
        fed: bool = False,
        freeze: bool = False,
        extra_s: float = 0.0,
        partial: Optional[Header] = None,
    ) -> None:
        """Fork a child for ``work`` and pass on what it says; ``partial``: what to say when time ran out."""
        number = header["id"]
        key = (id(peer), number)

        def deliver(data: bytes) -> None:
            peer.send({"id": number, "ok": True, "more": True}, data)

        def done(verdict: Header) -> None:
            del self.errands[key]
            if freeze:
                self.thaw()
            if verdict.get("kind") == "late" and partial is not None:
                verdict = dict(partial, ok=True)
            peer.send(dict(verdict, id=number))

        errand = Errand(header["timeout_s"] + extra_s, work, deliver, done)
        errand.peer = peer
        if freeze:
            self.freeze()
        try:
            errand.begin(self.loop, self.identity, self.processes, fed)
        except BaseException:
            if freeze:
                self.thaw()
            raise
        self.errands[key] = errand

    def freeze(self) -> None:
        self.frozen += 1
        if self.frozen == 1:
            self.processes.signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self.frozen -= 1
        if self.frozen == 0:
            self.processes.signal_all(signal.SIGCONT)

    # --- operations: the whole

    def op_usage(self, peer: Peer, header: Header, payload: bytes) -> Optional[Header]:
        if time.monotonic() - self.disk_time < 1.5:
            return self.usage()

        def done(said: Header) -> None:
            self.measured(said)
            peer.send(dict(self.usage(), id=header["id"], ok=True))

        try:
            self.measure(done, header["timeout_s"])
        except Refusal:
            return self.usage()  # at the process limit: with the disk as last seen
        return None

    def usage(self) -> Header:
        table = self.processes.table()
        memory = self.cgroup_number("memory.current", "memory/memory.usage_in_bytes")
        cpu_s = self.cpu_s + sum(process.cpu_s for process in table.values())
        # The kernel also counts those whose parents do not want to know of their end.
        counted = self.cgroup_number("cpu.stat", "cpuacct/cpuacct.usage", "cpu,cpuacct/cpuacct.usage")
        if counted is not None:
            cpu_s = max(cpu_s, counted / 1e9)
        return {
            "cpu_s": cpu_s,
            "memory_bytes": sum(process.resident for process in table.values()) if memory is None else memory,
            "processes": len(table),
            "disk_bytes": self.disk_bytes,
            "oom_kills": self.oom_kills(),
        }

    def cgroup_number(self, *names: str) -> Optional[int]:
        for name in names if self.config["cgroup_dir"] else ():
            try:
                words = read_file(os.path.join(self.config["cgroup_dir"], name)).split()
                return int(words[1]) * 1000 if words[0] == b"usage_usec" else int(words[0])
            except (OSError, ValueError, IndexError):
                continue
        return None

    def oom_kills(self) -> int:
        """The kernel's count of processes that it killed here for want of memory."""
        for name in ("memory.events", "memory/memory.oom_control"):
            try:
                if self.config["oom_fd"] is not None:
                    text = os.pread(self.config["oom_fd"], 4096, 0)
                elif self.config["cgroup_dir"]:
                    text = read_file(os.path.join(self.config["cgroup_dir"], name))
                else:
                    return 0
                for line in text.splitlines():
                    if line.startswith(b"oom_kill "):
                        return int(line.split()[1])
            except (OSError, ValueError, IndexError):
                continue
        return 0

    # --- disk

    def measure(self, done: Callable[[Header], None], seconds: float = 60.0) -> None:
        work = measure_work(self.files, self.processes, self.config["disk_paths"])
        Errand(seconds, work, lambda data: None, done).begin(self.loop, self.identity, self.processes, False)

    def measured(self, said: Header) -> None:
        if "disk_bytes" in said:
            self.disk_bytes, self.disk_time = said["disk_bytes"], time.monotonic()

    def need_room(self, size: int) -> None:
        """Refuse to write beyond the storage limit, as far as the last measurement tells."""
        limit = self.config["storage_bytes"]
        if limit is None:
            return
        if self.disk_bytes + size > limit:
            raise Refusal("file", "no space is left: %d of %d bytes are used" % (self.disk_bytes, limit))
        self.disk_bytes += size
        self.watch_disk()

    def watch_disk(self) -> None:
        """Measure every second or so while anything runs, and kill all when there is too much and more of it."""
        if self.config["storage_bytes"] is None or self.watching:
            return
        self.watching = True
        self.loop.after(1.0, self.look_at_disk)

    def look_at_disk(self) -> None:
        begun, before = time.monotonic(), self.disk_bytes

        def done(said: Header) -> None:
            self.measured(said)
            if self.disk_bytes > self.config["storage_bytes"] and self.disk_bytes > before:
                self.jobs.end_everything("disk")
            if self.jobs.running() or self.processes.table():
                self.loop.after(max(1.0, 5 * (time.monotonic() - begun)), self.look_at_disk)
            else:
                self.watching = False

        try:
            self.measure(done)
        except Refusal:
            self.loop.after(1.0, self.look_at_disk)


def read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def read_config() -> Header:
    """Take the configuration out of the environment; what is not in it has the defaults of ``inside``."""
    config: Header = {
        "listen_fd": None,
        "agent_uid": None,
        "agent_gid": None,
        "kill": "everyone",
        "ttl_s": 3600.0,
        "state_dir": "/run/mlgym",
        "workspace": "/workspace",
        "path_map": {},
        "read_only": ["/data"],
        "env": {},
        "output_bytes": 16 << 20,
        "storage_bytes": None,
        "disk_paths": ["/workspace", "/tmp"],
        "oom_fd": None,
        "cgroup_dir": "/sys/fs/cgroup",
        "nofile": 4096,
        "nproc": None,
        "fsize_bytes": None,
    }
    config.update(json.loads(os.environ.pop("MLGYM_RUNNER")))
    defaults = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": config["workspace"],
        "DATA_DIR": "/data",
        "LANG": "C.UTF-8",
    }
    config["env"] = dict(defaults, **config["env"])
    if config["agent_uid"] is not None and config["agent_gid"] is None:
        config["agent_gid"] = config["agent_uid"]
    if config["oom_fd"] is not None:
        os.set_inheritable(config["oom_fd"], False)
    return config


def main() -> None:
    os.chdir("/")
    Runner(read_config()).serve()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
