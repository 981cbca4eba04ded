"""Prepared Python environments: built whole or not at all, once, and usable by anybody."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from mlgym_sandbox import environment
from mlgym_sandbox.environment import PreparationError

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLGYM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of lock files with one package of our own, which needs no index."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "answer.py").write_text("def answer() -> int:\n    return 42\n")
    info = package / "answer-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: answer\nVersion: 1.0\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    (info / "entry_points.txt").write_text("[console_scripts]\nanswer = answer:answer\n")
    (info / "RECORD").write_text("answer.py,,\n" + "".join(f"answer-1.0.dist-info/{n},,\n" for n in os.listdir(info)))
    wheel = tmp_path / "answer-1.0-py3-none-any.whl"
    subprocess.run([sys.executable, "-m", "zipfile", "-c", wheel, *package.iterdir()], check=True, cwd=package)
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "tiny.txt").write_text(f"answer @ file://{wheel}\n")
    (folder / "broken.txt").write_text(f"gone @ file://{tmp_path}/gone-1.0-py3-none-any.whl\n")
    monkeypatch.setattr(environment, "images", lambda: folder)
    return folder


async def test_the_bare_environment_is_made_in_an_instant_and_runs(home: Path) -> None:
    assert environment.find("bare") is None
    made = await environment.prepare("bare")
    assert made == environment.find("bare")
    assert made.path.parent == home / "environments"
    done = subprocess.run([made.python, "-I", "-c", "import sys; print(sys.prefix)"], capture_output=True, check=True)
    assert done.stdout.decode().strip() == str(made.path)
    assert made.base_prefix == Path(sys.base_prefix).resolve()
    assert environment.installed() == (made,)


async def test_packages_are_installed_compiled_movable_and_readable_by_all(locks: Path) -> None:
    lines: list[str] = []
    old = os.umask(0o077)
    try:
        made = await environment.prepare("tiny", lines.append)
    finally:
        os.umask(old)
    done = subprocess.run([made.python, "-I", "-c", "import answer; print(answer.answer(), answer.__cached__)"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    value, cached = done.stdout.split()
    assert value == "42"
    assert Path(cached).is_file()
    assert "/opt/env/bin/python" in (made.path / "bin" / "answer").read_text()
    assert any("answer" in line for line in lines)
    for path in (made.path, *made.path.rglob("*")):
        if not path.is_symlink():
            assert path.stat().st_mode & (0o005 if path.is_dir() else 0o004), path
    for path in (made.path / "bin", made.path):
        for file in path.iterdir():
            if file.is_file() and not file.is_symlink():
                assert b".partial" not in file.read_bytes(), file


async def test_a_second_preparation_does_nothing(locks: Path) -> None:
    first = await environment.prepare("tiny")
    lines: list[str] = []
    assert await environment.prepare("tiny", lines.append) == first
    assert lines == []


async def test_another_lock_file_is_another_environment(locks: Path) -> None:
    before = await environment.prepare("tiny")
    with (locks / "tiny.txt").open("a") as file:
        file.write("# changed\n")
    assert environment.find("tiny") is None
    assert (await environment.prepare("tiny")).path != before.path


async def test_two_at_once_build_one(locks: Path, home: Path) -> None:
    said: list[str] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(environment.prepare, "tiny", said.append)
    assert sum("making the environment" in line for line in said) == 1
    left = [name for name in os.listdir(home / "environments") if "tiny" in name and not name.endswith(".lock")]
    assert len(left) == 1


async def test_a_failed_preparation_tells_pips_words_and_leaves_nothing(locks: Path, home: Path) -> None:
    with pytest.raises(PreparationError, match="gone"):
        await environment.prepare("broken")
    assert environment.find("broken") is None
    assert [name for name in os.listdir(home / "environments") if not name.endswith(".lock")] == []


async def test_a_cancelled_preparation_leaves_nothing(locks: Path, home: Path) -> None:
    with anyio.CancelScope() as scope:
        await environment.prepare("tiny", lambda _line: scope.cancel())
    assert scope.cancelled_caught
    assert [name for name in os.listdir(home / "environments") if not name.endswith(".lock")] == []


KILLED = """
import os, signal, sys, anyio
from mlgym_sandbox import environment
def say(line):
    if line.startswith("compiling"):
        os.kill(os.getpid(), signal.SIGKILL)
environment.images = lambda: __import__("pathlib").Path(sys.argv[1])
anyio.run(environment.prepare, "tiny", say)
"""


async def test_a_killed_preparation_is_never_found_and_is_cleared_by_the_next(locks: Path, home: Path) -> None:
    paths = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-c", KILLED, str(locks)]
    done = await anyio.run_process(command, check=False, stderr=None, env=dict(os.environ, PYTHONPATH=paths))
    assert done.returncode == -9
    assert environment.find("tiny") is None
    assert any(name.endswith(".partial") for name in os.listdir(home / "environments"))
    made = await environment.prepare("tiny")
    assert not any(name.endswith(".partial") for name in os.listdir(home / "environments"))
    assert made.python.exists()


@pytest.mark.parametrize("name", ["nonesuch", "../light", "", "Light"])
async def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(PreparationError, match="bare, data, light, torch"):
        await environment.prepare(name)


def test_lock_files_pin_everything_and_no_index() -> None:
    for name in environment.names():
        for line in environment.lock_text(name).splitlines():
            assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9.]*( ; python_full_version [<>=]+ '[0-9.]+')?", line), line


def test_the_data_environment_is_the_light_one_and_pyarrow() -> None:
    light, data = (set(environment.lock_text(name).splitlines()) for name in ("light", "data"))
    assert {line.split("==")[0] for line in data - light} == {"pyarrow"}
    assert light <= data


def test_the_torch_environment_holds_the_light_one_and_nothing_of_a_gpu() -> None:
    light, torch = (set(environment.lock_text(name).splitlines()) for name in ("light", "torch"))
    assert light <= torch
    assert any(line.startswith("torch==") for line in torch)
    assert any(line.startswith("safetensors==") for line in torch)
    assert not any(re.match(r"nvidia|cuda|triton", line) for line in torch)
