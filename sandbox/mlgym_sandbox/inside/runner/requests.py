"""What a server can ask for: one method for each operation."""

from __future__ import annotations

import time

from mlgym_sandbox.inside.runner.errands import Errand
from mlgym_sandbox.inside.runner.jobs import WAIT_FOR_DEAD_S
from mlgym_sandbox.inside.runner.native import dumps, loads, signal
from mlgym_sandbox.inside.runner.refusals import Refusal, file_refusal
from mlgym_sandbox.inside.runner.spawning import check_environment
from mlgym_sandbox.inside.runner.wire import PAYLOAD_LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mlgym_sandbox.inside.runner.counters import Counters
    from mlgym_sandbox.inside.runner.disk import Disk
    from mlgym_sandbox.inside.runner.errands import Work
    from mlgym_sandbox.inside.runner.files import Files
    from mlgym_sandbox.inside.runner.job import Job
    from mlgym_sandbox.inside.runner.jobs import Jobs
    from mlgym_sandbox.inside.runner.loop import Loop
    from mlgym_sandbox.inside.runner.peer import Peer
    from mlgym_sandbox.inside.runner.processes import Processes
    from mlgym_sandbox.inside.runner.wire import Header

STORES_NOTHING = frozenset(
    ("ping", "wait", "output", "jobs", "read", "stat", "list", "search", "tar", "environment", "usage")
)
"""After these the workspace takes as much disk as before."""


class Requests:
    """Requests in, replies out. Modules with work for errands are imported when first asked for."""

    def __init__(
        self,
        loop: Loop,
        config: Header,
        processes: Processes,
        files: Files,
        jobs: Jobs,
        disk: Disk,
        counters: Counters,
    ) -> None:
        self.loop, self.config = loop, config
        self.processes, self.files, self.jobs = processes, files, jobs
        self.disk, self.counters = disk, counters
        self.errands: dict[tuple[int, Any], Errand] = {}
        self.frozen = 0

    def forget(self, peer: Peer) -> None:
        """End what is under way for a server that has gone."""
        self.files.abandon(peer=peer)
        for errand in list(self.errands.values()):
            if errand.peer is peer:
                errand.kill()
        self.jobs.orphan_streams(peer)

    def answer(self, peer: Peer, header: Header, payload: bytes) -> None:
        number = header.get("id")
        if header.get("op") not in STORES_NOTHING:
            self.disk.changed = True
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
            self.processes.reap()  # or the next command could find no room for a process
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
        from mlgym_sandbox.inside.runner.listing import list_work

        work = list_work(self.files, header["path"], header["depth"], header["limit"], header["hidden"])
        self.run_errand(peer, header, work)

    def op_search(self, peer: Peer, header: Header, payload: bytes) -> None:
        from mlgym_sandbox.inside.runner.searching import search_work

        # The child watches its own time; a pattern that never returns is killed a second later.
        self.run_errand(peer, header, search_work(self.files, header), extra_s=1.0, partial={"truncated": True})

    def op_tar(self, peer: Peer, header: Header, payload: bytes) -> None:
        from mlgym_sandbox.inside.runner.archive import tar_work

        self.run_errand(peer, header, tar_work(self.files, header), freeze=header["freeze"])

    def op_untar(self, peer: Peer, header: Header, payload: bytes) -> None:
        from mlgym_sandbox.inside.runner.archive import untar_work

        self.run_errand(peer, header, untar_work(self.files, header), fed=True)
        self.disk.watch()

    def op_survey(self, peer: Peer, header: Header, payload: bytes) -> None:
        from mlgym_sandbox.inside.runner.survey import survey_work

        self.run_errand(peer, header, survey_work(self.files, self.processes, header), fed=True, freeze=True)

    def op_rebuild(self, peer: Peer, header: Header, payload: bytes) -> None:
        from mlgym_sandbox.inside.runner.rebuilding import rebuild_work

        self.run_errand(peer, header, rebuild_work(self.files, header), fed=True, freeze=True)
        self.disk.watch()

    def op_shell_state(self, peer: Peer, header: Header, payload: bytes) -> Header:
        """Where the shell was left; ``set`` puts it elsewhere."""
        if header.get("set"):
            self.jobs.shell.move(payload)
        return {"payload": self.jobs.shell.state}

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
            errand.begin(self.loop, self.processes.identity, self.processes, fed)
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

    def op_environment(self, peer: Peer, header: Header, payload: bytes) -> Header:
        """More variables for every command from now on: a sandbox may be made before it is known for whom."""
        given = loads(payload)
        check_environment(given)
        self.config["env"].update(given)
        return {}

    def op_usage(self, peer: Peer, header: Header, payload: bytes) -> Header | None:
        if time.monotonic() - self.disk.time < 1.5 or self.disk.known():
            return self.usage()

        def done(said: Header) -> None:
            peer.send(dict(self.usage(), id=header["id"], ok=True))

        try:
            self.disk.measure(done, header["timeout_s"])
        except Refusal:
            return self.usage()  # at the process limit: with the disk as last seen
        return None

    def usage(self) -> Header:
        return dict(self.counters.usage(), disk_bytes=self.disk.bytes)
