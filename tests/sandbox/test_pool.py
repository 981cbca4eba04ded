"""The warm pool: what it hands out is new, whole and the asker's alone, whatever happens to what waits in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from mlgym_sandbox import Backend, Check, Found, Sandbox, SandboxSpec
from mlgym_sandbox.errors import SandboxError, SandboxLostError
from mlgym_sandbox.pool import LABEL, WarmPool
from tests.sandbox.conftest import Place, run

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def running(pool: WarmPool) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pool.run)
        await anyio.wait_all_tasks_blocked()
        yield
        tasks.cancel_scope.cancel()


async def filled(pool: WarmPool, count: int) -> None:
    with anyio.fail_after(60):
        while pool.ready != count:
            await anyio.sleep(0.01)


async def pooled(backend: Backend) -> list[str]:
    return [found.name for found in await backend.find({LABEL: "1"})]


# ---------------------------------------------------------------------- with real sandboxes


async def test_a_pooled_sandbox_becomes_the_askers_and_stays_it(place: Place) -> None:
    pool = WarmPool(1, labels=lambda: {"owner": "this server"})
    backend = pool.over(place.backend)
    async with running(pool):
        async with await backend.create(place.spec(env={"SEED": "1"})) as cold:
            assert not cold.name.startswith("mlgym-warm")
            await filled(pool, 1)
            (waiting,) = await place.backend.find({LABEL: "1", "owner": "this server"})
            assert waiting.running
        wanted = place.spec(env={"SEED": "7"}, labels={"session": "seven", "owner": "seven's server"})
        async with await backend.create(wanted) as warm:
            assert warm.name == waiting.name
            assert (await run(warm, 'echo "$SEED"; ls -A; cat "$DATA_DIR/train.csv"'))[1] == "7\nid,label\n1,2\n"
            (found,) = await place.backend.find({"session": "seven"})
            assert (found.name, dict(found.labels)) == (warm.name, dict(wanted.labels))
            assert waiting.name not in await pooled(place.backend)
            again = await place.backend.attach(warm.name)  # a later server
            assert (await run(again, 'echo "$SEED"'))[1] == "7\n"
            await again.detach()
            await filled(pool, 1)
        assert await place.backend.find({"session": "seven"}) in ([], ())
    assert await pooled(place.backend) == []


async def test_what_one_asker_did_is_not_seen_by_the_next(place: Place) -> None:
    pool = WarmPool(1)
    backend = pool.over(place.backend)
    names = set()
    async with running(pool):
        for _ in range(3):
            async with await backend.create(place.spec()) as sandbox:
                assert (await run(sandbox, "cat secret 2>/dev/null; echo mine > secret"))[1] == ""
                assert len(await sandbox.jobs()) == 1
                names.add(sandbox.name)
                await filled(pool, 1)
    assert len(names) == 3


async def test_one_that_died_waiting_is_not_handed_out(place: Place) -> None:
    pool = WarmPool(1)
    backend = pool.over(place.backend)
    async with running(pool):
        async with await backend.create(place.spec()):
            await filled(pool, 1)
        (dead,) = await pooled(place.backend)
        await place.backend.remove(dead)
        async with await backend.create(place.spec()) as sandbox:
            assert sandbox.name != dead
            assert (await run(sandbox, "echo well"))[1] == "well\n"


async def test_an_environment_that_cannot_be_is_refused_and_nothing_is_left(place: Place) -> None:
    sandbox = await place.backend.create(place.spec())
    async with sandbox:
        for name, value in (("", "x"), ("A=B", "x"), ("A", "nul \0"), ("A", "x" * (1 << 18))):
            with pytest.raises(SandboxError):
                await sandbox.set_environment({name: value})
        assert (await run(sandbox, "echo ${A-unset}"))[1] == "unset\n"
    with pytest.raises(SandboxLostError):
        await place.backend.relabel(sandbox.name, {"a": "b"})


# ---------------------------------------------------------------------- with any backend


class Box:
    """What the pool needs of a sandbox."""

    def __init__(self, spec: SandboxSpec) -> None:
        self.name, self.spec = spec.name, spec
        self.env: Mapping[str, str] = {}
        self.closed = False
        self.hangs = self.dies = False
        self.stays = 0

    async def set_environment(self, env: Mapping[str, str]) -> None:
        if self.hangs:
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()
        self.env = env

    async def untar(self, data: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        if self.dies:
            raise SandboxLostError("it died at once")

    async def ping(self, timeout_s: float = 1.0) -> float:
        await anyio.lowlevel.checkpoint()
        return 0.0

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.stays:
            self.stays -= 1
            raise SandboxError("the engine is away")
        self.closed = True


class Boxes(Backend):
    """A backend of which everything can be seen, and which fails when told to."""

    name = "boxes"

    def __init__(self) -> None:
        self.made: list[Box] = []
        self.fails = 0
        self.tries = 0
        self.stillborn = False

    async def create(self, spec: SandboxSpec) -> Sandbox:
        await anyio.lowlevel.checkpoint()
        self.tries += 1
        if self.fails:
            self.fails -= 1
            raise SandboxError("no memory")
        self.made.append(Box(spec))
        self.made[-1].dies, self.stillborn = self.stillborn, False
        return cast("Sandbox", self.made[-1])

    async def relabel(self, name: str, labels: Mapping[str, str]) -> None:
        await anyio.lowlevel.checkpoint()

    async def probe(self) -> Sequence[Check]:
        return [Check("boxes", True, "work")]

    async def find(self, labels: Mapping[str, str]) -> Sequence[Found]:
        return []

    async def attach(self, name: str) -> Sandbox:
        raise SandboxLostError(name)

    async def remove(self, name: str) -> None:
        pass

    def waiting(self) -> list[Box]:
        return [box for box in self.made if LABEL in box.spec.labels and not box.closed]


def spec(number: int = 0, **changes: Any) -> SandboxSpec:
    return SandboxSpec(**{"name": f"s{number}", "image": "i", **changes})


async def test_what_cannot_be_removed_while_the_engine_is_away_is_removed_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mlgym_sandbox.pool._RETRY_S", (0.01, 1.0))
    boxes, pool = Boxes(), WarmPool(1)
    async with running(pool):
        await pool.over(boxes).create(spec(1))
        await filled(pool, 1)
        (lost,) = boxes.waiting()
        lost.hangs, lost.stays = True, 2
        monkeypatch.setattr("mlgym_sandbox.pool._HAND_OUT_S", 0.01)
        await pool.over(boxes).create(spec(2))
        with anyio.fail_after(10):
            while not lost.closed:
                await anyio.sleep(0.01)


async def test_many_askers_at_once_never_get_the_same_one() -> None:
    boxes, pool = Boxes(), WarmPool(3)
    backend = pool.over(boxes)
    got: list[Any] = []

    async def ask(number: int) -> None:
        got.append(await backend.create(spec(number, env={"N": str(number)})))

    async with running(pool):
        await ask(0)
        await filled(pool, 3)
        async with anyio.create_task_group() as tasks:
            for number in range(1, 20):
                tasks.start_soon(ask, number)
        await filled(pool, 3)
        assert len({id(box) for box in got}) == 20
        assert len([box for box in got if box.name.startswith("mlgym-warm")]) == 3
    assert all(box.closed == (box not in got) for box in boxes.made)  # what was handed out lives on


async def test_kinds_are_not_mixed_and_those_long_not_asked_for_make_room() -> None:
    boxes, pool = Boxes(), WarmPool(1, kinds=2)
    backend = pool.over(boxes)
    async with running(pool):
        for image in ("one", "two"):
            await backend.create(spec(image=image))
        await filled(pool, 2)
        one = cast("Box", await backend.create(spec(image="one")))
        assert one.spec.image == "one"
        assert one.name.startswith("mlgym-warm")
        await filled(pool, 2)
        await backend.create(spec(image="three"))  # "two" makes room
        with anyio.fail_after(10):
            while sorted(box.spec.image for box in boxes.waiting() if box is not one) != ["one", "three"]:
                await anyio.sleep(0.01)


async def test_a_sandbox_with_gpus_is_never_pooled() -> None:
    boxes, pool = Boxes(), WarmPool(2)
    backend = pool.over(boxes)
    async with running(pool):
        await backend.create(spec(gpus=("GPU-1",)))
        await backend.create(spec())
        await filled(pool, 2)
        assert all(not box.spec.gpus for box in boxes.waiting())
        taken = cast("Box", await backend.create(spec(gpus=("GPU-1",))))
        assert not taken.name.startswith("mlgym-warm")


async def test_a_backend_that_fails_is_not_asked_again_at_once_and_asking_works_meanwhile(
    caplog: pytest.LogCaptureFixture,
) -> None:
    boxes, pool = Boxes(), WarmPool(1)
    backend = pool.over(boxes)
    async with running(pool):
        await backend.create(spec())
        boxes.fails = 1
        with anyio.fail_after(10):
            while boxes.fails:
                await anyio.sleep(0.01)
        await backend.create(spec(1))
        await anyio.wait_all_tasks_blocked()
        assert (boxes.tries, pool.ready) == (3, 0)
    assert "no memory" in caplog.text


async def test_one_that_dies_before_it_is_ready_is_removed() -> None:
    boxes, pool = Boxes(), WarmPool(1)
    backend = pool.over(boxes)
    async with running(pool):
        await backend.create(spec())
        boxes.stillborn = True
        with anyio.fail_after(10):
            while len(boxes.made) < 2 or not boxes.made[1].closed:
                await anyio.sleep(0.01)
        assert pool.ready == 0


async def test_one_that_hangs_when_handed_out_costs_a_while_and_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlgym_sandbox.pool._HAND_OUT_S", 0.1)
    boxes, pool = Boxes(), WarmPool(1)
    backend = pool.over(boxes)
    async with running(pool):
        await backend.create(spec())
        await filled(pool, 1)
        (hung,) = boxes.waiting()
        hung.hangs = True
        assert cast("Box", await backend.create(spec(1))).name == "s1"
        with anyio.fail_after(10):
            while not hung.closed:
                await anyio.sleep(0.01)


async def test_an_asker_who_leaves_while_being_served_leaves_nothing() -> None:
    boxes, pool = Boxes(), WarmPool(1)
    backend = pool.over(boxes)
    got: list[Any] = []

    async def ask(number: int) -> None:
        got.append(await backend.create(spec(number)))

    async with running(pool):
        await ask(0)
        for steps in range(8):
            await filled(pool, 1)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, steps + 1)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
        assert 1 < len(got) < 9  # some were served before they left
    assert [box for box in boxes.made if not box.closed] == got


async def test_a_pool_of_none_is_no_pool() -> None:
    boxes, pool = Boxes(), WarmPool(0)
    assert pool.over(boxes) is boxes
    await pool.run()
    with pytest.raises(ValueError, match="negative"):
        WarmPool(-1)
