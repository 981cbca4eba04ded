"""The proof of a task notices what it is there to notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.catalog.making import KINDS, TaskKind, make_task
from mlgym_mcp.catalog.measured import baseline, find_measured
from mlgym_mcp.session.errors import InfrastructureError
from mlgym_mcp.session.proof import Finding, prove
from tests.serving.conftest import light, own_home
from tests.toy import CSV, GENERATOR, GRADER, TASK, make_toy

__all__ = ["light", "own_home"]  # fixtures

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_home")]

GOLD = """
def gold(ctx):
    labels = json.loads(ctx.private("labels.json").read_text())
    truth = labels["val"] + labels["test"]
    return {"submission.csv": ("id,label\\n" + "".join(f"{i},{v}\\n" for i, v in enumerate(truth))).encode()}
"""
SOLVE = f"open('submission.csv', 'w').write({CSV!r})\n"
LEAK = """
    secret = f"{rng.getrandbits(4000):x}"
    (ctx.private / "secret.txt").write_text(secret)
    (ctx.public / "oops.txt").write_text("by accident: " + secret[200:])
"""
BLATANT = "\n    (ctx.public / 'oops.json').write_text(json.dumps(labels))\n"
STRICT = """given = ctx.predictions("submission.csv", header=("id", "label"), ids=range(40), kind="class", classes=2)"""
LENIENT = """given = dict.fromkeys(range(40), 1)"""


async def proved(
    folder: Path, *, grader: str = GRADER + GOLD, generator: str = GENERATOR, record: tuple[str, str]
) -> list[Finding]:
    task = TASK.replace(*record)
    make_toy(folder, task=task, grader=grader)
    (folder / "toy" / "generator.py").write_text(generator)
    (folder / "toy" / "reference").mkdir()
    for program in ("starter/baseline.py", "reference/solve.py"):
        (folder / "toy" / program).write_text(SOLVE)
    return [finding async for finding in prove(Catalog([folder]), "toy", "mini", sandbox="bubblewrap")]


async def test_a_sound_task_is_proved_but_for_a_reference_no_better_than_the_baseline(tmp_path: Path) -> None:
    findings = await proved(tmp_path / "sound", record=("sd = 0.05", "sd = 0.5"))
    failed = {finding.what for finding in findings if not finding.ok}
    assert failed == {"reference scores as recorded", "reference is clearly better"}
    assert sum(finding.what.startswith("hostile") for finding in findings) > 30


async def test_a_leak_a_lenient_grader_and_a_wrong_record_are_noticed(tmp_path: Path) -> None:
    lenient = GRADER.replace(STRICT, LENIENT)
    assert lenient != GRADER
    findings = await proved(
        tmp_path / "unsound",
        grader=lenient + GOLD,
        generator=GENERATOR + LEAK,
        record=("accuracy = 0.5, sd = 0.05", "accuracy = 0.99, sd = 0.001"),
    )
    found = {finding.what: finding for finding in findings}
    assert not found["no hidden byte is visible"].ok
    assert "a piece of secret.txt is in oops.txt" in found["no hidden byte is visible"].detail
    assert not found["baseline scores as recorded"].ok
    assert not found["perfect submission is optimal"].ok
    assert not found["hostile: an empty file"].ok


async def test_a_task_that_publishes_its_labels_cannot_be_played_at_all(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match=r"published its private file labels\.json as oops\.json"):
        await proved(tmp_path / "leaky", generator=GENERATOR + BLATANT, record=("sd = 0.05", "sd = 0.5"))


async def test_the_baseline_that_was_played_counts_in_this_world_from_then_on(tmp_path: Path) -> None:
    await proved(tmp_path / "sound", record=("sd = 0.05", "sd = 0.5"))
    task = Catalog([tmp_path / "sound"]).get("toy")
    measured = find_measured(task, "mini")
    assert measured is not None
    assert measured.metrics["accuracy"] == baseline(task, "mini").value("accuracy")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_new_task_is_proved_at_once(tmp_path: Path, kind: TaskKind) -> None:
    make_task("my_task", kind, tmp_path)
    findings = [finding async for finding in prove(Catalog([tmp_path]), "my_task", "mini", sandbox="bubblewrap")]
    assert [(f.what, f.detail) for f in findings if not f.ok] == []
    assert sum(finding.what.startswith("hostile") for finding in findings) > 30
