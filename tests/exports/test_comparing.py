"""What is the same, the same within noise, and different."""

from __future__ import annotations

import pytest

from mlgym_clients.replay.comparing import compare_beginnings, compare_scores, compare_texts, worst
from mlgym_clients.replay.masks import JobIds, masked
from mlgym_clients.replay.recording import Scored
from mlgym_clients.replay.status_lines import body_of
from mlgym_clients.replay.verdict import compare_finals, compare_outcomes


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[exit 0 after 0.1 s]", "[exit 0 after 12.3 s]"),
        ("real\t0m1.203s", "real\t0m0.9s"),
        ("epoch 1 took 3.2 seconds, 12.3 it/s", "epoch 1 took 4 seconds, 9.1 it/s"),
        ("-rw-r--r-- 1 a a 3 Nov 26 15:12 x", "-rw-r--r-- 1 a a 3 Jan  2 05:00 x"),
        ("2026-11-26 15:12:01,123 INFO", "2027-01-01T00:00:00.5Z INFO"),
        ("Thu Nov 26 15:11:32 UTC 2026", "Fri Jan  1 00:00:00 UTC 2027"),
        ("1795700623.305285", "1895700623"),
        ("774 decisions, 93 microseconds each", "774 decisions, 130 microseconds each"),
        ("[1] 4711\npid 4711", "[1] 12\npid 12"),
        ("bash: line 1:    47 Killed                  python", "bash: line 1:   102 Killed                  python"),
        ("<object at 0x7f3a2b1c0d10>", "<object at 0x7f0000000010>"),
        ("/tmp/tmpabc123_x/file", "/tmp/tmpzzzzzzzz/file"),
        ("mlgym-0123456789abcdef01234567", "mlgym-aaaaaaaaaaaaaaaaaaaaaaaa"),
        ("ok\n[Budget is low: 60 s of wall time left. Submit before it is spent.]", "ok"),
        ("100%|###| 10/10 [00:01<00:00,  9.1it/s]", "100%|###| 10/10 [00:02<00:00,  4.5it/s]"),
    ],
)
def test_what_differs_from_run_to_run_is_noise(old: str, new: str) -> None:
    assert compare_texts(old, old).level == "exact"
    assert compare_texts(old, new).level == "noise", (masked(old), masked(new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("accuracy 0.91", "accuracy 0.92"),
        ("run.sh: line 3: 47 Killed", "run.sh: line 4: 47 Killed"),
        ("bash: line 1: 47 Killed", "bash: line 1: 47 Terminated"),
        ("3 files", "4 files"),
        ("[exit 0 after 1 s]", "[exit 1 after 1 s]"),
        ("a\nb", "a\nb\nc"),
        ("version 3.11.2", "version 3.12.2"),
        ("/data/train.csv", "/data/test.csv"),
    ],
)
def test_what_means_something_is_different_and_is_shown(old: str, new: str) -> None:
    found = compare_texts(f"begin\n{old}", f"begin\n{new}")
    assert found.level == "different"
    assert found.diff.splitlines()[:2] == ["--- recorded", "+++ replayed"]
    assert any(line.startswith("+") for line in found.diff.splitlines()[2:])


def test_a_diff_is_small_however_long_the_outputs_are() -> None:
    found = compare_texts("\n".join(map(str, range(20_000))), "\n".join(f"x{i}" * 40 for i in range(20_000)))
    assert len(found.diff) < 20_000


def test_what_a_running_job_had_printed_is_compared_as_far_as_it_was() -> None:
    assert compare_beginnings("a\nb", "a\nb\nc").level == "noise"
    assert compare_beginnings("a\nb\nhal", "a\nb\nhalf printed").level == "noise"
    assert compare_beginnings("a\nx\nc", "a\nb").level == "different"
    assert compare_beginnings("", "a").level == "noise"
    assert compare_beginnings("a", "a").level == "exact"


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("out\n[exit 0 after 0.1 s]", "out"),
        ('out\n[job j1 is still running after 45 s and goes on by itself. job_wait(job_id="j1") waits.]', "out"),
        ("out\n[killed: its timeout_s was over after 1.0 s (exit -9)]", "out"),
        ("out\n[bytes 0 to 3 of 3] [exit 0 after 0.1 s]", "out"),
        ("[the first 10 bytes are not shown; job_output shows them]\nout\n[exit 0 after 0.1 s]", "out"),
        ("[exit 0 after 0.1 s]", ""),
        ("out\n[exit 137 after 0.1 s] The kernel killed a process for lack of memory: use less.", "out"),
        ("a [list]", "a [list]"),
    ],
)
def test_the_servers_own_words_are_told_apart(text: str, body: str) -> None:
    assert body_of(text) == body


def test_jobs_are_known_by_the_order_in_which_they_came() -> None:
    old, new = JobIds(), JobIds()
    for job in ("j1", "j12", "j2", None, ""):
        old.see(job)
    for job in ("a", "b", "c"):
        new.see(job)
    assert old.masked("j12 j1 j2 xj1 j11") == "<job 2> <job 1> <job 3> xj1 j11"
    assert new.masked("b a c a1") == "<job 2> <job 1> <job 3> a1"


def test_scores_within_two_standard_errors_are_the_same_within_noise() -> None:
    def compared(old: float, new: float, se: float | None, other: float | None = None) -> str:
        return compare_scores(Scored("submit", True, old, se), Scored("submit", True, new, other or se)).level

    assert compared(0.7, 0.7, None) == "exact"
    assert compared(0.7, 0.7 + 1e-13, None) == "exact"
    assert compared(0.7, 0.71, None) == "different"
    assert compared(0.70, 0.728, 0.01) == "noise"  # 2 * 0.01 * sqrt(2) = 0.0283
    assert compared(0.70, 0.729, 0.01) == "different"
    assert compared(0.70, 0.9, float("nan")) == "different"
    assert compared(0.70, 0.71, 0.0, 0.01) == "noise"
    bad = Scored("submit", False, code="shape")
    assert compare_scores(bad, bad).level == "exact"
    assert compare_scores(bad, Scored("submit", False, code="missing")).level == "different"
    assert compare_scores(bad, Scored("submit", True, 0.5, 0.1)).reason == "it was no score (shape), and is 0.5"


def test_ends_are_compared_where_there_is_one() -> None:
    assert compare_outcomes("scored", "scored").level == "exact"
    assert compare_outcomes("budget_exhausted", "abandoned").level == "exact"
    assert compare_outcomes("scored", "abandoned").level == "different"
    assert compare_outcomes(None, "abandoned").level == "skipped"
    assert compare_outcomes("infrastructure_error", "scored").level == "skipped"
    assert compare_finals(None, None).level == "exact"
    assert compare_finals(Scored("submit", True, 0.5), None).reason == "it was 0.5, and there is none now"
    assert compare_finals(None, Scored("submit", True, 0.5)).level == "different"


def test_the_worst_counts_and_what_was_skipped_does_not() -> None:
    assert worst(["exact", "skipped", "noise"]) == "noise"
    assert worst(["noise", "different", "exact"]) == "different"
    assert worst(["skipped", "exact"]) == "exact"
    assert worst(["skipped"]) == "skipped"
