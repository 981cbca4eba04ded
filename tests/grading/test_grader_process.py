"""The referee's process: verdicts come only by the control channel, failures are told apart."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from mlgym_mcp.grading.errors import GraderError

pytestmark = pytest.mark.anyio

GOOD = "id,label\n0,1\n1,0\n"
ACCURACY = """
def grade(ctx):
    found = ctx.predictions("submission.csv", ids=range(2), classes=2)
    right = [int(line) for line in ctx.private("labels.txt").read_text().split()]
    hits = sum(a == b for a, b in zip(found, right))
    return Score({"score": hits / 2}, se={"score": 0.1}, public={"rows": 2}, private={"hits": hits})
"""


def returning(value: str) -> str:
    return f"def grade(ctx):\n    return Score({{'score': {value}}})\n"


async def test_predictions_are_scored(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "labels.txt").write_text("1 1")
    result = await bench.grade(ACCURACY, {"submission.csv": GOOD})
    assert result.valid
    assert result.metrics == {"score": 0.5}
    assert result.se == {"score": 0.1}
    assert (result.public, result.private) == ({"rows": 2}, {"hits": 1})
    assert result.reason is None


async def test_an_invalid_submission_is_no_score_and_says_why(bench: Any) -> None:
    result = await bench.grade(ACCURACY, {"submission.csv": "id,label\n0,1\n1,nan\n"})
    assert not result.valid
    assert result.metrics == {}
    assert result.reason_code == "format"
    assert "line 3" in result.reason
    assert "'nan'" in result.reason


async def test_a_missing_file_is_named(bench: Any) -> None:
    result = await bench.grade(ACCURACY, {"other.csv": GOOD})
    assert (result.valid, result.reason_code) == (False, "missing")
    assert "submission.csv" in result.reason


@pytest.mark.parametrize(
    ("grader", "said"),
    [
        ("def grade(ctx):\n    1 / 0\n", "ZeroDivisionError"),
        ("import nothing_of_that_name\n", "ModuleNotFoundError"),
        ("def grade(ctx):\n    return 0.5\n", "expected a Score"),
        ("def grade(ctx):\n    return Score({'score': float('nan')})\n", "finite"),
        (returning("1.5"), "allows 0 to 1"),
        ("def grade(ctx):\n    return Score({'other': 0.5})\n", "names score"),
        ("import os\ndef grade(ctx):\n    os._exit(0)\n", "exit code 0"),
        ("import os\ndef grade(ctx):\n    os.kill(os.getpid(), 11)\n", "signal 11"),
        ("def grade(ctx):\n    raise SystemExit(0)\n", "SystemExit"),
        ("def grade(ctx):\n    ctx.private('labels.txt')\n", "has no 'labels.txt'"),
        ("def grade(ctx):\n    ctx.private('../x')\n", "without '..'"),
        ("x = 1\n", "AttributeError"),
    ],
)
async def test_a_broken_grader_is_our_error_not_a_verdict(bench: Any, grader: str, said: str) -> None:
    with pytest.raises(GraderError, match=said) as caught:
        await bench.grade(grader, {"submission.csv": GOOD})
    assert caught.value.kind == "grader"


async def test_a_hanging_grader_is_ended_with_all_it_started(bench: Any, tmp_path: Path) -> None:
    bench.timeout_s = 2
    pids = tmp_path / "pids"
    hang = f"""
import os, time
def grade(ctx):
    child = os.fork()
    if child == 0:
        time.sleep(600)
    open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{child}}")
    time.sleep(600)
"""
    with pytest.raises(GraderError, match="did not finish within the 2 seconds"):
        await bench.grade(hang, {"submission.csv": GOOD})
    await gone([int(pid) for pid in pids.read_text().split()])


async def gone(pids: list[int]) -> None:
    with anyio.fail_after(5):
        while any(alive(pid) for pid in pids):
            await anyio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_cancelled_grading_leaves_no_process(bench: Any, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    hang = f"""
import os, time
def grade(ctx):
    open({str(pid) + ".new"!r}, "w").write(str(os.getpid()))
    os.rename({str(pid) + ".new"!r}, {str(pid)!r})
    time.sleep(600)
"""
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bench.grade, hang, {"submission.csv": GOOD})
            while not pid.exists():
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
    await gone([int(pid.read_text())])


async def test_children_of_a_finished_grader_are_ended(bench: Any, tmp_path: Path) -> None:
    fork = f"""
import os, time
def grade(ctx):
    child = os.fork()
    if child == 0:
        time.sleep(600)
    open({str(tmp_path / "pid")!r}, "w").write(str(child))
    return Score({{"score": 1.0}})
"""
    assert (await bench.grade(fork, {"submission.csv": GOOD})).valid
    await gone([int((tmp_path / "pid").read_text())])


async def test_what_a_grader_prints_is_a_bounded_log_and_never_a_result(bench: Any) -> None:
    loud = """
