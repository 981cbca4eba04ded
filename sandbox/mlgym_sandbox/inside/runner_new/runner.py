"""Everything together: servers, requests, children reaped."""

from __future__ import annotations

import os
import resource
import time


class Runner:
    """Everything together: requests in, replies out, children reaped."""

    def __init__(self, config: Header) -> None:
        self.config = config
        self.loop = Loop()
        self.magic: bytes | None = None
        self.peer: Peer | None = None
        self.heard = time.monotonic()
        self.stopping = False
        self.cpu_s = 0.0
        self.frozen = 0
        self.disk_bytes = 0
        self.disk_time = float("-inf")
        self.watching = False
        self.errands: dict[tuple[int, Any], Errand] = {}
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
        self.loop.watch(self.bell_read, READ, self.reap)

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

    def op_start(self, peer: Peer, header: Header, payload: bytes) -> Header | None:
        folder = self.files.mapped(header.get("cwd") or self.config["workspace"])
        job = self.jobs.start(header, loads(payload), folder, peer)

        def answer() -> Header:
            offset, data = job.log.read(0, header["limit"])
            return dict(job.status(), offset=offset, total=job.log.total, payload=data)

        return self.when_over(job, header["wait_s"], peer, header, answer)

    def op_wait(self, peer: Peer, header: Header, payload: bytes) -> Header | None:
        job = self.jobs.get(header["job"])
        return self.when_over(job, header["timeout_s"], peer, header, job.status)

    def when_over(
        self, job: Job, seconds: float, peer: Peer, header: Header, answer: Callable[[], Header]
    ) -> Header | None:
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

    def op_stop(self, peer: Peer, header: Header, payload: bytes) -> Header | None:
        job = self.jobs.get(header["job"])
        job.gone.append(lambda: peer.send(dict(job.status(), id=header["id"], ok=True)))
        self.jobs.end(job, "stopped", header["grace_s"])
        return None

    def op_jobs(self, peer: Peer, header: Header, payload: bytes) -> Header:
        rows = [job.status() for job in self.jobs.jobs.values()]
        return {"payload": dumps(rows).encode()[:PAYLOAD_LIMIT]}

    def op_kill_all(self, peer: Peer, header: Header, payload: bytes) -> Header | None:
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

    def op_stdin(self, peer: Peer, header: Header, payload: bytes) -> Header | None:
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

    def op_feed(self, peer: Peer, header: Header, payload: bytes) -> Header | None:
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
        partial: Header | None = None,
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

    def op_usage(self, peer: Peer, header: Header, payload: bytes) -> Header | None:
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

    def cgroup_number(self, *names: str) -> int | None:
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
