"""Episodes as exports see them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlgym_mcp.records.exports.messages import messages_in_sweeps, messages_of, read_messages
from mlgym_mcp.records.exports.reading import read_trajectory
from mlgym_mcp.records.exports.redaction import Redactor
from mlgym_mcp.records.exports.trajectory import Said, Turn
from tests.exports.episodes import SESSION, TOKEN, write_hostile, write_messages
from tests.records.written import lines, put_lines, write_episode


def test_what_was_in_flight_together_is_one_turn_and_every_call_has_its_outcome(tmp_path: Path) -> None:
    read = read_trajectory(write_hostile(tmp_path), Redactor())
    assert not read.from_messages
    assert isinstance(read.steps[0], Said)
    assert [[call.tool for call in turn.calls] for turn in read.turns] == [
        *(["shell"], ["read_file", "read_file"], ["write_file"], ["shell"], ["shell"], ["shell"]),
        *(["validate"], ["submit"]),
    ]
    assert [call.outcome for call in read.calls] == [
        *("ok", "error", "ok", "ok", "error", "refused", "cancelled", "ok", "ok")
    ]
    written = next(call for call in read.calls if call.tool == "write_file")
    assert written.arguments["content"].startswith("y" * 20_000)  # it lay in a blob
    assert next(c for c in read.calls if c.arguments.get("path") == "b \ufffd \u202e").text == "=1+1"
    assert len({call.id for call in read.calls}) == 9


def test_scores_are_those_that_were_shown(tmp_path: Path) -> None:
    read = read_trajectory(write_hostile(tmp_path), Redactor())
    assert [(mark.kind, mark.value) for mark in read.marks] == [("validate", 0.88), ("submit", 0.75)]
    assert read.final is not None
    assert read.about()["score"] == 0.75
    assert (read.outcome, read.agent, read.sweep, read.attempt) == ("scored", "a", "s", "7")


def test_an_agents_messages_are_used_with_the_times_and_numbers_of_the_journal(tmp_path: Path) -> None:
    folder = write_hostile(tmp_path)
    read = read_trajectory(folder, Redactor(), messages=write_messages(tmp_path / "messages.jsonl"))
    assert read.from_messages
    assert read.model == "openai:gpt-x"
    assert [step.role for step in read.steps if isinstance(step, Said)] == ["system", "user"]
    first, last = list(read.turns)
    assert first.thinking == "hm"
    assert first.tokens is not None
    assert (first.tokens.read, first.tokens.cached) == (100, 40)
    assert [(c.tool, c.seq is not None, c.outcome) for c in first.calls] == [
        ("shell", True, "ok"),
        ("nothing", False, "error"),
    ]
    assert first.calls[0].seconds == 0.25
    assert last.calls[0].outcome == "ok"  # though the model gave it the id of another, and an argument
    assert last.calls[0].seq is not None
    assert [tool["name"] for tool in read.tools] == ["shell"]
    assert TOKEN not in str(read)


def test_broken_messages_are_told_and_the_rest_is_used(tmp_path: Path) -> None:
    path = write_messages(tmp_path / "messages.jsonl")
    path.write_bytes(b"{}\n\xff\n[1]\n" + path.read_bytes() + b'{"role": "tool", "tool_call_id": 3}\n{"role"')
    heard = read_messages(path)
    assert heard.damage == "4 lines of messages.jsonl could not be read"
    assert sum(isinstance(step, Turn) for step in heard.steps) == 2


@pytest.mark.parametrize(
    "line", [{"role": "assistant", "tool_calls": [3, {"arguments": 4}], "usage": "x"}, {"role": 3}]
)
def test_messages_of_whatever_shape_break_nothing(tmp_path: Path, line: dict[str, object]) -> None:
    path = tmp_path / "messages.jsonl"
    path.write_text(json.dumps(line))
    read_messages(path)


def test_messages_are_found_beside_the_journal_or_where_the_sweep_says_but_never_outside(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    kept = write_messages(sweep / "messages" / "a.1" / "messages.jsonl")
    outside = write_messages(tmp_path / "elsewhere" / "messages.jsonl")
    (sweep / "messages.jsonl").symlink_to(outside)
    rows = [
        {"episode": "e1", "messages": "messages/a.1/messages.jsonl"},
        {"episode": "e2", "messages": "../elsewhere/messages.jsonl"},
        {"episode": "e3", "messages": str(outside)},
        {"episode": "e4", "messages": "messages.jsonl"},
        {"episode": "e5", "messages": "attempts.jsonl"},
        {"episode": "e6", "messages": None},
        {"episode": 7},
    ]
    ledger = sweep / "attempts.jsonl"
    ledger.write_text("".join(json.dumps(row) + "\n" for row in rows) + "no json\n")
    known = messages_in_sweeps([ledger])
    assert known == {"e1": kept}
    folder = write_episode(tmp_path, "e1")
    assert messages_of(folder, known) == kept
    beside = write_messages(folder / "messages.jsonl")
    assert messages_of(folder, known) == beside


def test_a_damaged_journal_is_told_and_the_rest_is_used(tmp_path: Path) -> None:
    folder = write_hostile(tmp_path)
    content = lines(folder)
    put_lines(folder, [*content[:2], b"\x00\n", *content[3:]])
    read = read_trajectory(folder, Redactor())
    assert "damaged lines left out" in read.damage
    assert read.outcome == "scored"
    put_lines(folder, content[1:])
    with pytest.raises(ValueError, match="which says what it is, is lost"):
        read_trajectory(folder, Redactor())


def test_arguments_that_were_not_kept_are_said_to_be_missing(tmp_path: Path) -> None:
    folder = write_hostile(tmp_path)
    for blob in (folder / "blobs").iterdir():
        blob.unlink()
    read = read_trajectory(folder, Redactor())
    written = next(call for call in read.calls if call.tool == "write_file")
    assert written.arguments["content"] == "[20042 characters that were not kept]"


def test_what_is_cut_ends_before_the_turn_and_has_no_outcome(tmp_path: Path) -> None:
    read = read_trajectory(write_hostile(tmp_path), Redactor())
    parallel = [call.seq for call in read.calls if call.tool == "read_file"]
    cut = read.before(parallel[1] or 0)
    assert [call.tool for call in cut.calls] == ["shell"]
    assert (cut.cut, cut.outcome, cut.final, cut.marks) == (True, "cut", None, ())
    submitted = next(call.seq for call in read.calls if call.tool == "submit")
    assert [mark.kind for mark in read.before(submitted or 0).marks] == ["validate"]
    assert read.before(10_000) is read


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghijklmnop1234",
        "AIzaSyA1234567890123456789012345678901",
        "github_pat_11AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "hf_abcdefghijklmnopqrstuvwxyz",
        "AKIAABCDEFGHIJKLMNOP",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-_123",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
        "Authorization: Bearer abcdef.123456-789",
        f"http://h/sessions/{SESSION}/mcp",
        f"mlgym-{SESSION[:24]}",
        TOKEN,
        SESSION,
        "known to us",
    ],
)
def test_secrets_are_taken_out_of_any_text(tmp_path: Path, secret: str) -> None:
    redactor = read_redactor(tmp_path)
    for text in (secret, f"é {secret}\n", f'{{"a": "{secret}"}}'):
        cleaned = redactor.text(text)
        assert "[redacted]" in cleaned
        assert secret not in cleaned
    assert redactor.found >= 3
    assert secret not in json.dumps(redactor.value({secret: [{"x": (secret, 1)}]}))


def read_redactor(tmp_path: Path) -> Redactor:
    import hashlib

    return Redactor(["known to us", ""], [hashlib.sha256(value.encode()).hexdigest() for value in (SESSION, TOKEN)])


def test_ordinary_text_stays_as_it_is(tmp_path: Path) -> None:
    text = "task-123 risk-free mask-rcnn the bearer of news 0123456789abcdef0123456789abcdee sklearn mlgym-mcp é"
    redactor = read_redactor(tmp_path)
    assert redactor.text(text) == text
    assert redactor.found == 0
