"""Preparing data: all of it or nothing, once, and for the server's eyes only where hidden."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from mlgym_mcp.catalog import DataError, Task, TaskError, find_prepared, prepare, state
from mlgym_mcp.catalog.prepared import Manifest
from tests.catalog.conftest import GENERATOR, ROOT, TASK

pytestmark = pytest.mark.anyio
PYTHON = Path(sys.executable)


def everything(folder: Path) -> list[str]:
    """Names of all files that are not lock files."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.name.endswith(".lock"))


async def test_data_is_prepared_once_and_found_again(toy: Task) -> None:
    assert state(toy, "mini") == "missing"
    assert find_prepared(toy, "mini") is None
    said: list[tuple[float, str]] = []
    made = await prepare(toy, "mini", python=PYTHON, progress=lambda *words: said.append(words))
    assert said[-1] == (1.0, "the data of toy/mini is ready")
    assert any(text == "half" for _, text in said)
    assert [done for done, _ in said] == sorted(done for done, _ in said)
    assert state(toy, "mini") == "ready"
    assert find_prepared(toy, "mini") == made
    assert made.public_files() == ["deep/data.txt"]
    assert set(made.manifest.private) == {"labels.txt"}
    assert made.verify() == []
    assert Manifest.from_json(json.loads(json.dumps(made.manifest.as_json()))) == made.manifest
    before = made.public.stat().st_ino
    assert (await prepare(toy, "mini", python=PYTHON)).public.stat().st_ino == before


