"""The shipped tasks: data that gives nothing away, graders that cannot be fooled, perfect work scores perfectly."""

from __future__ import annotations

import hashlib
import io
import random
import re
import shutil
import struct
import subprocess
import tarfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from mlgym_mcp.catalog import Catalog, Prepared, Task, prepare
from mlgym_mcp.catalog.adversarial import VALID, Adversarial, adversarial
from mlgym_mcp.catalog.own_submissions import gold, own_submission
from mlgym_mcp.catalog.sources import payload_path
from mlgym_mcp.grading.errors import InvalidSubmission
from mlgym_mcp.grading.grader_process import GradeResult, GradeSpec, PlayerLimits, grade
from mlgym_mcp.grading.snapshot import store_snapshot
from tests.catalog.conftest import ROOT
from tests.grading.conftest import LocalSandbox, Sandboxes

pytestmark = pytest.mark.anyio


def copy_task(name: str, target: Path, changes: Mapping[str, str]) -> Task:
    """A shipped task with other numbers."""
    shutil.copytree(ROOT / "tasks" / name, target / name)
    path = target / name / "task.toml"
    text = path.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return Task.load(target / name)


def small_fashion(target: Path) -> Task:
    """Fashion-MNIST with 10 small classes of made-up images in the place of the real sources."""
    rng = random.Random(5)
    task = copy_task(
        "fashion_mnist",
        target,
        {"train = 12000, val = 2000, unlabelled = 12000, last_id = 11999": "train = 50, val = 20, unlabelled = 60"
         ", last_id = 59"},
    )  # fmt: skip
    text = (task.folder / "data.lock.toml").read_text()
    for split, count in (("train", 100), ("test", 40)):
        labels = [i % 10 for i in range(count)]
        pictures = b"".join(bytes([label]) * 16 + rng.randbytes(768) for label in labels)
        payloads = {
            "images": struct.pack(">4I", 2051, count, 28, 28) + pictures,
            "labels": struct.pack(">2I", 2049, count) + bytes(labels),
        }
        for kind, payload in payloads.items():
            source = task.lock.source(f"{split}_{kind}")
            text = text.replace(source.payload_sha256, hashlib.sha256(payload).hexdigest())
            text = text.replace(f"payload_bytes = {source.payload_bytes}\n", f"payload_bytes = {len(payload)}\n", 1)
            (target / f"{split}_{kind}").write_bytes(payload)
    (task.folder / "data.lock.toml").write_text(text)
    task = Task.load(task.folder)
    for source in task.lock.sources:
        shutil.copy(target / source.name, payload_path(source))
    return task


