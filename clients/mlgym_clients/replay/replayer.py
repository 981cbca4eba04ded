"""The agent that plays a recording and compares as it goes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
from mcp import Client

from mlgym_clients.agents.agent import AgentResult, Assignment
from mlgym_clients.agents.calling import Caller, Result
from mlgym_clients.replay.comparing import Comparison, compare_beginnings, compare_scores, compare_texts
from mlgym_clients.replay.masks import JobIds
from mlgym_clients.replay.recording import Recording, Scored, Step
from mlgym_clients.replay.status_lines import body_of

_APART_S = 0.05
"""Between calls that were in flight together, so that they come in the recorded order."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_UNPREPARED = "still being prepared"
_DATA_FILES = re.compile(r"^Files in /data .*$", re.MULTILINE)
"""The line of a task that tells the data, which is not there at once; a replay waits for it."""
_WHOLE = {"offset": 0, "limit": 20_000}


@dataclass(frozen=True, slots=True)
class Compared:
    """One call of a recording, played again.

    Attributes:
        step: the call.
        comparison: how its answer compares.
        text: what the answer was this time.
    """

    step: Step
    comparison: Comparison
    text: str = ""


class Replayer:
    """Makes the calls of one recording again, those together that were in flight together. Plays one session.

    Args:
        recording: what to play.
        on_begin: told of each call as it begins.
        on_end: told of each call as it ends.
    """

    name = "replay"

    def __init__(
        self,
        recording: Recording,
        *,
        on_begin: Callable[[Step], None] | None = None,
        on_end: Callable[[Compared], None] | None = None,
    ) -> None:
        self.recording = recording
        self.compared: dict[int, Compared] = {}
        self._on_begin = on_begin
        self._on_end = on_end
        self._jobs: dict[str, str] = {}
        self._old, self._new = JobIds(), JobIds()
        self._over = anyio.Event()

    def describe(self) -> dict[str, Any]:
        """Return which episode is played."""
        return {"agent": "replay", "episode": self.recording.folder.name, "calls": len(self.recording.made)}

    async def play(self, client: Client, assignment: Assignment = Assignment()) -> AgentResult:  # noqa: B008 - frozen
        """Make the recorded calls.

        Raises:
            ServerLostError: the session's server does not answer.
        """
        caller = Caller(client, on_call=assignment.on_call)
        await self._ready(caller)
        done: dict[int, anyio.Event] = {}
        failures: list[Exception] = []
        async with anyio.create_task_group() as tasks:

            async def one(step: Step) -> None:
                try:
                    await self._make(caller, step)
                except Exception as exc:  # noqa: BLE001 - raised below, not in a group
                    failures.append(exc)
                    tasks.cancel_scope.cancel()
                finally:
                    done[step.seq].set()

            for seq, begins in self.recording.moments:
                step = self.recording.steps[seq]
                if step.skipped:
                    if begins:
                        self._note(Compared(step, Comparison("skipped", step.skipped)))
                elif begins:
                    if any(not event.is_set() for event in done.values()):
                        await anyio.sleep(_APART_S)
                    done[seq] = anyio.Event()
                    tasks.start_soon(one, step)
                else:
                    await done[seq].wait()
        if failures:
            raise failures[0]
        submitted = self._over.is_set()
        return AgentResult(caller.made, "submitted" if submitted else "done", "the recorded calls were made")

    async def _ready(self, caller: Caller) -> None:
        """Wait for the sandbox: a call that comes too early would count."""
        while (await caller.call("status")).structured.get("state") == "preparing":
            await anyio.sleep(0.05)

    async def _make(self, caller: Caller, step: Step) -> None:
        if self._over.is_set():
            self._note(Compared(step, Comparison("different", "not made: this time the episode was over by then")))
            return
        if self._on_begin is not None:
            self._on_begin(step)
        if step.cut_off:
            with anyio.move_on_after(step.seconds):
                await self._call(caller, step)
            self._note(Compared(step, Comparison("skipped", "the episode ended over it")))
            return
        result = await self._call(caller, step)
        self._note(Compared(step, self._compare(step, result), result.text))

    async def _call(self, caller: Caller, step: Step) -> Result:
        """Make one call again, so that what comes after it finds what it found then."""
        if step.tool in ("validate", "submit"):
            result = await caller.score("validate" if step.tool == "validate" else "submit")
            if step.tool == "submit" and result.structured.get("valid"):
                self._over.set()
            return result
        arguments = dict(step.arguments)
        if isinstance(job := arguments.get("job_id"), str):
            arguments["job_id"] = self._jobs.get(job, job)
        result = await caller.call(step.tool, arguments)
        self._learn(step.facts.get("job_id"), result.facts.get("job_id"))
        if step.facts.get("state") not in (None, "running") and result.facts.get("state") == "running":
            job = result.facts["job_id"]
            ended = await caller.finished(result)
            if step.tool == "shell" and not ended.is_error:
                whole = await caller.call("job_output", {"job_id": job, **_WHOLE})
                return Result(whole.text, whole.is_error, ended.facts, {})
            return ended if step.tool != "job_output" else await caller.call(step.tool, arguments)
        if result.refused and await caller.over():
            self._over.set()
        return result

    def _learn(self, old: object, new: object) -> None:
        self._old.see(old)
        self._new.see(new)
        if isinstance(old, str) and isinstance(new, str):
            self._jobs[old] = new

    def _compare(self, step: Step, result: Result) -> Comparison:
        if step.kind == "unknown" and step.score is None:
            return Comparison("skipped", "how it was answered then is not recorded")
        if step.score is not None:
            return compare_scores(step.score, scored(result.structured))
        now = "refused" if result.refused else "error" if result.is_error else "ok"
        old, new = self._old.masked(step.text), self._new.masked(result.text)
        if step.kind != now:
            found = compare_texts(old, new)
            return Comparison("different", f"it was {_WORDS[step.kind]}, and is {_WORDS[now]}", found.diff)
        if step.tool == "job_list":
            return _listed(step, result, old, new)
        if step.tool == "get_task" and _UNPREPARED in step.text:
            old, new = _DATA_FILES.sub("", old), _DATA_FILES.sub("", new)
        if step.tool == "status" and not step.text.startswith(("State: ready", "State: The episode is over")):
            return Comparison("skipped", "the session was still being prepared then")
        if step.tool == "status":  # how much is left, and scores, which are compared where they were given
            old, new = _NUMBER.sub("<number>", old), _NUMBER.sub("<number>", new)
        running = "running" in (step.facts.get("state"), result.facts.get("state"))
        if running or step.tool == "job_stop":
            return compare_beginnings(body_of(old), body_of(new))
        codes = (step.facts.get("exit_code"), result.facts.get("exit_code"))
        if codes[0] != codes[1]:
            found = compare_texts(old, new)
            return Comparison("different", f"the exit code was {codes[0]}, and is {codes[1]}", found.diff)
        exact = compare_texts(old, new)
        if exact.level == "different" and step.tool in ("shell", "job_wait"):
            return _outputs(old, new, exact)
        return exact

    def _note(self, compared: Compared) -> None:
        self.compared[compared.step.seq] = compared
        if self._on_end is not None:
            self._on_end(compared)


_WORDS = {"ok": "carried out", "error": "an error", "refused": "refused", "unknown": "lost"}


def _listed(step: Step, result: Result, old: str, new: str) -> Comparison:
    if step.facts.get("running") or result.facts.get("running"):
        return Comparison("skipped", "what runs is a matter of time")
    return compare_texts(old, new)


def _outputs(old: str, new: str, otherwise: Comparison) -> Comparison:
    """Compare what a job printed where the two answers show it in different ways: whole, or its end, or with a gap."""
    before, after = body_of(old), body_of(new)
    found = compare_texts(before, after)
    if found.level != "different":
        return Comparison("noise", "the same output, shown another way")
    return otherwise


def scored(structured: Mapping[str, Any]) -> Scored:
    """Return the score of a structured answer."""
    valid = structured.get("valid") is True
    return Scored(
        kind=str(structured.get("kind")),
        valid=valid,
        value=structured.get("score") if valid else None,
        se=structured.get("standard_error") if valid else None,
        code=structured.get("code"),
    )
