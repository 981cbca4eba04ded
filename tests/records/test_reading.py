"""Journals become attempts: whole ones as they are, damaged ones as far as they can be trusted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlgym_mcp.records.attempts import UNKNOWN, from_record, plain_name, to_record
from mlgym_mcp.records.reading import read_attempt
from mlgym_mcp.records.salvage import LONGEST_LINE, Damage, is_journal, salvage
from mlgym_mcp.session.journal import FILE_NAME, Journal, read_journal
from tests.records.written import lines, put_lines, score, write_episode


def test_an_episode_is_read_as_an_attempt(tmp_path: Path) -> None:
    folder = write_episode(tmp_path, "e", validations=(0.6, 0.8), submitted=0.75, seed=3, calls=2, agent="a", sweep="s")
    read = read_attempt(folder)
    assert (read.task, read.preset, read.method, read.seed, read.sweep) == ("toy", "mini", "a", 3, "s")
    assert [(p.kind, p.value, p.se) for p in read.points] == [
        ("validate", 0.6, 0.01),
        ("validate", 0.8, 0.01),
        ("submit", 0.75, 0.01),
    ]
    assert (read.best, read.submitted, read.se, read.baseline) == (0.8, 0.75, 0.01, 0.5)
    assert read.gap == pytest.approx(0.05)
    assert (read.outcome, read.cause, read.calls, read.cpu_s, read.damage) == ("scored", "", 2, 1.5, "")
    assert from_record(json.loads(json.dumps(to_record(read)))) == read


def test_a_failure_says_its_cause_and_an_episode_without_an_agent_is_nobodys(tmp_path: Path) -> None:
    read = read_attempt(write_episode(tmp_path, "e", submitted=None, outcome="invalid_submission"))
    assert (read.cause, read.submitted, read.best, read.method) == ("invalid_submission (shape)", None, 0.6, UNKNOWN)
    live = read_attempt(write_episode(tmp_path, "live", submitted=None, outcome=None))
    assert (live.outcome, live.gap) == ("live", None)


def test_a_changed_line_is_told_and_the_rest_is_used(tmp_path: Path) -> None:
    folder = write_episode(tmp_path, "e", validations=(0.6, 0.8), submitted=0.75)
    content = lines(folder)
    content[4] = content[4].replace(b'"accuracy":0.8', b'"accuracy":0.9')
    put_lines(folder, content)
    read = read_attempt(folder)
    assert [p.value for p in read.points] == [0.6, 0.75]
    assert (read.submitted, read.outcome) == (0.75, "scored")
    assert read.damage == "1 damaged line left out (5)"


def test_of_a_removed_line_the_next_is_lost_too_and_the_score_is_known_from_the_end(tmp_path: Path) -> None:
    folder = write_episode(tmp_path, "e", validations=(0.6, 0.8), submitted=0.75)
    content = lines(folder)
    del content[4]
    put_lines(folder, content)
    read = read_attempt(folder)
    assert [(p.kind, p.value) for p in read.points] == [("validate", 0.6), ("submit", 0.75)]
    assert (read.submitted, read.damage) == (0.75, "1 damaged line left out (5)")


@pytest.mark.parametrize("swapped", [(3, 4), (1, 2)])
def test_moved_lines_are_noticed(tmp_path: Path, swapped: tuple[int, int]) -> None:
    folder = write_episode(tmp_path, "e", validations=(0.6, 0.8), submitted=0.75)
    content = lines(folder)
    a, b = swapped
    content[a], content[b] = content[b], content[a]
    put_lines(folder, content)
    assert "damaged lines left out" in read_attempt(folder).damage


def test_a_line_that_stands_twice_counts_once(tmp_path: Path) -> None:
    folder = write_episode(tmp_path, "e", validations=(0.6,), submitted=0.75)
    content = lines(folder)
    put_lines(folder, [*content, content[-2]])
    assert len(read_attempt(folder).points) == 2


def test_a_torn_last_line_is_told(tmp_path: Path) -> None:
    folder = write_episode(tmp_path, "e")
    content = lines(folder)
    put_lines(folder, [*content[:-1], content[-1][:20]])
    read = read_attempt(folder)
    assert (read.outcome, read.submitted, read.damage) == ("live", 0.7, "the last line is torn and left out")


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 40), st.binary(max_size=8)), min_size=1, max_size=4))
def test_no_damage_stops_the_reading_or_invents_a_score(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[tuple[int, int, bytes]]
) -> None:
    folder = write_episode(tmp_path_factory.mktemp("e"), "e", validations=(0.6, 0.8), submitted=0.75)
    raw = bytearray((folder / FILE_NAME).read_bytes())
    for place, length, put in cuts:
        place %= len(raw) + 1
        raw[place : place + length] = put
    (folder / FILE_NAME).write_bytes(raw)
    read = read_attempt(folder)
    assert {p.value for p in read.points} <= {0.6, 0.8, 0.75}
    assert read.submitted in (None, 0.75)


def test_bytes_that_are_no_journal_are_damage(tmp_path: Path) -> None:
    folder = tmp_path / "e"
    folder.mkdir()
    (folder / FILE_NAME).write_bytes(os.urandom(4096) + b"\n\n{}\n")
    read = read_attempt(folder)
    assert read.task == ""
    assert "its first line, which says what it is, is lost" in read.damage


def test_a_line_without_end_costs_no_memory_and_those_after_it_are_read(tmp_path: Path) -> None:
    folder = write_episode(tmp_path, "e")
    content = lines(folder)
    (folder / FILE_NAME).write_bytes(b"x" * (LONGEST_LINE + 10) + b"\n" + b"".join(content[1:]))
    damage = Damage()
    assert [line.seq for line in salvage(folder, (), damage)] == [2, 3, 4, 5]
    assert damage.lines == [1, 2]  # what follows a lost line cannot be checked


@pytest.mark.parametrize(
    "odd",
    [
        {"metrics": {"accuracy": "0.9"}},
        {"metrics": {"accuracy": True}},
        {"metrics": {"accuracy": 10**400}},
        {"metrics": None},
        {"primary": ["accuracy"]},
        {"kind": "bribe"},
        {"valid": 1},
    ],
)
def test_scores_of_another_shape_are_no_scores(tmp_path: Path, odd: dict) -> None:
    folder = write_episode(tmp_path, "e", validations=(), submitted=None, outcome=None)
    journal = Journal(folder)
    journal.append("score", **(score("submit", 0.9) | odd))
    journal.append("end", outcome=["scored"], reason=None, score={"valid": True}, spent=3)
    journal.close()
    read = read_attempt(folder)
    assert (read.points, read.submitted, read.best) == ((), None, None)


@given(
    st.dictionaries(
        st.sampled_from(["task", "preset", "seed", "metadata", "more"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=9),
            lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["agent", "sweep", "attempt"]), x),
            max_leaves=5,
        ),
    )
)
def test_sessions_of_any_shape_are_read(tmp_path_factory: pytest.TempPathFactory, fields: dict) -> None:
    folder = tmp_path_factory.mktemp("e")
    journal = Journal(folder)
    journal.append("session", **fields)
    journal.close()
    read = read_attempt(folder)
    assert read.method
    assert abs(read.seed) < 2**63
    assert json.dumps(to_record(read))


@given(st.text(max_size=400))
def test_names_are_short_and_printable(text: str) -> None:
    name = plain_name(text)
    assert len(name) <= 80
    assert name.isprintable()


def test_it_reads_what_the_strict_reader_reads(tmp_path: Path) -> None:
    folder = write_episode(tmp_path, "e", validations=(0.1, 0.2), calls=5)
    damage = Damage()
    mine = [(line.seq, line.t, line.type) for line in salvage(folder, ("score",), damage)]
    assert mine == [(e.seq, e.t, e.type) for e in read_journal(folder)]
    assert str(damage) == ""


def test_a_pipe_is_no_journal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE_NAME)
    assert not is_journal(tmp_path / FILE_NAME)
    assert not is_journal(tmp_path / "missing")
