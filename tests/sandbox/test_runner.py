"""The runner by itself: the wire as another program would speak it, and its parts that can be tried alone."""

from __future__ import annotations

import ast
import json
import os
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlgym_sandbox.frames import HEADER_LIMIT, Decoder, encode
from mlgym_sandbox.inside import bundle, runner_command, runner_config, runner_source
from mlgym_sandbox.inside.runner import native
from mlgym_sandbox.inside.runner.globs import glob_expression
from mlgym_sandbox.inside.runner.identity import Identity
from mlgym_sandbox.inside.runner.output import OutputLog
from mlgym_sandbox.inside.runner.processes import Processes
from mlgym_sandbox.inside.runner.refusals import Refusal
from mlgym_sandbox.inside.runner.spawning import Spawner
from mlgym_sandbox.processes import process_started

MAGIC = secrets.token_bytes(32)


class Wire:
    """A runner over stdio, spoken to by hand."""

    def __init__(self, folder: Path, python: str = sys.executable, **config: Any) -> None:
        self.link, inside = socket.socketpair()
        self.link.settimeout(10)
        (folder / "workspace").mkdir(exist_ok=True)
        settings: dict[str, Any] = {
            "transport": "stdio",
            "kill": "descendants",
            "state_dir": str(folder / "state"),
            "workspace": str(folder / "workspace"),
            "cgroup_dir": None,
            **config,
        }
        self.process = subprocess.Popen(
            runner_command(python),
            stdin=inside.fileno(),
            stdout=inside.fileno(),
            env={"PATH": os.environ["PATH"], "SECRET": "of the server", **runner_config(**settings)},
        )
        inside.close()
        self.decoder = Decoder()
        self.numbers = 0

    def greet(self, before: bytes = b"") -> bytes:
        """Send the magic; return what came before its echo."""
        self.link.sendall(before + MAGIC)
        seen = b""
        while MAGIC not in seen:
            data = self.link.recv(1 << 20)
            assert data
            seen += data
        assert seen.endswith(MAGIC)  # nothing was asked since
        self.decoder = Decoder()
        return seen[: -len(MAGIC)]

    def ask(self, op: str, payload: bytes = b"", **args: Any) -> tuple[dict[str, Any], bytes]:
        self.numbers += 1
        self.link.sendall(encode({"id": self.numbers, "op": op, **args}, payload))
        while True:
            for frame in self.decoder.feed(self.link.recv(65536)):
                if frame.header.get("id") == self.numbers:
                    return dict(frame.header), frame.payload

    def run(self, command: str, **args: Any) -> tuple[dict[str, Any], bytes]:
        options: dict[str, Any] = {"cwd": None, "timeout_s": None, "keep_state": False, "stream": False}
        options |= {"grace_s": 1.0, "wait_s": 10, "limit": 65536, **args}
        what = json.dumps({"command": command, "env": {}}).encode()
        return self.ask("start", what, **options)

    def silent(self, seconds: float = 0.2) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self.link, selectors.EVENT_READ)
            return not selector.select(seconds)

    def close(self) -> None:
        self.link.close()
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    wire = Wire(tmp_path)
    yield wire
    wire.close()


def dies(pid: int) -> None:
    deadline = time.monotonic() + 5
    while process_started(pid) is not None:
        assert time.monotonic() < deadline


# --- the wire


def test_a_new_server_is_understood_after_one_that_died_in_the_middle_of_a_frame(wire: Wire) -> None:
    assert wire.greet() == b""
    assert wire.run("echo one")[1] == b"one\n"
    whole = encode({"id": 9, "op": "write", "path": "torn", "append": False}, bytes(100_000))
    for cut in (1, 3, 20, len(whole) - 50_000, len(whole) - 40, len(whole) - 31, len(whole) - 5, len(whole) - 1):
        wire.greet(before=whole[:cut])
        assert wire.run("ls; echo again")[1] == b"again\n", cut


def test_the_magic_is_found_even_when_it_arrives_in_pieces(wire: Wire) -> None:
    wire.greet()
    torn = encode({"id": 9, "op": "write", "path": "torn", "append": False}, b"0123456789")
    wire.link.sendall(torn[:-5] + MAGIC[:16])
    wire.link.sendall(MAGIC[16:])
    seen = b""
    while not seen.endswith(MAGIC):
        seen += wire.link.recv(1)
    assert wire.run("ls")[1] == b""


def test_a_payload_that_ends_like_the_magic_begins_is_taken_all_the_same(wire: Wire) -> None:
    wire.greet()
    for size in (1, 5, 31):
        assert wire.ask("write", b"x" + MAGIC[:size], path="f", append=False)[0]["ok"]
        assert wire.ask("read", path="f", offset=0, limit=100)[1] == b"x" + MAGIC[:size]


def test_what_is_left_of_an_old_conversation_is_not_sent_to_a_new_server(wire: Wire) -> None:
    wire.greet()
    wire.run("head -c 900000 /dev/zero")
    for number in range(20):  # asked for, never read
        wire.link.sendall(encode({"id": number, "op": "output", "job": "j1", "offset": 0, "limit": 1 << 20}))
    wire.greet()
    assert wire.run("echo mine")[1] == b"mine\n"


