"""Sessions that nobody holds any more, found among the episodes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mlgym_mcp.session.ended import NOBODY, EndedSessions, digest_of
from mlgym_mcp.session.episode import Episode


def made(root: Path, session_id: str, token: str = "t", **fields: Any) -> Path:
    episode = Episode.create(root, "toy", session_id)
    digests = {"session": digest_of(session_id), "token": digest_of(token)}
    episode.journal.append("session", **{"digests": digests, **fields})
    episode.close()
    return episode.folder


def test_an_episode_is_found_by_its_sessions_id_and_opened_by_its_token_only(tmp_path: Path) -> None:
    sessions = EndedSessions()
    first, second = made(tmp_path, "a" * 32, "mine"), made(tmp_path, "b" * 32, "yours")
    found = sessions.find(tmp_path, "a" * 32)
    assert found is not None
    assert found.folder == first
    assert found.opened_by(b"mine")
    assert not any(found.opened_by(wrong) for wrong in (None, b"", b"yours", b"min", b"a" * 32, found.token.encode()))
    assert not any(NOBODY.opened_by(token) for token in (None, b"", b"mine"))
    other = sessions.find(tmp_path, "b" * 32)
    assert other is not None
    assert other.folder == second
    for unknown in ("", "a" * 31, "a" * 33, first.name, digest_of("a" * 32), "../" + first.name, "\udcff", "*"):
        assert sessions.find(tmp_path, unknown) is None
    secrets = ("a" * 32, "mine")
    assert not any(secret in (first / "events.jsonl").read_text() for secret in secrets)


def test_new_episodes_are_found_and_what_cannot_be_read_hides_nothing(tmp_path: Path) -> None:
    sessions = EndedSessions()
    assert sessions.find(tmp_path / "missing", "a" * 32) is None
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    made(tmp_path, "c" * 32, digests=None)
    (made(tmp_path, "d" * 32) / "events.jsonl").write_bytes(b"no journal\n")
    half = Episode.create(tmp_path, "toy", "e" * 32)
    os.utime(tmp_path, (1, 1))
    assert sessions.find(tmp_path, "e" * 32) is None
    half.journal.append("session", digests={"session": digest_of("e" * 32), "token": digest_of("t")})
    half.close()
    made(tmp_path, "f" * 32)
    os.utime(tmp_path, (1, 1))
    assert [sessions.find(tmp_path, letter * 32) is not None for letter in "cdef"] == [False, False, True, True]
    assert sessions.find(tmp_path / "elsewhere", "f" * 32) is None
    assert sessions.find(tmp_path, "f" * 32) is not None
