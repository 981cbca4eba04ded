"""The gate: reads together, changes in order, exclusive alone."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlgym_mcp.session.gate import Gate, Mode

pytestmark = pytest.mark.anyio


class Recorder:
    """Starts calls in an order of its own and lets each end when told."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.started: list[str] = []
        self.running: set[str] = set()
        self.release: dict[str, anyio.Event] = {}

    async def call(self, name: str, mode: Mode) -> None:
        async with self.gate.hold(mode):
            self.started.append(name)
            self.running.add(name)
            await self.release.setdefault(name, anyio.Event()).wait()
            self.running.discard(name)

    def finish(self, name: str) -> None:
        self.release.setdefault(name, anyio.Event()).set()


async def settle() -> None:
    await anyio.wait_all_tasks_blocked()


async def test_reads_run_together_and_beside_a_change() -> None:
    r = Recorder()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for name, mode in (("r1", "shared"), ("w1", "ordered"), ("r2", "shared")):
                tasks.start_soon(r.call, name, mode)
                await settle()
            assert r.running == {"r1", "w1", "r2"}
            for name in ("r1", "w1", "r2"):
                r.finish(name)


async def test_changes_run_one_after_another_in_arrival_order_while_reads_pass() -> None:
    r = Recorder()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for name, mode in (("w1", "ordered"), ("w2", "ordered"), ("w3", "ordered"), ("r1", "shared")):
                tasks.start_soon(r.call, name, mode)
                await settle()
            assert r.running == {"w1", "r1"}
            r.finish("w1")
            await settle()
            assert r.running == {"w2", "r1"}
            for name in ("w2", "w3", "r1"):
                r.finish(name)
    assert [name for name in r.started if name.startswith("w")] == ["w1", "w2", "w3"]


async def test_an_exclusive_call_waits_for_all_in_flight_runs_alone_and_is_not_overtaken() -> None:
    r = Recorder()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for name, mode in (("r1", "shared"), ("w1", "ordered"), ("x", "exclusive"), ("r2", "shared")):
                tasks.start_soon(r.call, name, mode)
                await settle()
            assert r.running == {"r1", "w1"}
            r.finish("r1")
            r.finish("w1")
            await settle()
            assert r.running == {"x"}
            r.finish("x")
            await settle()
            assert r.running == {"r2"}
            r.finish("r2")


async def test_a_waiting_call_that_is_cancelled_does_not_block_the_others() -> None:
    r = Recorder()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(r.call, "r1", "shared")
            await settle()
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as doomed:
                    doomed.start_soon(r.call, "x", "exclusive")
                    await settle()
                    tasks.start_soon(r.call, "r2", "shared")
                    await settle()
                    assert r.running == {"r1"}
                    scope.cancel()
            await settle()
            assert r.running == {"r1", "r2"}
            r.finish("r1")
            r.finish("r2")
    assert r.gate.waiting == 0


@given(st.lists(st.tuples(st.sampled_from(["shared", "ordered", "exclusive"]), st.integers(0, 3)), max_size=12))
def test_the_rules_hold_for_any_order_and_length_of_calls(calls: list[tuple[Mode, int]]) -> None:
    async def play() -> None:
        gate = Gate()
        running: list[Mode] = []
        order: list[int] = []

        async def call(i: int, mode: Mode, steps: int) -> None:
            async with gate.hold(mode):
                running.append(mode)
                assert running.count("ordered") <= 1
                assert "exclusive" not in running or running == ["exclusive"]
                if mode != "shared":
                    order.append(i)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                running.remove(mode)

        async with anyio.create_task_group() as tasks:
            for i, (mode, steps) in enumerate(calls):
                tasks.start_soon(call, i, mode, steps)  # asyncio starts them in this order
        assert order == [i for i, (mode, _) in enumerate(calls) if mode != "shared"]
        assert gate.waiting == 0
        assert not running

    anyio.run(play)