def test_rubbish_makes_it_deaf_until_the_next_magic(wire: Wire) -> None:
    wire.greet()
    wire.link.sendall((HEADER_LIMIT + 1).to_bytes(4, "little") + b"rubbish")
    wire.link.sendall(encode({"id": 1, "op": "ping"}))
    assert wire.silent()
    wire.greet()
    assert wire.ask("ping")[0]["ok"]


def test_nothing_is_answered_before_the_magic(wire: Wire) -> None:
    frame = encode({"id": 1, "op": "ping"})
    wire.link.sendall(frame)
    assert wire.silent(0.3)


def test_a_request_that_makes_no_sense_is_refused_and_harms_nothing(wire: Wire) -> None:
    wire.greet()
    for op in ("nope", "__init__", "start", "wait", "output", "read", "write", "tar", "list", "feed", "stdin"):
        answer, _ = wire.ask(op)
        assert not answer["ok"], op
        assert answer["message"]
    assert wire.ask("read", path=7, offset=0, limit=1)[0]["kind"] == "file"
    assert wire.ask("read", path="\ud800", offset=0, limit=1)[0]["kind"] == "misuse"
    assert wire.ask("ping")[0]["ok"]


def test_a_command_sees_neither_the_configuration_nor_the_servers_environment(wire: Wire) -> None:
    wire.greet()
    _, output = wire.run("env; ls -l /proc/self/fd")
    text = output.decode()
    assert "MLGYM_RUNNER" not in text
    assert "SECRET" not in text
    assert "DATA_DIR=/data" in text
    assert text.count("->") == 4  # stdin, stdout, stderr and the folder that ls has open


def test_it_ends_itself_when_no_server_speaks_and_takes_its_commands_along(tmp_path: Path) -> None:
    wire = Wire(tmp_path, ttl_s=0.5)
    try:
        wire.greet()
        answer, output = wire.run("sleep 77 & echo $!", wait_s=5)
        assert answer["ok"]
        assert wire.process.wait(10) == 0
        dies(int(output))
    finally:
        wire.close()


def test_sigterm_ends_it_and_its_commands(wire: Wire) -> None:
    wire.greet()
    _, output = wire.run("(trap '' TERM; setsid sleep 77 > /dev/null & echo $!)")
    wire.process.send_signal(signal.SIGTERM)
    assert wire.process.wait(10) == 0
    dies(int(output))


def test_a_server_that_closes_stdin_does_not_end_it(tmp_path: Path) -> None:
    wire = Wire(tmp_path)
    try:
        wire.greet()
        wire.link.shutdown(socket.SHUT_WR)
        with pytest.raises(subprocess.TimeoutExpired):
            wire.process.wait(0.7)
    finally:
        wire.close()


def oldest_python() -> str | None:
    names = [f"python3.{minor}" for minor in (9, 10)]
    found = [path for name in names if (path := shutil.which(name))]
    for path in found:
        if subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    return None


def test_it_runs_on_an_old_python(tmp_path: Path) -> None:
    for text in (runner_source(), *bundle.modules().values()):
        ast.parse(text, feature_version=(3, 9))
    python = oldest_python()
    if python is None:
        pytest.skip("no older Python here to run it with")
    wire = Wire(tmp_path, python)
    try:
        wire.greet()
        assert wire.run("echo old")[1] == b"old\n"
        wire.run("export A=1", keep_state=True)
        assert wire.run("echo $A", keep_state=True)[1] == b"1\n"
        assert wire.ask("list", path=".", depth=1, limit=9, hidden=True, timeout_s=5)[0]["ok"]
        options = {"path": ".", "glob": None, "ignore_case": False, "limit": 9, "timeout_s": 5}
        assert wire.ask("search", pattern="x", **options)[0]["ok"]
        assert wire.ask("tar", patterns=["*"], max_bytes=9, max_files=9, freeze=False, timeout_s=5)[0]["ok"]
    finally:
        wire.close()


def test_it_needs_nothing_but_the_standard_library_and_fits_into_one_argument() -> None:
    for text in (runner_source(), *bundle.modules().values()):
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            known = sys.stdlib_module_names | bundle.modules().keys()
            assert {name if name.startswith("mlgym") else name.split(".")[0] for name in names} <= known
    assert len(runner_source().encode()) < 128 * 1024


def test_it_starts_without_the_large_modules_of_the_standard_library() -> None:
    code = (
        f"{bundle.LOADER.read_text()}\n"
        f"sys.meta_path.insert(0, Parts({dict(bundle.modules())!r}))\n"
        "import mlgym_sandbox.inside.runner.main\n"
        "print(*sys.modules)"
    )
    command = [sys.executable, "-I", "-S", "-B", "-"]
    loaded = subprocess.run(command, input=code, capture_output=True, text=True, check=True).stdout.split()
    assert "mlgym_sandbox.inside.runner.jobs" in loaded
    large = {"re", "enum", "collections", "typing", "json", "subprocess", "socket", "tempfile", "ctypes", "tarfile"}
    assert not large & set(loaded)


