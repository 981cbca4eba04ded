"""A sweep's folder: the ledger decides, the first result counts, and what is broken is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlgym_clients.sweep.attempt import Attempt, Finished
from mlgym_clients.sweep.folder import MANIFEST, SweepFolder, check_free, remove_unbegun
from mlgym_clients.sweep.spec import SweepError, make_sweep
from mlgym_mcp.records.ledger import read_ledger

SPEC = make_sweep({"tasks": ["toy"], "agents": {"a": {"agent": "random"}}, "seeds": 3})
ONE, TWO = Attempt("toy", "mini", "a", 0), Attempt("toy", "mini", "a", 1)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLGYM_HOME", str(tmp_path / "home"))


def begun(tmp_path: Path) -> SweepFolder:
    return SweepFolder.begin(tmp_path / "s", SPEC, "s-123", {"versions": {}})


def result(episode: str = "toy-1", **facts: object) -> Finished:
    return Finished("session", episode, {"score": 0.5, "tokens_in": 3, "tokens_out": 1, "cost_usd": 0.25, **facts})


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "attempts.jsonl").read_text().splitlines()]


def test_the_first_result_of_an_attempt_counts_and_later_ones_do_not(tmp_path: Path) -> None:
    with begun(tmp_path) as folder:
        for number in (1, 2):
            folder.ledger.begin(ONE, number)
        assert folder.commit(ONE, 2, result("later"), 0) is not None
        assert folder.commit(ONE, 1, result("earlier"), 0) is None
        assert folder.ledger.finished() == {ONE.id}
    (line,) = lines(tmp_path / "s")
    assert (line["episode"], line["try"]) == ("later", 2)


def test_a_line_that_was_not_written_or_only_half_is_mended_from_the_ledger(tmp_path: Path) -> None:
    with begun(tmp_path) as folder:
        for attempt in (ONE, TWO):
            folder.ledger.begin(attempt, 1)
            folder.commit(attempt, 1, result(attempt.id), 0)
    file = tmp_path / "s" / "attempts.jsonl"
    whole = file.read_bytes()
    for damaged in (whole[:-20], whole.splitlines(keepends=True)[0], b"", whole + b'{"attempt": "for'):
        file.write_bytes(damaged)
        SweepFolder.take_up(tmp_path / "s").close()
        assert file.read_bytes() == whole
    file.unlink()
    SweepFolder.take_up(tmp_path / "s").close()
    assert file.read_bytes() == whole


def test_a_ledger_that_is_gone_is_made_again_from_the_lines(tmp_path: Path) -> None:
    with begun(tmp_path) as folder:
        folder.ledger.begin(ONE, 1)
        folder.commit(ONE, 1, result(), 0)
    for file in (tmp_path / "s").glob("ledger.sqlite*"):
        file.unlink()
    with SweepFolder.take_up(tmp_path / "s") as folder:
        assert folder.ledger.finished() == {ONE.id}
    assert len(lines(tmp_path / "s")) == 1


def test_what_was_played_when_the_sweeper_died_is_known_with_its_session(tmp_path: Path) -> None:
    with begun(tmp_path) as folder:
        folder.ledger.begin(ONE, 1)
        folder.ledger.opened(ONE, 1, "session-1", "episode-1", "")
        folder.ledger.begin(TWO, 1)
    with SweepFolder.take_up(tmp_path / "s") as folder:
        assert folder.orphaned == 2
        assert (folder.ledger.past(ONE).tries, folder.ledger.past(ONE).session) == (1, "session-1")
        assert folder.ledger.past(TWO).tries == 0, "asked for under the same key: it may have a session already"
        folder.ledger.begin(TWO, 1)
        assert folder.ledger.past(TWO).tries == 1


def test_reports_read_its_lines(tmp_path: Path) -> None:
    with begun(tmp_path) as folder:
        folder.ledger.begin(ONE, 1)
        folder.commit(ONE, 1, result("toy-1", score=float("nan"), baseline=float("inf")), 2)
    usages, broken = read_ledger(tmp_path / "s" / "attempts.jsonl")
    assert not broken
    assert (usages["toy-1"].tokens_in, usages["toy-1"].cost) == (3, 0.25)
    (line,) = lines(tmp_path / "s")
    assert line["score"] is line["baseline"] is None, "JSON has no such numbers"
    assert line["infrastructure_failures"] == 2


def test_journals_from_other_machines_are_kept_below_it_and_nowhere_else(tmp_path: Path) -> None:
    files = {"events.jsonl": b"{}\n", "messages.jsonl": b"[]\n", "../../evil": b"x"}
    with begun(tmp_path) as folder:
        for attempt, episode in ((ONE, "../../../toy-1"), (TWO, "..")):
            folder.ledger.begin(attempt, 1)
            folder.commit(attempt, 1, Finished("session", episode, {}, files), 0)
    assert (tmp_path / "s" / "episodes" / "toy-1" / "events.jsonl").read_bytes() == b"{}\n"
    assert (tmp_path / "s" / str(lines(tmp_path / "s")[0]["messages"])).read_bytes() == b"[]\n"
    inside = {path for path in tmp_path.rglob("*") if path.is_file()} - set((tmp_path / "home").rglob("*"))
    assert all(path.is_relative_to(tmp_path / "s") for path in inside)


def test_only_one_process_is_at_it(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    with pytest.raises(SweepError, match="by another process"):
        SweepFolder.take_up(tmp_path / "s")
    folder.close()
    SweepFolder.take_up(tmp_path / "s").close()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.txt").write_text("mine")
    with pytest.raises(SweepError, match="not empty"):
        begun(tmp_path)
    remove_unbegun(tmp_path / "s")
    assert (tmp_path / "s" / "thesis.txt").exists()
    begun(tmp_path / "other").close()
    with pytest.raises(SweepError, match="--resume"):
        check_free(tmp_path / "other" / "s")
    remove_unbegun(tmp_path / "other" / "s")
    assert (tmp_path / "other" / "s" / MANIFEST).exists()


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        (None, "holds no manifest.json"),
        ("", "is damaged"),
        ('{"sweep_folder": 1, "id"', "is damaged"),
        ("[]", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ('{"sweep_folder": 2}', "another version"),
        ('{"sweep_folder": 1}', "is damaged"),
        ('{"sweep_folder": 1, "id": "../x", "sweep": {}}', "no sweep's id"),
        ('{"sweep_folder": 1, "id": 7, "sweep": {}}', "is damaged"),
        ('{"sweep_folder": 1, "id": "x", "sweep": {"tasks": ["toy"], "colour": 1}}', "unknown key 'colour'"),
    ],
)
def test_a_folder_of_another_version_or_half_written_is_refused_in_a_sentence(
    tmp_path: Path, manifest: str | None, told: str
) -> None:
    (tmp_path / "s").mkdir()
    if manifest is not None:
        (tmp_path / "s" / MANIFEST).write_text(manifest)
    with pytest.raises(SweepError, match=told):
        SweepFolder.take_up(tmp_path / "s")


def test_no_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="there is no folder"):
        SweepFolder.take_up(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_ledger_is_told_with_the_way_out(tmp_path: Path, content: bytes) -> None:
    begun(tmp_path).close()
    for file in (tmp_path / "s").glob("ledger.sqlite*"):
        file.unlink()
    (tmp_path / "s" / "ledger.sqlite").write_bytes(content)
    with pytest.raises(SweepError, match="move it away"):
        SweepFolder.take_up(tmp_path / "s")


def test_a_ledger_of_another_version_is_told(tmp_path: Path) -> None:
    begun(tmp_path).close()
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version=9')"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "s" / "ledger.sqlite")], check=True)
    with pytest.raises(SweepError, match="version 9"):
        SweepFolder.take_up(tmp_path / "s")