async def graded(
    task: Task, prepared: Prepared, files: Mapping[str, bytes], python: Path, tmp_path: Path, split: str = "test"
) -> GradeResult:
    """Grade files as the server does; players run without isolation."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return await graded_tar(task, prepared, buffer.getvalue(), python, tmp_path, split)


async def graded_tar(
    task: Task, prepared: Prepared, data: bytes, python: Path, tmp_path: Path, split: str = "test"
) -> GradeResult:
    rules, grader = task.spec.submission, task.spec.grader
    snapshot = await store_snapshot(data, tmp_path / "episode", max_bytes=rules.max_bytes, max_files=rules.max_files)
    limits = None
    if grader.player is not None:
        limits = PlayerLimits(call_timeout_s=2, total_timeout_s=20, load_timeout_s=5)
    spec = GradeSpec(
        task=task.id,
        preset=prepared.preset,
        bounds={metric.name: metric.bounds for metric in task.spec.metrics},
        params=task.preset(prepared.preset).params,
        timeout_s=60,
        player=limits,
    )
    sandboxes = Sandboxes(tmp_path / f"players-{random.random()}")
    sandboxes.folder.mkdir()
    result = await grade(
        task.folder,
        spec,
        split,  # type: ignore[arg-type]
        snapshot,
        prepared.public,
        prepared.private,
        prepared.world(),
        python=python,
        player_factory=sandboxes,
    )
    assert all(isinstance(made, LocalSandbox) and made.closed for made in sandboxes.made)
    return result


async def test_fashion_mnist_hides_its_labels(light_python: Path, tmp_path: Path) -> None:
    task = small_fashion(tmp_path)
    made = await prepare(task, "mini", python=light_python)
    arrays = {name: (made.public / f"{name}.npy").read_bytes() for name in ("train_images", "test_images")}
    pictures = {
        name: [data[-784 * count :][i * 784 : (i + 1) * 784] for i in range(count)]
        for (name, data), count in zip(arrays.items(), (50, 60), strict=True)
    }
    raw = {split: (tmp_path / f"{split}_images").read_bytes()[16:] for split in ("train", "test")}
    published = {split: [raw[split][i : i + 784] for i in range(0, len(raw[split]), 784)] for split in raw}
    assert set(pictures["train_images"]) < set(published["train"])
    assert not set(pictures["train_images"]) & set(pictures["test_images"]), "nothing hidden is in the training set"
    assert Counter(picture in published["test"] for picture in pictures["test_images"]) == {True: 40, False: 20}
    positions = [published["test"].index(p) for p in pictures["test_images"] if p in published["test"]]
    assert sorted(positions) == list(range(40))
    assert positions != sorted(positions), "in another order than published"
    answers = (made.private / "answers.npy").read_bytes()[-60:]
    assert [picture[0] for picture in pictures["test_images"]] == list(answers)
    for name in made.public_files():
        assert answers not in (made.public / name).read_bytes()
    test_labels = bytes(i % 10 for i in range(40))
    assert all(test_labels not in (made.public / name).read_bytes() for name in made.public_files())


async def test_fashion_mnist_is_split_by_the_secret_world(light_python: Path, tmp_path: Path, mlgym_home: Path) -> None:
    task = small_fashion(tmp_path)
    first = await prepare(task, "mini", python=light_python)
    for part in ("data", "vault"):
        shutil.rmtree(mlgym_home / part)
    assert (await prepare(task, "mini", python=light_python)).digest == first.digest
    (mlgym_home / "worlds" / "fashion_mnist").unlink()
    assert (await prepare(task, "mini", python=light_python)).digest != first.digest


@pytest.mark.parametrize("name", ["fashion_mnist", "house_price"])
async def test_perfect_predictions_reach_the_optimum_on_both_splits(
    light_python: Path, tmp_path: Path, real_tasks: Catalog, name: str
) -> None:
    task = small_fashion(tmp_path) if name == "fashion_mnist" else real_tasks.get(name)
    made = await prepare(task, "mini", python=light_python)
    files = await gold(task, made, light_python)
    assert files is not None
    for split, size in (("val", (20, 146)), ("test", (40, 4000))):
        result = await graded(task, made, files, light_python, tmp_path, split)
        assert result.reason is None
        metric = task.spec.primary_metric
        assert result.metrics[metric.name] == pytest.approx(metric.optimal, abs=1e-9)
        assert set(result.public.values()) <= set(size)


async def test_a_wrong_label_costs_only_on_the_split_that_it_belongs_to(light_python: Path, tmp_path: Path) -> None:
    task = small_fashion(tmp_path)
    made = await prepare(task, "mini", python=light_python)
    files = await gold(task, made, light_python)
    assert files is not None
    is_test = (made.private / "is_test.npy").read_bytes()[-60:]
    lines = files["submission.csv"].decode().splitlines()
    for i, counted in enumerate(is_test):
        if counted:
            label = int(lines[i + 1].split(",")[1])
            lines[i + 1] = f"{i},{(label + 1) % 10}"
    spoilt = {"submission.csv": "\n".join(lines).encode()}
    val = await graded(task, made, spoilt, light_python, tmp_path, "val")
    test = await graded(task, made, spoilt, light_python, tmp_path, "test")
    assert val.metrics["accuracy"] == 1.0
    assert test.metrics["accuracy"] == 0.0


async def test_house_prices_stay_in_the_vault(light_python: Path, real_tasks: Catalog) -> None:
    made = await prepare(real_tasks.get("house_price"), "mini", python=light_python)
    train = (made.public / "train.csv").read_text().splitlines()
    test = (made.public / "test.csv").read_text().splitlines()
    assert len(train) == 1023
    assert len(test) == 4147
    columns = train[0].split(",")
    assert columns[:-1] == test[0].split(",")
    assert columns[-1] == "price"
    assert "price" not in test[0]
    assert [line.split(",")[0] for line in test[1:]] == [str(i) for i in range(4146)]
    assert not {line.split(",", 1)[1].rsplit(",", 1)[0] for line in train[1:]} & {
        line.split(",", 1)[1] for line in test[1:]
    }
    prices = [int(line.rsplit(",", 1)[1]) for line in train[1:]]
    assert 5_000 < min(prices) < max(prices) < 5_000_000
    assert any(",," in line for line in train), "some cells are unknown"


@pytest.mark.parametrize("name", ["house_price", "prisoners_dilemma"])
async def test_generated_data_depends_on_the_world_alone(
    light_python: Path, real_tasks: Catalog, mlgym_home: Path, name: str
) -> None:
    task = real_tasks.get(name)
    first = await prepare(task, "mini", python=light_python)
    for part in ("data", "vault"):
        shutil.rmtree(mlgym_home / part)
    assert (await prepare(task, "mini", python=light_python)).digest == first.digest
    (mlgym_home / "worlds" / name).unlink()
    assert (await prepare(task, "mini", python=light_python)).digest != first.digest


async def test_hostile_predictions_are_refused_with_a_sentence(light_python: Path, tmp_path: Path) -> None:
    task = small_fashion(tmp_path)
    made = await prepare(task, "mini", python=light_python)
    perfect = await gold(task, made, light_python)
    cases = adversarial(task.spec, perfect)
    assert len({case.name for case in cases}) == len(cases) > 45
    for number, case in enumerate(cases):
        code, sentence = await outcome(task, made, case, light_python, tmp_path / f"case-{number}")
        assert code in case.expect, f"{case.name}: {code}: {sentence}"
        assert code != VALID
        assert re.search(r"\w+ .*\w", sentence), f"{case.name} is refused without a sentence"
        assert len(sentence) < 400


async def outcome(task: Task, made: Prepared, case: Adversarial, python: Path, folder: Path) -> tuple[str, str]:
    """What becomes of a submission that is made as an agent makes it; copying out is a tar of plain Python."""
    rules = task.spec.submission
    workspace = folder / "workspace"
    workspace.mkdir(parents=True)
    for name, data in case.files.items():
        (workspace / name).write_bytes(data)
    if case.commands:
        subprocess.run(["bash", "-c", case.commands], cwd=workspace, check=True, stderr=subprocess.DEVNULL)
    path = workspace / rules.include[0]
    if not path.is_symlink() and path.is_file() and path.stat().st_size > rules.max_bytes:
        return "forbidden", "the sandbox's own limit of what is copied out"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        if path.exists() or path.is_symlink():
            tar.add(path, rules.include[0])
    try:
        result = await graded_tar(task, made, buffer.getvalue(), python, folder)
    except InvalidSubmission as error:
        return error.code, error.sentence
    return result.reason_code or VALID, result.reason or ""


SHORT = {
    "matches_per_rule = 200, examples_per_rule = 20, rounds_low = 36, rounds_high = 44": "matches_per_rule = 3, "
    "examples_per_rule = 2, rounds_low = 5, rounds_high = 8"
}
DANGEROUS = re.compile(r"fork|memory|never|sleeps|kills|garbage|gigabytes|forges|/proc|network|score file|modules")
"""Players for a real sandbox only: these tests have none (see tests/attacks)."""


async def test_players_are_scored_honestly_or_refused(light_python: Path, tmp_path: Path) -> None:
    task = copy_task("prisoners_dilemma", tmp_path / "tasks", SHORT)
    made = await prepare(task, "mini", python=light_python)
    assert await gold(task, made, light_python) is None
    plain = await own_submission("plain", task, made, light_python)
    assert plain is not None
    cases = [c for c in adversarial(task.spec, plain) if "player" in c.name and not DANGEROUS.search(c.name)]
    assert len(cases) > 12
    honest: dict[bytes, float] = {}
    for number, case in enumerate(cases):
        folder = tmp_path / f"case-{number}"
        folder.mkdir()
        result = await graded(task, made, case.files, light_python, folder)
        assert (result.reason_code or VALID) in case.expect, f"{case.name}: {result}"
        if result.reason_code is None:
            code = case.honest["strategy.py"]
            if code not in honest:
                same = await graded(task, made, case.honest, light_python, folder)
                honest[code] = same.metrics["payoff"]
            assert result.metrics["payoff"] == honest[code], case.name
        else:
            assert result.reason


async def test_all_hostile_players_are_named_once_and_say_what_is_expected(real_tasks: Catalog) -> None:
    cases = adversarial(real_tasks.get("prisoners_dilemma").spec, {"strategy.py": b"def move(history): return 1\n"})
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    for case in cases:
        assert case.expect
        assert bool(case.honest) is (VALID in case.expect), case.name
        for name, code in case.files.items():
            if name == "strategy.py" and "no Python" not in case.name:
                compile(code, name, "exec")


async def test_the_dilemma_pays_as_written_and_knows_no_replay(light_python: Path, tmp_path: Path) -> None:
    task = copy_task("prisoners_dilemma", tmp_path / "tasks", SHORT)
    made = await prepare(task, "mini", python=light_python)
    always = {"strategy.py": b"def move(history):\n    return 1\n"}
    first = await graded(task, made, always, light_python, tmp_path)
    again = await graded(task, made, always, light_python, tmp_path)
    other = await graded(task, made, always, light_python, tmp_path, "val")
    assert first.metrics == again.metrics, "the same matches for everybody"
    assert first.metrics != other.metrics, "other matches on the other split"
    rules = first.private["payoff_by_rule"]
    assert len(rules) == 11
    assert rules["always_cooperate"] > 4
    assert rules["always_defect"] < 1.5
    assert 0 < first.se["payoff"] < 0.2
    lines = (made.public / "matches.jsonl").read_text().splitlines()
    assert len(lines) == 22
    assert not any(name in line for line in lines for name in rules)


def test_the_lock_files_pin_every_payload(real_tasks: Catalog) -> None:
    task = real_tasks.get("fashion_mnist")
    for source in task.lock.sources:
        assert source.compression == "gzip"
        assert source.verified_on
        assert [origin.kind for origin in source.origins] == ["deb", "url"]
    assert task.spec.presets["full"].data.sources == tuple(source.name for source in task.lock.sources)
