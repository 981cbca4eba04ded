"""The index reads each journal once, notices what changed, and is only a cache."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from mlgym_mcp.records.index import EpisodeIndex, find
from mlgym_mcp.records.ledger import LEDGER, read_ledger, with_usage
from mlgym_mcp.session.journal import FILE_NAME, Journal
from tests.records.written import attempt, lines, put_lines, score, write_episode


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(3):
        write_episode(tmp_path / "episodes", f"e{i}", seed=i, agent="a" if i else "b")
    return tmp_path / "episodes"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "index.sqlite"


def test_each_journal_is_read_once_and_again_when_it_grew(root: Path, store: Path) -> None:
    write_episode(root, "live", submitted=None, outcome=None)
    with EpisodeIndex(store) as index:
        found, done = index.refresh([root])
        assert (done.read, done.kept, done.gone) == (4, 0, 0)
        assert [a.id for a in index.attempts(found)] == ["e0", "e1", "e2", "live"]
    journal = Journal(root / "live")
    journal.append("score", **score("submit", 0.9))
    journal.close()
    with EpisodeIndex(store) as index:
        found, done = index.refresh([root])
        assert (done.read, done.kept) == (1, 3)
        assert index.attempts(found)[-1].submitted == 0.9


def test_episodes_that_are_gone_are_forgotten_but_not_those_elsewhere(root: Path, store: Path, tmp_path: Path) -> None:
    write_episode(tmp_path / "episodes-2", "other")
    with EpisodeIndex(store) as index:
        index.refresh([root])
        index.refresh([tmp_path / "episodes-2"])
        (root / "e1" / FILE_NAME).unlink()
        found, done = index.refresh([root])
        assert (done.read, done.kept, done.gone) == (0, 2, 1)
        assert [a.id for a in index.attempts(found)] == ["e0", "e2"]
        assert index.page()[1] == 3


def test_pages_are_filtered_and_the_newest_comes_first(root: Path, store: Path) -> None:
    with EpisodeIndex(store) as index:
        index.refresh([root])
        shown, count = index.page(method="a", limit=1)
        assert (count, [a.id for a in shown]) == (2, ["e2"])
        assert [a.id for a in index.page(method="a", limit=1, offset=1)[0]] == ["e1"]
        assert index.page(task="' OR 1 --", outcome="scored") == ([], 0)


@pytest.mark.parametrize("content", [b"", b"this is no database, and long enough to be read as one" * 40])
def test_what_is_no_index_is_made_again(root: Path, store: Path, content: bytes) -> None:
    store.write_bytes(content)
    with EpisodeIndex(store) as index:
        assert index.refresh([root])[1].read == 3
    with EpisodeIndex(store) as index:
        assert index.refresh([root])[1].kept == 3


def test_an_index_of_another_version_is_made_again(root: Path, store: Path) -> None:
    base = sqlite3.connect(store)
    base.executescript("CREATE TABLE episodes (path TEXT); PRAGMA user_version = 99;")
    base.close()
    with EpisodeIndex(store) as index:
        assert index.refresh([root])[1].read == 3


def test_an_index_that_breaks_while_it_is_open_goes_on_in_memory(root: Path, store: Path) -> None:
    with EpisodeIndex(store) as index:
        other = sqlite3.connect(store)
        other.execute("DROP TABLE episodes")
        other.close()
        found, done = index.refresh([root])
        assert done.read == len(index.attempts(found)) == 3


def test_without_a_writable_home_the_index_is_in_memory(root: Path, tmp_path: Path) -> None:
    with EpisodeIndex(tmp_path / "no" / "such" / "folder" / "index.sqlite") as index:
        found, done = index.refresh([root])
        assert done.read == len(index.attempts(found)) == 3


def test_links_lead_to_episodes_which_count_once(root: Path, store: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep" / "episodes"
    sweep.mkdir(parents=True)
    (sweep / "e0").symlink_to(root / "e0")
    (sweep / "loop").symlink_to(tmp_path)
    (sweep / "nowhere").symlink_to(tmp_path / "missing")
    assert [f.name for f, _, _ in find([tmp_path / "sweep"]).journals] == ["e0"]
    assert len(find([root, tmp_path / "sweep", root / "e0"]).journals) == 3


def test_what_an_agent_left_inside_of_an_episode_is_no_episode(root: Path) -> None:
    write_episode(root / "e0" / "snapshots", "forged", submitted=1.0)
    (root / "e0" / LEDGER).write_text("{}")
    found = find([root])
    assert len(found.journals) == 3
    assert found.ledgers == ()


def test_odd_folders_are_told_and_left_out(root: Path) -> None:
    write_episode(root, "a\x1b[31mb")
    (root / os.fsdecode(b"\xff")).mkdir()
    (root / "pipe").mkdir()
    os.mkfifo(root / "pipe" / FILE_NAME)
    found = find([root])
    assert len(found.journals) == 3
    assert len(found.problems) == 2
    assert all(problem.isprintable() for problem in found.problems)


def test_a_folder_that_is_not_there_is_an_error(store: Path, tmp_path: Path) -> None:
    with EpisodeIndex(store) as index, pytest.raises(FileNotFoundError, match="there is no folder"):
        index.refresh([tmp_path / "missing"])


def test_damage_is_kept_in_the_index(root: Path, store: Path) -> None:
    content = lines(root / "e1")
    put_lines(root / "e1", [*content[:2], b"{}\n", *content[3:]])
    for _ in range(2):
        with EpisodeIndex(store) as index:
            found, _ = index.refresh([root])
            assert [a.damage for a in index.attempts(found)] == ["", "2 damaged lines left out (3, 4)", ""]


def test_a_sweeps_ledger_gives_tokens_and_cost(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    rows = [
        b'{"episode": "runs/toy-a-0", "tokens_in": 1, "tokens_out": 2, "cost_usd": 9.0}',
        b'{"episode": "toy-a-0", "tokens_in": 100, "tokens_out": 20, "cost_usd": 0.25, "agent": "a"}',
        b'{"episode": "toy-b-0", "tokens_in": -5, "tokens_out": "many", "cost_usd": NaN}',
        b"[1]",
        b'{"episode": 7}',
        b"[" * 100_000,
        b"",
        b'{"episode": "toy-c',
    ]
    path.write_bytes(b"\n".join(rows))
    usages, problem = read_ledger(path)
    assert problem == f"{path}: 4 lines could not be read"
    a, b = with_usage([attempt("a"), attempt("b")], usages)
    assert (a.usage.tokens_in, a.usage.tokens_out, a.usage.cost) == (100, 20, 0.25)
    assert (b.usage.tokens_in, b.usage.tokens_out, b.usage.cost) == (None, None, None)
