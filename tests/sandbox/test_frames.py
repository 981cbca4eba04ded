"""Frames: whatever is encoded is decoded again, however the stream is cut; anything else is an error."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlgym_sandbox.frames import HEADER_LIMIT, PAYLOAD_LIMIT, Decoder, Frame, FrameError, encode
from mlgym_sandbox.inside.runner import wire

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=30)
headers = st.dictionaries(st.text(max_size=10).filter(lambda key: key != "size"), scalars, max_size=5)
frames = st.lists(st.builds(Frame, headers, st.binary(max_size=300)), max_size=6)
cuts = st.lists(st.integers(1, 64), min_size=1, max_size=20)


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    parts, at, turn = [], 0, 0
    while at < len(data):
        parts.append(data[at : at + sizes[turn % len(sizes)]])
        at += sizes[turn % len(sizes)]
        turn += 1
    return parts


@given(frames, cuts)
def test_frames_survive_any_chopping(sent: list[Frame], sizes: list[int]) -> None:
    stream = b"".join(encode(frame.header, frame.payload) for frame in sent)
    decoder = Decoder()
    assert [frame for part in pieces(stream, sizes) for frame in decoder.feed(part)] == sent


@given(frames, cuts)
def test_the_runner_and_the_server_speak_the_same(sent: list[Frame], sizes: list[int]) -> None:
    decoder = wire.Decoder()
    stream = b"".join(encode(frame.header, frame.payload) for frame in sent)
    heard = [said for part in pieces(stream, sizes) for said in decoder.feed(part)]
    assert [({key: header[key] for key in header if key != "size"}, data) for header, data in heard] == [
        (frame.header, frame.payload) for frame in sent
    ]
    answers = Decoder()
    back = b"".join(wire.encode(dict(frame.header), frame.payload) for frame in sent)
    assert [frame for part in pieces(back, sizes) for frame in answers.feed(part)] == sent


@given(st.binary(max_size=400), cuts)
def test_rubbish_is_refused_or_waited_on_but_never_crashes(data: bytes, sizes: list[int]) -> None:
    for decoder, error in ((Decoder(), FrameError), (wire.Decoder(), ValueError)):
        try:
            for part in pieces(data, sizes):
                for _ in decoder.feed(part):
                    pass
        except error:
            pass


def raw(header: Any) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<I", len(text)) + text


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<I", HEADER_LIMIT + 1),
        raw([1]),
        raw(b"{"),
        raw(b"[" * 60_000),
        raw({"size": PAYLOAD_LIMIT + 1}),
        raw({"size": -1}),
        raw({"size": "7"}),
        raw({"size": 1.5}),
    ],
)
def test_a_header_that_is_none_is_an_error(data: bytes) -> None:
    with pytest.raises(FrameError):
        list(Decoder().feed(data))
    with pytest.raises(ValueError, match=r"."):
        list(wire.Decoder().feed(data))


def test_what_is_too_large_is_not_sent() -> None:
    encode({}, bytes(PAYLOAD_LIMIT))
    with pytest.raises(FrameError):
        encode({}, bytes(PAYLOAD_LIMIT + 1))
    with pytest.raises(FrameError):
        encode({"x": "y" * HEADER_LIMIT})