async def test_hidden_things_are_for_nobody_else(toy: Task, mlgym_home: Path) -> None:
    made = await prepare(toy, "mini", python=PYTHON)
    for path in (mlgym_home, *(mlgym_home / name for name in ("data", "vault", "worlds")), made.private.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    assert stat.S_IMODE((made.private / "labels.txt").stat().st_mode) == 0o600
    assert stat.S_IMODE((mlgym_home / "worlds" / "toy").stat().st_mode) == 0o600
    assert stat.S_IMODE(made.public.stat().st_mode) == 0o755
    assert stat.S_IMODE((made.public / "deep" / "data.txt").stat().st_mode) == 0o644
    assert repr(made.world()) not in repr(made)
    assert not made.private.is_relative_to(made.public.parent)


async def test_one_world_gives_the_same_data_and_another_world_other_data(toy: Task, mlgym_home: Path) -> None:
    first = await prepare(toy, "mini", python=PYTHON)
    for part in ("data", "vault"):
        (mlgym_home / part).rename(mlgym_home / f"{part}-away")
    again = await prepare(toy, "mini", python=PYTHON)
    assert again.digest == first.digest
    (mlgym_home / "worlds" / "toy").unlink()
    assert state(toy, "mini") == "missing"
    other = await prepare(toy, "mini", python=PYTHON)
    assert other.digest != first.digest
    assert other.public != first.public


@pytest.mark.parametrize("changed", ["params", "generator"])
async def test_a_changed_recipe_is_prepared_anew(toy: Task, write_toy: Callable[..., Path], changed: str) -> None:
    first = await prepare(toy, "mini", python=PYTHON)
    if changed == "params":
        folder = write_toy(TASK.replace("rows = 50", "rows = 51"))
    else:
        folder = write_toy(generator=GENERATOR + "# changed\n")
    task = Task.load(folder)
    assert state(task, "mini") == "missing"
    second = await prepare(task, "mini", python=PYTHON)
    assert second.public != first.public


@pytest.mark.parametrize("damage", ["file removed", "file grown", "manifest", "vault removed", "link added"])
async def test_broken_data_is_noticed_and_mended(toy: Task, damage: str) -> None:
    made = await prepare(toy, "mini", python=PYTHON)
    victim = made.public / "deep" / "data.txt"
    if damage == "file removed":
        victim.unlink()
    elif damage == "file grown":
        victim.write_text("more than there was before, by far")
    elif damage == "manifest":
        (made.private.parent / "manifest.json").write_text("{")
    elif damage == "vault removed":
        made.private.parent.rename(made.private.parent.with_name("away"))
    else:
        (made.public / "link").symlink_to("/etc/passwd")
    assert state(toy, "mini") == "broken"
    assert find_prepared(toy, "mini") is None
    mended = await prepare(toy, "mini", python=PYTHON)
    assert mended.digest == made.digest
    assert mended.verify() == []


async def test_a_change_that_keeps_the_size_is_found_by_verifying(toy: Task) -> None:
    made = await prepare(toy, "mini", python=PYTHON)
    labels = made.private / "labels.txt"
    labels.write_text(labels.read_text().translate({ord("0"): "1", ord("1"): "0"}))
    assert state(toy, "mini") == "ready"
    assert made.verify() == [f"{labels}: is not what was prepared"]


FAILURES = [
    ("raises", "def build(ctx):\n    print('some help')\n    raise ValueError('no such thing')", "no such thing"),
    ("has no build", "x = 1", "AttributeError"),
    ("is no Python", "this is (", "SyntaxError"),
    ("exits", "import os\ndef build(ctx):\n    os._exit(0)", "it was killed"),
    ("links", "import os\ndef build(ctx):\n    os.symlink('/etc/passwd', ctx.public / 'x')", "neither a regular file"),
    (
        "publishes its labels",
        "def build(ctx):\n    for d in (ctx.public, ctx.private):\n        (d / 'labels').write_text('0110')",
        "published its private file labels",
    ),
    ("asks for an unknown source", "def build(ctx):\n    ctx.source('nope')", "has no source 'nope'"),
]


@pytest.mark.parametrize(("name", "generator", "reason"), FAILURES, ids=[case[0] for case in FAILURES])
async def test_a_generator_that_fails_leaves_nothing(
    write_toy: Callable[..., Path], mlgym_home: Path, name: str, generator: str, reason: str
) -> None:
    task = Task.load(write_toy(generator=generator))
    with pytest.raises(DataError, match=reason):
        await prepare(task, "mini", python=PYTHON)
    assert state(task, "mini") == "missing"
    assert everything(mlgym_home / "data") == ["toy"]
    assert everything(mlgym_home / "vault") == ["toy"]


async def test_a_generator_that_hangs_is_stopped(write_toy: Callable[..., Path], mlgym_home: Path) -> None:
    generator = "def build(ctx):\n    while True: pass"
    task = Task.load(write_toy(TASK.replace('kind = "generated"', 'kind = "generated", timeout_s = 0.7'), generator))
    with anyio.fail_after(30), pytest.raises(DataError, match=r"did not finish within 0\.7 s"):
        await prepare(task, "mini", python=PYTHON)
    assert everything(mlgym_home / "data") == ["toy"]


async def test_an_unknown_preset_makes_nothing(toy: Task, mlgym_home: Path) -> None:
    with pytest.raises(TaskError, match="has no preset"):
        await prepare(toy, "huge", python=PYTHON)
    assert not (mlgym_home / "worlds").exists()


async def test_a_python_that_is_not_there_is_an_error_of_the_data(toy: Task) -> None:
    with pytest.raises(DataError, match="cannot be run with"):
        await prepare(toy, "mini", python=Path("/nonexistent/python"))


async def test_two_at_once_build_once(write_toy: Callable[..., Path], tmp_path: Path) -> None:
    counted = tmp_path / "count"
    generator = GENERATOR + f"    open({str(counted)!r}, 'a').write('x')\n"
    task = Task.load(write_toy(generator=generator))
    digests = []

    async def one() -> None:
        digests.append((await prepare(task, "mini", python=PYTHON)).digest)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(one)
    assert len(set(digests)) == 1
    assert counted.read_text() == "x"


async def test_a_cancelled_preparation_leaves_nothing(
    write_toy: Callable[..., Path], mlgym_home: Path, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    task = Task.load(write_toy(generator=slow_generator(pid_file)))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: prepare(task, "mini", python=PYTHON))
        pid = await written(pid_file)
        tasks.cancel_scope.cancel()
    assert everything(mlgym_home / "data") == ["toy"]
    assert everything(mlgym_home / "vault") == ["toy"]
    await gone(pid)


async def test_a_killed_preparation_leaves_nothing_that_counts_and_can_be_done_again(
    write_toy: Callable[..., Path], mlgym_home: Path, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    folder = write_toy(generator=slow_generator(pid_file))
    program = (
        "import anyio, sys\nfrom pathlib import Path\nfrom mlgym_mcp.catalog import Task, prepare\n"
        "task = Task.load(Path(sys.argv[1]))\n"
        "anyio.run(lambda: prepare(task, 'mini', python=Path(sys.executable)))"
    )
    server = subprocess.Popen([sys.executable, "-c", program, str(folder)], cwd=ROOT)
    try:
        pid = await written(pid_file)
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
    task = Task.load(folder)
    assert state(task, "mini") == "missing"
    assert find_prepared(task, "mini") is None
    await gone(pid)
    (folder / "generator.py").write_text(GENERATOR)
    made = await prepare(Task.load(folder), "mini", python=PYTHON)
    assert made.verify() == []
    assert not [name for name in everything(mlgym_home) if "partial" in name], "what the killed one left is removed"


def slow_generator(pid_file: Path) -> str:
    return (
        "import os, time\nfrom pathlib import Path\n"
        "def build(ctx):\n    (ctx.public / 'half').write_text('half')\n"
        f"    part = Path({str(pid_file)!r} + '.part')\n    part.write_text(str(os.getpid()))\n"
        f"    part.rename({str(pid_file)!r})\n    time.sleep(60)\n"
    )


async def written(path: Path) -> int:
    with anyio.fail_after(30):
        while not path.exists():
            await anyio.sleep(0.02)
    return int(path.read_text())


async def gone(pid: int) -> None:
    """Wait for a process to end; a zombie has."""
    with anyio.fail_after(10):
        while True:
            try:
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    return
                os.kill(pid, 0)
            except (ProcessLookupError, FileNotFoundError):
                return
            await anyio.sleep(0.02)
