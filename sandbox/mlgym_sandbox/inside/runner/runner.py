"""Everything together: servers, requests, children that end."""

from __future__ import annotations

import os
import time

from mlgym_sandbox.inside.runner.confinement import confine
from mlgym_sandbox.inside.runner.connections import Listener, Stdio
from mlgym_sandbox.inside.runner.counters import Counters
from mlgym_sandbox.inside.runner.disk import Disk
from mlgym_sandbox.inside.runner.files import Files
from mlgym_sandbox.inside.runner.identity import Identity
from mlgym_sandbox.inside.runner.jobs import Jobs
from mlgym_sandbox.inside.runner.loop import READ, Loop
from mlgym_sandbox.inside.runner.native import signal
from mlgym_sandbox.inside.runner.processes import Processes
from mlgym_sandbox.inside.runner.requests import Requests

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlgym_sandbox.inside.runner.peer import Peer
    from mlgym_sandbox.inside.runner.wire import Header


class Runner:
    """One runner, from its beginning to its end."""

    def __init__(self, config: Header) -> None:
        self.config = config
        self.loop = Loop()
        self.magic: bytes | None = None
        self.peer: Peer | None = None
        self.heard = time.monotonic()
        self.stopping = False
        confine(config)
        os.makedirs(config["state_dir"], mode=0o700, exist_ok=True)
        self.identity = Identity(config["agent_uid"], config["agent_gid"])
        self.processes = Processes(self.identity, config["kill"] == "everyone")
        self.processes.reap = self.reap
        self.counters = Counters(config, self.processes)
        self.files = Files(config, self.identity)
        self.jobs = Jobs(self.loop, config, self.processes)
        self.disk = Disk(self.loop, config, self.processes, self.files, self.jobs)
        self.files.room = self.disk.need_room
        self.jobs.oom_kills = self.counters.oom_kills
        self.jobs.on_activity = self.disk.watch
        self.requests = Requests(self.loop, config, self.processes, self.files, self.jobs, self.disk, self.counters)
        self.catch_signals()
        if config["transport"] == "stdio":
            Stdio(self)
        else:
            Listener(self, config["listen_fd"])
        self.check_lease()

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
        self.loop.watch(self.bell_read, READ, self.on_bell)

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

    def on_bell(self) -> None:
        try:
            while os.read(self.bell_read, 4096):
                pass
        except BlockingIOError:
            pass
        self.reap()

    def reap(self) -> None:
        """Take note of all children that have ended."""
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
            self.counters.cpu_s += used.ru_utime + used.ru_stime
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
        self.requests.forget(peer)

    def dispatch(self, peer: Peer, header: Header, payload: bytes) -> None:
        self.heard = time.monotonic()
        self.requests.answer(peer, header, payload)
