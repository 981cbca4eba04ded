"""A sandbox in which nothing happens does not measure its disk again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from mlgym_sandbox.inside.runner import disk as module
from mlgym_sandbox.inside.runner.disk import Disk
from mlgym_sandbox.inside.runner.requests import Requests


class Processes:
    """What runs, as a test wants it."""

    def __init__(self) -> None:
        self.identity = None
        self.errands: set[int] = set()
        self.running: dict[int, object] = {}

    def table(self) -> dict[int, object]:
        return self.running


class Errand:
    """A measurement that ends when the test says so."""

    begun: ClassVar[list[Errand]] = []

    def __init__(self, seconds: float, work: object, deliver: object, done: Callable[[dict[str, Any]], None]) -> None:
        self.done = done

    def begin(self, *_: object) -> None:
        self.begun.append(self)

    def end(self, disk_bytes: int) -> None:
        self.done({"ok": True, "disk_bytes": disk_bytes})


class Counters:
    def usage(self) -> dict[str, Any]:
        return {}


class Peer:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        self.told.append(header)


@pytest.fixture
def processes() -> Processes:
    return Processes()


@pytest.fixture
def requests(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> Requests:
    monkeypatch.setattr(module, "Errand", Errand)
    monkeypatch.setattr(module, "measure_work", lambda *_: None)
    monkeypatch.setattr(module.time, "monotonic", iter(range(0, 10_000, 10)).__next__)
    Errand.begun = []
    anything: Any = None
    disk = Disk(anything, {"disk_paths": (), "storage_bytes": None}, processes, anything, anything)  # type: ignore[arg-type]
    return Requests(anything, {}, processes, anything, anything, disk, Counters())  # type: ignore[arg-type]


def ask(requests: Requests, op: str = "usage") -> Peer:
    peer = Peer()
    requests.answer(peer, {"id": 1, "op": op, "timeout_s": 5}, b"")  # type: ignore[arg-type]
    return peer


def measured(requests: Requests, disk_bytes: int) -> None:
    """Have a measurement take place."""
    peer, begun = ask(requests), Errand.begun[-1]
    begun.end(disk_bytes)
    assert peer.told[-1]["disk_bytes"] == disk_bytes


def test_it_is_measured_once_while_nothing_happens(requests: Requests) -> None:
    measured(requests, 7)
    ask(requests, "ping")
    assert ask(requests).told[-1]["disk_bytes"] == 7
    assert len(Errand.begun) == 1


@pytest.mark.parametrize("op", ["start", "write", "untar", "rebuild", "kill_all", "an operation of a later version"])
def test_it_is_measured_after_what_may_have_stored_something(requests: Requests, op: str) -> None:
    measured(requests, 7)
    ask(requests, op)
    measured(requests, 8)


def test_it_is_measured_once_more_when_what_ran_has_ended(requests: Requests, processes: Processes) -> None:
    processes.running = {5: object()}
    measured(requests, 7)
    measured(requests, 8)
    processes.running = {}
    measured(requests, 9)
    assert ask(requests).told[-1]["disk_bytes"] == 9
    assert len(Errand.begun) == 3


def test_what_is_written_during_a_measurement_is_measured_anew(requests: Requests) -> None:
    ask(requests)
    ask(requests, "write")
    Errand.begun[-1].end(7)
    measured(requests, 8)


def test_a_measurement_that_failed_is_made_again(requests: Requests) -> None:
    ask(requests)
    Errand.begun[-1].done({"ok": False, "kind": "busy"})
    measured(requests, 8)