# --- its parts


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_its_json_is_that_of_the_standard_library(value: Any) -> None:
    assert native.dumps(value) == json.dumps(value, separators=(",", ":"))
    assert native.loads(json.dumps(value, indent=1).encode()) == value


@pytest.mark.parametrize("text", [b"", b" ", b"{", b"{}x", b"[1,]", b"nothing", b"\xff", b'{"a" 1}', b"{} {}"])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the words differ
        native.loads(text)


class Busy(Spawner):
    """At the limit of processes for as many attempts."""

    def __init__(self, attempts: int) -> None:
        super().__init__(Processes(Identity(None, None), everyone=False))
        self.attempts, self.reaped = attempts, 0
        self.processes.reap = self.reap

    def reap(self) -> None:
        self.reaped += 1

    def fork_exec(self, argv: Any, env: Any, descriptors: Any, keep: Any) -> int:
        self.attempts -= 1
        if self.attempts >= 0:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return 4711


@pytest.mark.parametrize(("attempts", "starts"), [(0, True), (1, True), (2, False)])
def test_a_start_at_the_limit_of_processes_is_tried_again_once_after_reaping(attempts: int, starts: bool) -> None:
    before = Path.cwd()
    try:
        spawner = Busy(attempts)
        if starts:
            assert spawner.spawn(["true"], {}, "/", None, 1, 2, []) == 4711
        else:
            with pytest.raises(Refusal, match="no process can be started"):
                spawner.spawn(["true"], {}, "/", None, 1, 2, [])
        assert spawner.reaped == min(attempts, 1)
        os.close(spawner.null)
    finally:
        os.chdir(before)


@pytest.mark.parametrize("how", ["fork_exec", "popen"])
def test_both_ways_to_start_a_program_give_it_the_same(how: str) -> None:
    spawner = Spawner(Processes(Identity(None, None), everyone=False))
    start = getattr(spawner, how)
    read, write = os.pipe()
    kept = os.dup(spawner.null)
    os.set_inheritable(write, True)  # and yet not inherited
    script = "echo $A; readlink /proc/self/fd/0; ls -v /proc/$$/fd; ps -o sid= -p $$"
    try:
        pid = start(
            ["bash", "-c", script], {"A": "1", "PATH": os.environ["PATH"]}, (spawner.null, write, write), [kept]
        )
        os.close(write)
        with open(read) as output:
            words = output.read().split()
        assert os.waitpid(pid, 0)[1] == 0
        assert words == ["1", "/dev/null", "0", "1", "2", str(kept), str(pid)]
        with pytest.raises(FileNotFoundError):
            start(["no-such-program"], {"PATH": "/usr/bin"}, (spawner.null, 1, 2), [])
        with pytest.raises(PermissionError):
            start(["/etc/passwd"], {}, (spawner.null, 1, 2), [])
    finally:
        os.close(kept)
        os.close(spawner.null)


@given(st.lists(st.binary(max_size=60), max_size=30), st.integers(8, 64), st.integers(-200, 2000), st.integers(0, 100))
def test_kept_output_is_what_was_printed(parts: list[bytes], limit: int, offset: int, size: int) -> None:
    log = OutputLog("/tmp", limit, lambda: False)
    try:
        for part in parts:
            log.append(part)
        everything = b"".join(parts)
        assert log.total == len(everything)
        start, data = log.read(offset, size)
        asked = max(0, len(everything) + offset) if offset < 0 else min(offset, len(everything))
        assert data == everything[start : start + len(data)]
        if len(everything) <= limit:
            assert (start, data) == (asked, everything[asked : asked + size])
        elif size and asked < len(everything):
            head, tail = limit * 3 // 4, len(everything) - (limit - limit * 3 // 4)
            assert start == (asked if asked < head or asked >= tail else tail)
            assert data or start == len(everything)
    finally:
        log.drop()
    assert log.kept == 0


def test_output_on_a_full_disk_keeps_its_beginning_and_goes_on_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    log = OutputLog("/tmp", 1000, lambda: False)
    log.append(b"a" * 500)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    log.append(b"b" * 500)
    log.append(b"c" * 5000)
    assert log.total == 6000
    assert log.read(400, 1000) == (400, b"a" * 100)
    assert log.read(-10, 10) == (6000, b"")
    log.drop()


@pytest.mark.parametrize(
    ("glob", "name", "matches"),
    [
        ("*.py", "a.py", True),
        ("*.py", "d/a.py", False),
        ("**/*.py", "a.py", True),
        ("**/*.py", "d/e/a.py", True),
        ("d/**", "d/e/a.py", True),
        ("d/**", "d", False),
        ("[ab]?.txt", "ax.txt", True),
        ("[!ab]?.txt", "ax.txt", False),
        ("a[", "a[", True),
        ("(x|y)+.txt", "x.txt", False),
        ("[]]", "]", True),
    ],
)
def test_globs(glob: str, name: str, matches: bool) -> None:
    import re

    assert bool(re.fullmatch(glob_expression(glob), name)) is matches
