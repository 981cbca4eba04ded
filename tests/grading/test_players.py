"""Players: honest programs are scored; whatever else a program does, the verdict is honest or typed."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from mlgym_mcp.grading.errors import GraderError, InvalidSubmission
from mlgym_mcp.grading.grader_process import PlayerLimits
from mlgym_mcp.grading.players import Ending, Player

pytestmark = pytest.mark.anyio

MATCHES = """
def grade(ctx):
    with ctx.player("strategy.py", "matches", rounds=4) as player:
        player.start(3)
        news, total = [], 0
        for turn in range(4):
            live = [0, 1, 2] if turn < 3 else [0, 2]
            moves = player.moves(live, news, low=0, high=1)
            news = [(match, move, match % 2) for match, move in zip(live, moves)]
            total += sum(moves)
    return Score({"score": total / 11}, private={"roll": ctx.rng("opponent").random()})
"""
COPY = "def move(history):\n    return history[-1][1] if history else 1\n"


async def test_an_honest_strategy_is_scored(bench: Any) -> None:
    result = await bench.grade(MATCHES, {"strategy.py": COPY})
    assert result.metrics == {"score": pytest.approx((3 + 1 + 1 + 0) / 11)}


async def test_prints_cannot_disturb_the_answers_and_are_shown_on_validation_only(bench: Any) -> None:
    chatty = (
        "import os, sys\nprint('hello')\ndef move(history):\n    print('x' * 10)\n"
        "    os.write(1, b'raw'); sys.stderr.write('err'); sys.stdin.read()\n    return 1\n"
    )
    val = await bench.grade(MATCHES, {"strategy.py": chatty})
    assert val.metrics == {"score": 1.0}
    assert "hello" in val.public["player_stderr"][0]
    test = await bench.grade(MATCHES, {"strategy.py": chatty}, split="test")
    assert test.metrics == {"score": 1.0}
    assert "hello" not in str(test.public)
    assert test.reason is None


SHORT = PlayerLimits(call_timeout_s=1.0, load_timeout_s=20, total_timeout_s=20)


@pytest.mark.parametrize(
    ("name", "program", "code", "said"),
    [
        ("no file", None, "missing", "strategy.py is not in the submission"),
        ("no move", "x = 1\n", "missing", "no function move()"),
        ("syntax", "def move(\n", "crash", "SyntaxError"),
        ("import error", "import nothing_here\n", "crash", "ModuleNotFoundError"),
        ("raises", "def move(h):\n    return 1 / 0\n", "crash", "ZeroDivisionError"),
        ("exits", "def move(h):\n    raise SystemExit(0)\n", "crash", "SystemExit"),
        ("exit at import", "import os\nprint('{\"score\": 1}')\nos._exit(0)\n", "crash", "exit code 0"),
        ("exit in move", "import os\ndef move(h):\n    os._exit(7)\n", "crash", "exit code 7"),
        ("signal", "import os\ndef move(h):\n    os.kill(os.getpid(), 11)\n", "crash", "ended when asked"),
        ("out of range", "def move(h):\n    return 2\n", "range", "between 0 and 1"),
        ("negative", "def move(h):\n    return -1\n", "range", "it returned -1"),
        ("huge", "def move(h):\n    return 10 ** 4000\n", "range", "between 0 and 1"),
        ("absurd", "def move(h):\n    return 10 ** 30000\n", "crash", "ValueError"),
        ("float", "def move(h):\n    return 0.5\n", "range", "returned 0.5"),
        ("none", "def move(h):\n    return None\n", "range", "None"),
        ("list", "def move(h):\n    return [1]\n", "range", "must return an integer"),
        ("endless list", "def move(h):\n    return [1] * 100_000\n", "protocol", "at most 65536"),
        ("never", "import time\ndef move(h):\n    time.sleep(600)\n", "timeout", "1 seconds allowed per call"),
        ("late", "import time\ndef move(h):\n    time.sleep(1.3)\n    return 1\n", "timeout", "per call"),
        ("deaf", "import os, signal\ndef move(h):\n    os.kill(os.getpid(), 19)\n", "timeout", "per call"),
        ("recursion", "def move(h):\n    return move(h)\n", "crash", "RecursionError"),
    ],
)
async def test_a_bad_program_is_invalid_with_a_typed_reason(
    bench: Any, name: str, program: str | None, code: str, said: str
) -> None:
    bench.limits = SHORT
    result = await bench.grade(MATCHES, {"strategy.py": program} if program else {"other.py": COPY})
    assert not result.valid
    assert result.metrics == {}
    assert result.reason_code == code
    assert said in result.reason


async def test_what_a_program_says_of_itself_is_withheld_on_the_test_split(bench: Any) -> None:
    leak = "def move(h):\n    raise ValueError('the test inputs were 42')\n"
    result = await bench.grade(MATCHES, {"strategy.py": leak}, split="test")
    assert result.reason_code == "crash"
    assert "42" not in result.reason + str(result.public)
    assert "42" in result.private["detail"]


RAW = """
import json, os, struct, sys, time
FDS = [fd for fd in range(10, 64) if os.path.exists(f"/proc/self/fd/{fd}")]
PIPES = [fd for fd in FDS if "null" not in os.readlink(f"/proc/self/fd/{fd}")]
READ, WRITE = PIPES[0], PIPES[1]
def frame(header, payload=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<I", len(raw) if length is None else length) + raw + payload
"""


@pytest.mark.parametrize(
    ("name", "attack", "codes"),
    [
        ("garbage", "os.write(WRITE, b'\\xff' * 64); time.sleep(9)", {"protocol"}),
        ("giant header", "os.write(WRITE, frame(b'', length=2**32 - 1)); time.sleep(9)", {"protocol"}),
        ("no json", "os.write(WRITE, frame(b'\\x00{]')); time.sleep(9)", {"protocol"}),
        ("deep json", "os.write(WRITE, frame(b'[' * 60000)); time.sleep(9)", {"protocol"}),
        ("NaN", "os.write(WRITE, frame(b'{\"seq\":NaN}')); time.sleep(9)", {"protocol"}),
        ("a list", "os.write(WRITE, frame([1])); time.sleep(9)", {"protocol"}),
        ("wrong number", "os.write(WRITE, frame({'seq': 99, 'ok': True})); time.sleep(9)", {"protocol"}),
        ("true number", "os.write(WRITE, frame({'seq': True, 'ok': True})); time.sleep(9)", {"protocol"}),
        ("no ok", "os.write(WRITE, frame({'seq': 1})); time.sleep(9)", {"protocol"}),
        ("ok is 1", "os.write(WRITE, frame({'seq': 1, 'ok': 1})); time.sleep(9)", {"protocol"}),
        ("result is a list", "os.write(WRITE, frame({'seq': 1, 'ok': True, 'result': []}))", {"protocol"}),
        ("own code", "os.write(WRITE, frame({'seq': 1, 'ok': False, 'code': 'xyz', 'error': 3}))", {"crash"}),
        (
            "early answers",
            "os.write(WRITE, b''.join(frame({'seq': n, 'ok': True}) for n in range(1, 9)))",
            {"protocol"},
        ),
        ("cut frame", "os.write(WRITE, frame({'seq': 1, 'ok': True})[:-3]); os._exit(0)", {"crash"}),
        ("slow drip", "[(os.write(WRITE, bytes([b])), time.sleep(0.5)) for b in frame({'seq': 1})]", {"timeout"}),
        ("closed", "os.close(WRITE); time.sleep(9)", {"crash"}),
        ("flood of frames", "while True: os.write(WRITE, b'\\0' * 65536)", {"protocol"}),
        ("swallowed question", "os.read(READ, 1 << 20); time.sleep(0.1)", {"timeout", "protocol", "crash"}),
    ],
)
async def test_a_program_that_finds_the_pipe_can_only_spoil_its_own_answers(
    bench: Any, name: str, attack: str, codes: set[str]
) -> None:
    bench.limits = PlayerLimits(call_timeout_s=2.0, load_timeout_s=2.5, total_timeout_s=20)
    program = RAW + attack + "\n" + COPY
    if name == "swallowed question":
        program = RAW + "def move(h):\n    " + attack + "\n    return 1\n"
    result = await bench.grade(MATCHES, {"strategy.py": program})
    if result.valid:  # a race that the program lost, or an answer of its own making: still only moves
        assert 0 <= result.metrics["score"] <= 1
    else:
        assert result.reason_code in codes


async def test_a_forged_answer_is_only_a_move(bench: Any) -> None:
    """The program answers behind the player's back: legal moves count, nothing else comes of it."""
    forge = (
        RAW
        + """
def move(history):
    return 0
from mlgym_sandbox.inside.player import matches
matches.whole = lambda value: 1
"""
    )
    result = await bench.grade(MATCHES, {"strategy.py": forge})
    assert result.metrics == {"score": 1.0}


async def test_gigabytes_printed_are_neither_kept_nor_waited_for(bench: Any) -> None:
    bench.limits = PlayerLimits(call_timeout_s=3.0, load_timeout_s=20, total_timeout_s=20)
    flood = "import os\ndef move(h):\n    for _ in range(16):\n        os.write(1, b'x' * (1 << 20))\n    return 1\n"
    result = await bench.grade(MATCHES, {"strategy.py": flood})
    assert len(str(result.public)) < 20_000
    assert result.valid or result.reason_code in ("timeout", "crash")


async def test_forked_children_do_not_outlive_the_player(bench: Any, tmp_path: Path) -> None:
    pids = tmp_path / "forked"
    fork = f"""
import os, time
def move(h):
    child = os.fork()
    if child == 0:
        time.sleep(600)
    open({str(pids)!r}, "a").write(f"{{child}} ")
    return 1
"""
    result = await bench.grade(MATCHES, {"strategy.py": fork})
    assert result.metrics == {"score": 1.0}
    deadline = time.monotonic() + 5
    children = [int(pid) for pid in pids.read_text().split()]
    assert len(children) == 11
    while any(running(pid) for pid in children):
        assert time.monotonic() < deadline, "a forked child is still there"
        await anyio.sleep(0.01)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_patched_random_module_does_not_touch_the_opponents(bench: Any) -> None:
    patch = "import random\nrandom.seed(0)\nrandom.random = lambda: 0.5\nrandom.Random.random = random.random\n"
    honest = await bench.grade(MATCHES, {"strategy.py": COPY})
    patched = await bench.grade(MATCHES, {"strategy.py": patch + COPY})
    assert honest.private["roll"] == patched.private["roll"]
    assert random.random() != 0.5


async def test_a_total_time_limit_holds_over_many_quick_answers(bench: Any) -> None:
    bench.limits = PlayerLimits(call_timeout_s=5, load_timeout_s=20, total_timeout_s=1.0)
    slow = "import time\ndef move(h):\n    time.sleep(0.15)\n    return 1\n"
    result = await bench.grade(MATCHES, {"strategy.py": slow})
    assert result.reason_code == "timeout"
    assert "1 seconds allowed for all its answers" in result.reason


async def test_a_slow_submission_is_invalid_before_the_grader_is_blamed(bench: Any) -> None:
    bench.timeout_s = 2.5
    result = await bench.grade(MATCHES, {"strategy.py": "import time\ntime.sleep(600)\n"})
    assert result.reason_code == "timeout"


async def test_a_sandbox_lost_on_the_way_is_infrastructure_and_no_verdict(bench: Any, sandboxes: Any) -> None:
    sandboxes.kind = sandboxes.lost
    with pytest.raises(GraderError, match="the engine was stopped") as caught:
        await bench.grade(MATCHES, {"strategy.py": COPY})
    assert caught.value.kind == "infrastructure"


async def test_a_sandbox_that_cannot_be_made_is_infrastructure_and_no_verdict(bench: Any) -> None:
    async def none() -> Any:
        from mlgym_sandbox.errors import BackendUnavailableError

        raise BackendUnavailableError("no engine")

    bench.player_factory = none
    with pytest.raises(GraderError, match="no engine") as caught:
        await bench.grade(MATCHES, {"strategy.py": COPY})
    assert caught.value.kind == "infrastructure"


async def test_a_grader_that_forgets_or_hoards_players_leaves_none(bench: Any, sandboxes: Any) -> None:
    hoard = """
def grade(ctx):
    for _ in range(50):
        ctx.player("strategy.py", "matches")
"""
    bench.limits = PlayerLimits(max_players=2, load_timeout_s=20)
    with pytest.raises(GraderError, match="more than 2 players"):
        await bench.grade(hoard, {"strategy.py": COPY})
    assert len(sandboxes.made) == 2  # and the fixture checks that both are closed


async def test_a_crashing_grader_leaves_no_player(bench: Any, sandboxes: Any) -> None:
    crash = "import os\ndef grade(ctx):\n    ctx.player('strategy.py', 'matches')\n    os._exit(1)\n"
    with pytest.raises(GraderError):
        await bench.grade(crash, {"strategy.py": COPY})
    assert len(sandboxes.made) == 1


async def test_a_player_sees_the_submission_and_nothing_hidden(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "labels.txt").write_text("SECRET-LABELS")
    look = """
import os, sys
def look():
    found = {"files": sorted(os.listdir(".")), "env": "".join(f"{k}={v} " for k, v in os.environ.items())}
    found["args"] = open("/proc/self/cmdline").read()
    found["modules"] = sorted(name for name in sys.modules if name.startswith("mlgym"))
    return found
"""
    grader = """
def grade(ctx):
    with ctx.player("look.py", "call", hint=1) as player:
        return Score({"score": 0.0}, private=player.function("look"))
"""
    seen = (await bench.grade(grader, {"look.py": look, "lib/x.py": ""})).private
    assert seen["files"] == ["lib", "look.py"]
    own = ("mlgym_sandbox", "mlgym_sandbox.inside")
    assert [name for name in seen["modules"] if not name.startswith("mlgym_sandbox.inside.player")] == [*own]
    for word in ("SECRET", str(tmp_path / "private"), (b"w" * 32).hex()):
        assert word not in seen["env"] + seen["args"]


async def test_a_programs_own_modules_are_importable_from_where_it_lies(bench: Any) -> None:
    files = {
        "bots/strategy.py": "from helper import MOVE\nimport top\ndef move(h):\n    return MOVE * top.ONE\n",
        "bots/helper.py": "MOVE = 1\n",
        "top.py": "ONE = 1\n",
    }
    result = await bench.grade(MATCHES.replace('"strategy.py"', '"bots/strategy.py"'), files)
    assert result.metrics == {"score": 1.0}


async def test_large_batches_and_lists_of_integers_go_through(bench: Any) -> None:
    grader = """
def grade(ctx):
    with ctx.player("strategy.py") as player:
        player.start(2500)
        first = player.moves(range(2500), low=0, high=120, length=6)
        news = [(match, move, [20] * 6) for match, move in enumerate(first)]
        second = player.moves(range(2500), news, low=0, high=120, length=6)
    assert first == [[20] * 6] * 2500 and second == [[0] * 6] * 2500
    return Score({"score": 1.0})
"""
    strategy = "def move(history):\n    return [0] * 6 if history == [([20] * 6, [20] * 6)] else (20,) * 6\n"
    assert (await bench.grade(grader, {"strategy.py": strategy})).valid


# -- the referee's end alone, against a stream that is not a program ------------------------------------------


@pytest.fixture
def pair() -> Any:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def player_on(connection: socket.socket, **options: Any) -> Player:
    limits = {"call_timeout_s": 0.3, "total_timeout_s": 10.0, "deadline": time.monotonic() + 10} | options
    return Player(connection, entry="s.py", **limits)


def answer(stream: socket.socket, *replies: bytes) -> threading.Thread:
    """Another thread that reads a question and gives an answer, for each answer."""

    def run() -> None:
        for reply in replies:
            (length,) = struct.unpack("<I", stream.recv(4))
            stream.recv(length)
            stream.sendall(reply)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def framed(raw: bytes) -> bytes:
    return struct.pack("<I", len(raw)) + raw


def test_payloads_are_exactly_as_long_as_the_referee_computed(pair: Any) -> None:
    thread = answer(pair[1], framed(b'{"seq":1,"ok":true,"size":999999}') + b"abcd")
    assert player_on(pair[0]).call("act", reply_bytes=4) == ({}, b"abcd")
    thread.join()


def test_a_short_payload_is_waited_for_only_until_the_deadline(pair: Any) -> None:
    thread = answer(pair[1], framed(b'{"seq":1,"ok":true}') + b"abc")
    with pytest.raises(InvalidSubmission) as caught:
        player_on(pair[0]).call("act", reply_bytes=4)
    assert caught.value.code == "timeout"
    thread.join()


def test_a_long_payload_is_a_word_too_early(pair: Any) -> None:
    thread = answer(pair[1], framed(b'{"seq":1,"ok":true}') + b"abcde")
    player = player_on(pair[0])
    player.call("act", reply_bytes=4)
    thread.join()
    with pytest.raises(InvalidSubmission) as caught:
        player.call("act", reply_bytes=4)
    assert caught.value.code == "protocol"
    assert "before the question" in caught.value.detail


def test_a_player_that_does_not_read_is_late(pair: Any) -> None:
    with pytest.raises(InvalidSubmission) as caught:
        player_on(pair[0]).call("act", payload=bytes(16 << 20))
    assert caught.value.code == "timeout"


def test_memory_is_named_as_the_reason_when_the_server_says_so(pair: Any) -> None:
    pair[1].close()
    with pytest.raises(InvalidSubmission, match="ran out of memory"):
        player_on(pair[0], ending=lambda: Ending(exit_code=137, oom=True)).call("move")


@pytest.mark.parametrize(
    ("act", "reply", "said"),
    [
        ({"dtype": "u1", "lt": 3}, bytes([0, 3]), "below 3"),
        ({"dtype": "i2", "lt": 3}, struct.pack("<2h", 0, -1), "below 3"),
        ({"dtype": "f4"}, struct.pack("<2f", 0.0, float("nan")), "finite"),
        ({"dtype": "f8"}, struct.pack("<2d", float("inf"), 0.0), "finite"),
        ({"dtype": "u1", "lt": 3}, bytes([0, 2]), ""),
        ({"dtype": "f4", "shape": [1]}, struct.pack("<2f", -1.5, 2.0), ""),
    ],
)
def test_actions_are_checked_for_range_and_finiteness(pair: Any, act: dict[str, Any], reply: bytes, said: str) -> None:
    thread = answer(pair[1], framed(b'{"seq":1,"ok":true}'), framed(b'{"seq":2,"ok":true}') + reply)
    player = player_on(pair[0])
    player.hello("policy", {"obs": {"dtype": "u1", "shape": [2]}, "act": act, "n": 2}, timeout_s=1)

    def ask() -> bytes:
        return player.act(bytes(4))

    if said:
        with pytest.raises(InvalidSubmission, match=said) as caught:
            ask()
        assert caught.value.code == "range"
    else:
        assert ask() == reply
    thread.join()


# -- role "policy": arrays need numpy, which the sandboxes' environment has and the server's has not ----------

POLICY = """
import array
def grade(ctx):
    facts = {"obs": {"dtype": "i2", "shape": [2]}, "act": {"dtype": "u1", "lt": 3}, "n": 4}
    with ctx.player("policy.py", "policy", **facts) as player:
        player.load(1)
        player.reset()
        obs = array.array("h", range(8)).tobytes()
        first = player.act(obs)
        second = player.act(obs, bytes([1, 0, 0, 0]))
        player.reset(1)
        third = player.act(array.array("h", [5, 5]).tobytes())
    return Score({"score": 1.0}, private={"acts": [list(first), list(second), list(third)]})
"""
TABLE = """
import os
import numpy as np
class Policy:
    def __init__(self, index):
        self.index = index
    def reset(self, n):
        self.steps = np.zeros(n, dtype=np.int64)
    def act(self, obs, done):
        assert obs.dtype == np.int16 and done.dtype == bool and obs.shape == (len(done), 2)
        self.steps[done] = 0
        self.steps += 1
        return (obs.sum(axis=1) + self.steps + self.index) % 3
def make_policy(folder, index):
    assert "policy.py" in os.listdir(folder)
    return Policy(index)
"""


@pytest.fixture
def numpy_python() -> str:
    from mlgym_sandbox.environment import find

    light = find("light")
    if light is None:
        pytest.skip("the light environment is not prepared")
    return str(light.python)


async def test_a_policy_plays_with_raw_arrays(bench: Any, sandboxes: Any, numpy_python: str) -> None:
    sandboxes.python = numpy_python
    result = await bench.grade(POLICY, {"policy.py": TABLE})
    sums = [1, 5, 9, 13]
    assert result.private["acts"] == [
        [(total + 2) % 3 for total in sums],
        [(total + 1 + (2 if at else 1)) % 3 for at, total in enumerate(sums)],
        [(10 + 2) % 3],
    ]


@pytest.mark.parametrize(
    ("returned", "code", "said"),
    [
        ("np.zeros(3, dtype=int)", "format", "shape (3,), expected (4,)"),
        ("np.full(4, 3)", "range", "from 0 to below 3"),
        ("np.full(4, -1)", "range", "uint8 cannot hold"),
        ("np.full(4, 0.5)", "range", "uint8 cannot hold"),
        ("np.full(4, np.nan)", "range", "uint8 cannot hold"),
        ("np.array(['a'] * 4)", "format", "expected numbers"),
        ("None", "format", "shape (), expected (4,)"),
        ("1 / 0", "crash", "ZeroDivisionError"),
    ],
)
async def test_actions_of_the_wrong_kind_are_refused(
    bench: Any, sandboxes: Any, numpy_python: str, returned: str, code: str, said: str
) -> None:
    sandboxes.python = numpy_python
    program = f"""
import numpy as np
class Policy:
    def act(self, obs, done):
        return {returned}
def make_policy(folder, index):
    return Policy()
"""
    result = await bench.grade(POLICY, {"policy.py": program})
    assert result.reason_code == code
    assert said in result.reason


ARRAYS_MODEL = """
import numpy as np
class Model:
    def __init__(self, folder):
        self.folder = folder
    def scores(self, tokens, scale):
        return {answer}
def load(folder):
    return Model(folder)
"""
ARRAYS_GRADER = """
import struct
def grade(ctx):
    with ctx.player("model.py", "arrays", make="load") as player:
        inputs = [("u1", (2, 3), bytes([1, 2, 3, 4, 5, 6])), ("f4", (1,), struct.pack("<f", 0.5))]
        raw = player.arrays("scores", inputs, out=("f4", (2, 2)))
    return Score({"score": 0.5}, private={"values": struct.unpack("<4f", raw)})
"""


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("np.stack([tokens.sum(1) * scale[0], tokens[:, 0]], 1)", None),
        ("tokens", "format"),
        ("np.zeros((2, 2), complex)", "format"),
        ("[['a', 'b'], ['c', 'd']]", "format"),
        ("None", "format"),
        ("open('/nonexistent')", "crash"),
    ],
)
async def test_arrays_go_out_and_one_of_the_promised_shape_comes_back(
    bench: Any, sandboxes: Any, numpy_python: str, answer: str, code: str | None
) -> None:
    sandboxes.python = numpy_python
    result = await bench.grade(ARRAYS_GRADER, {"model.py": ARRAYS_MODEL.replace("{answer}", answer)})
    assert result.reason_code == code, result
    if code is None:
        assert result.private["values"] == [3.0, 1.0, 7.5, 4.0]