import sys
def grade(ctx):
    for fd in (1, 2):
        open(fd, "wb", closefd=False).write(b'{"op":"score"}' * 200_000)
    print("last words", flush=True)
    return Score({"score": 0.25})
"""
    result = await bench.grade(loud, {"submission.csv": GOOD})
    assert result.metrics == {"score": 0.25}
    assert result.log.endswith("last words\n")
    assert len(result.log) <= 64 * 1024


async def test_the_log_of_a_crash_travels_with_the_error(bench: Any) -> None:
    with pytest.raises(GraderError) as caught:
        await bench.grade("def grade(ctx):\n    print('before')\n    1 / 0\n", {"submission.csv": GOOD})
    assert "before" in caught.value.log
    assert "line 4, in grade" in caught.value.log


async def test_the_referee_has_a_clean_house(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLGYM_SECRET_TOKEN", "hunter2")
    leak = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        look = """
import os, resource, sys
def grade(ctx):
    facts = {
        "env": sorted(os.environ), "session": os.getsid(0) == os.getpid(), "cwd": os.listdir("."),
        "fds": len(os.listdir("/proc/self/fd")), "stdin": os.readlink("/proc/self/fd/0"),
        "argv": "".join(open("/proc/self/cmdline")), "core": resource.getrlimit(resource.RLIMIT_CORE),
        "mcp": any(name.split(".")[0] in ("mcp", "pydantic", "anyio") for name in sys.modules)}
    return Score({"score": 0.0}, private=facts)
"""
        facts = (await bench.grade(look, {"submission.csv": GOOD})).private
    finally:
        os.close(leak)
    assert "MLGYM_SECRET_TOKEN" not in facts["env"]
    assert facts["session"]
    assert facts["cwd"] == []
    assert facts["fds"] == 6  # 0, 1, 2, control, alive, and the listing's own
    assert facts["stdin"] == "/dev/null"
    assert (b"w" * 32).hex() not in facts["argv"]
    assert facts["core"] == [0, 0]
    assert not facts["mcp"]


async def test_seeds_are_paired_within_a_split_and_differ_between_splits(bench: Any) -> None:
    seeds = "def grade(ctx):\n    return Score({'score': 0.0}, private={'s': ctx.seed('a'), 't': ctx.seed('b')})\n"
    val, again, test = [
        (await bench.grade(seeds, {"submission.csv": GOOD}, split)).private for split in ("val", "val", "test")
    ]
    assert val == again
    assert len({val["s"], val["t"], test["s"], test["t"]}) == 4


async def test_progress_reaches_the_server(bench: Any) -> None:
    told: list[tuple[float, str]] = []

    async def note(fraction: float, text: str) -> None:
        told.append((fraction, text))

    report = "def grade(ctx):\n    ctx.progress(0.5, 'half')\n    ctx.progress(7)\n    return Score({'score': 0})\n"
    await bench.grade(report, {"submission.csv": GOOD}, progress=note)
    assert told == [(0.5, "half"), (1.0, "")]


async def test_a_grader_may_import_its_neighbours_but_not_the_servers_packages(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "rules.py").write_text("WORTH = 0.75\n")
    grader = "import rules\ndef grade(ctx):\n    return Score({'score': rules.WORTH})\n"
    assert (await bench.grade(grader, {"submission.csv": GOOD})).metrics == {"score": 0.75}


SERVER = """
import pathlib, sys, anyio
from mlgym_mcp.grading.grader_process import GradeSpec, grade
from mlgym_mcp.grading.snapshot import store_snapshot
folder = pathlib.Path(sys.argv[1])
async def main():
    snapshot = await store_snapshot(sys.stdin.buffer.read(), folder, max_bytes=1000, max_files=10)
    spec = GradeSpec(task="toy", preset="mini", bounds={"score": (0, 1)})
    await grade(folder, spec, "val", snapshot, folder, folder, b"w", python=sys.executable)
anyio.run(main)
"""


async def test_a_referee_dies_when_its_server_is_killed(tmp_path: Path, make_tar: Any) -> None:
    pid = tmp_path / "pid"
    (tmp_path / "grader.py").write_text(f"""
import os, time
def grade(ctx):
    open({str(pid) + ".new"!r}, "w").write(str(os.getpid()))
    os.rename({str(pid) + ".new"!r}, {str(pid)!r})
    time.sleep(600)
""")
    with anyio.fail_after(30):
        command = ["env", f"TMPDIR={tmp_path}", sys.executable, "-c", SERVER, str(tmp_path)]
        async with await anyio.open_process(command, stdout=None, stderr=None) as server:
            assert server.stdin is not None
            await server.stdin.send(make_tar({"a": "b"}))
            await server.stdin.aclose()
            while not pid.exists():
                await anyio.sleep(0.02)
            server.kill()
            await server.wait()
    await gone([int(pid.read_text())])
