"""What every backend promises: jobs, their output and their end, streams, loss and return."""

from __future__ import annotations

import re
import signal
from functools import partial

import anyio
import pytest

from mlgym_sandbox import JobNotFoundError, JobStatus, Sandbox, SandboxError, SandboxFileError, SandboxLostError
from tests.sandbox.conftest import SMALL, Place, nothing_runs, run

pytestmark = pytest.mark.anyio

MIB = 1 << 20


# --- commands


async def test_a_command_runs_in_the_workspace_and_its_output_and_exit_code_come_back(box: Sandbox) -> None:
    status, output = await run(box, "echo out; echo err >&2; touch here; exit 7")
    assert (status.state, status.exit_code, status.reason, status.oom) == ("exited", 7, None, False)
    assert output == "out\nerr\n"
    assert status.output_bytes == 8
    assert (await box.stat("here")).kind == "file"


async def test_a_list_is_executed_without_a_shell(box: Sandbox) -> None:
    _, output = await run(box, ["printf", "%s|", "a b", "$HOME", "*"])
    assert output == "a b|$HOME|*|"


async def test_the_environment_is_clean_and_can_be_added_to(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    _, output = await run(
        box, 'echo "$EXTRA|$MLGYM_RUNNER|$MLGYM_SOURCE"; cat "$DATA_DIR/train.csv"', env={"EXTRA": "x y"}
    )
    assert output == "x y||\nid,label\n1,2\n"
    _, output = await run(box, 'cd "$HOME" && touch home')
    assert (await box.stat("/workspace/home")).kind == "file"


async def test_a_command_starts_in_the_directory_asked_for(box: Sandbox) -> None:
    await box.write_file("a/b/c.txt", b"")
    _, output = await run(box, "ls", cwd="/workspace/a/b")
    assert output == "c.txt\n"
    _, output = await run(box, "ls", cwd="a")
    assert output == "b\n"


async def test_what_cannot_be_started_is_refused_with_a_reason(box: Sandbox) -> None:
    with pytest.raises(SandboxError, match="no-such-program"):
        await box.start(["no-such-program", "x"])
    with pytest.raises(SandboxFileError, match="/workspace/nowhere"):
        await box.start("true", cwd="/workspace/nowhere")
    with pytest.raises(SandboxError, match="NUL"):
        await box.start("echo \0")
    with pytest.raises(SandboxError, match="bytes"):
        await box.start("echo " + "x" * 200_000)
    with pytest.raises(SandboxError, match="bytes"):
        await box.start("echo " + "x" * 2_000_000)
    with pytest.raises(SandboxError, match="environment variable"):
        await box.start("true", env={"A=B": ""})
    with pytest.raises(SandboxError, match="empty"):
        await box.start([])


async def test_a_reader_of_stdin_gets_end_of_file_at_once(box: Sandbox) -> None:
    status, output = await run(box, "cat; read x; echo $?")
    assert (status.exit_code, output) == (0, "1\n")


async def test_a_call_returns_after_its_wait_and_the_job_goes_on(box: Sandbox) -> None:
    status, output = await box.run("echo early; while [ ! -e go ]; do sleep 0.02; done; echo late", wait_s=0.3)
    assert status.state == "running"
    assert status.exit_code is None
    assert output.data == b"early\n"
    assert (await box.wait(status.id, 0.05)).state == "running"
    await box.write_file("go", b"")
    ended = await box.wait(status.id, 10)
    assert (ended.state, ended.exit_code) == ("exited", 0)
    assert (await box.output(status.id)).data == b"early\nlate\n"


async def test_a_job_ends_with_its_leader_even_if_a_child_holds_its_output(box: Sandbox) -> None:
    with anyio.fail_after(5):
        status, output = await run(box, "sleep 30 & echo done")
    assert (status.state, output) == ("exited", "done\n")


async def test_what_a_background_child_prints_later_is_still_collected(box: Sandbox) -> None:
    status, _ = await run(box, "(while [ ! -e go ]; do sleep 0.02; done; echo later) & echo first")
    await box.write_file("go", b"")
    with anyio.fail_after(5):
        while (await box.output(status.id)).data != b"first\nlater\n":
            await anyio.sleep(0.02)


async def test_many_jobs_run_at_the_same_time(box: Sandbox) -> None:
    results: dict[int, str] = {}

    async def one(number: int) -> None:
        _, results[number] = await run(box, f"while [ ! -e go ]; do sleep 0.05; done; echo {number}")

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(one, number)
            while sum(job.state == "running" for job in await box.jobs()) < 20:
                await anyio.sleep(0.02)
            await box.write_file("go", b"")
    assert results == {number: f"{number}\n" for number in range(20)}


async def test_too_many_jobs_at_once_are_refused(fresh: Sandbox, place: Place) -> None:
    async def start_many() -> None:
        for _ in range(70):
            await fresh.start("exec sleep 60")

    with pytest.raises(SandboxError, match=r"stop (one|something)"):
        await start_many()
    await fresh.kill_all()
    assert (await run(fresh, "echo ok"))[1] == "ok\n"


async def test_jobs_are_remembered_and_unknown_ones_refused(box: Sandbox) -> None:
    status, _ = await run(box, "echo remembered")
    assert status in [job for job in await box.jobs() if job.id == status.id]
    for call in (box.wait("nope", 1), box.output("nope"), box.stop("nope")):
        with pytest.raises(JobNotFoundError, match="nope"):
            await call


async def test_the_exit_code_tells_the_signal(box: Sandbox) -> None:
    status, _ = await run(box, "kill -SEGV $$")
    assert (status.state, status.exit_code, status.reason) == ("killed", 139, None)


# --- shell state


async def test_directory_and_exports_carry_over_when_asked(box: Sandbox) -> None:
    await run(box, "mkdir -p 'a b'; cd 'a b'; export GREETING=$'it\\'s\\n\"me\"'; PLAIN=1; false", keep_state=True)
    status, output = await run(box, 'basename "$PWD"; echo "$GREETING|$PLAIN|$0|$#"; (exit 4)', keep_state=True)
    assert output == 'a b\nit\'s\n"me"||bash|0\n'
    assert status.exit_code == 4
    _, output = await run(box, 'basename "$PWD"; echo "$GREETING"')
    assert "me" not in output
    assert "a b" not in output
    await run(box, "unset GREETING; cd ..", keep_state=True)
    assert (await run(box, 'echo "[$GREETING]"; ls', keep_state=True))[1] == "[]\na b\n"


async def test_explicit_directory_and_environment_win_over_the_carried(box: Sandbox) -> None:
    await run(box, "mkdir x y; cd x; export WHO=carried", keep_state=True)
    _, output = await run(box, 'basename "$PWD"; echo $WHO', cwd="y", env={"WHO": "given"}, keep_state=True)
    assert output == "y\ngiven\n"


async def test_a_command_that_spoils_its_state_only_loses_it(box: Sandbox) -> None:
    await run(box, "mkdir d; cd d; export KEPT=1", keep_state=True)
    for spoiler in ("if then", "exec true", "trap - EXIT; cd /", "kill -9 $$", "exit 3"):
        await run(box, spoiler, keep_state=True)
        assert (await run(box, 'basename "$PWD"; echo $KEPT', keep_state=True))[1] == "d\n1\n", spoiler
    await run(box, "rmdir ../d", keep_state=True)
    status, output = await run(box, "echo $KEPT", keep_state=True)
    assert (status.exit_code, output) == (0, "1\n")
    await run(box, "export HUGE=$(head -c 100000 /dev/zero | tr '\\0' x); export B=$HUGE C=$HUGE", keep_state=True)
    assert (await run(box, "echo ${#HUGE}", keep_state=True))[1] in ("100000\n", "0\n")


async def test_line_numbers_in_messages_are_those_of_the_command(box: Sandbox) -> None:
    for keep_state in (False, True):
        _, output = await run(box, "true\nno-such-thing", keep_state=keep_state)
        assert "line 2: no-such-thing" in output


# --- the end of a job


async def test_a_time_limit_kills_the_whole_tree_and_what_escaped_from_it(box: Sandbox) -> None:
    escape = (
        "trap '' TERM; sleep 100 & setsid sleep 100 & (setsid bash -c \"trap '' TERM; sleep 100; sleep 100\" &) ; "
        "nohup sleep 100 > /dev/null 2>&1 & disown; while :; do sleep 1; done"
    )
    with anyio.fail_after(10):
        status, _ = await run(box, escape, timeout_s=0.6, grace_s=0.3)
    assert (status.state, status.reason, status.exit_code) == ("killed", "timeout", 137)
    assert 0.5 < status.seconds < 8
    assert (await box.usage()).processes == 0


async def test_a_process_that_cleans_up_on_sigterm_has_its_grace(box: Sandbox) -> None:
    command = (
        "bash -c 'trap \"sleep 0.3; echo saved > state; exit 0\" TERM; touch ready; while :; do sleep 0.05; done'; true"
    )
    job = await box.start(command)
    await file_appears(box, "ready")
    with anyio.fail_after(8):
        status = await box.stop(job.id, grace_s=6)
    assert (status.state, status.reason) == ("killed", "stopped")
    assert (await box.read_file("state")).data == b"saved\n"


async def test_stopping_one_job_leaves_the_others(box: Sandbox) -> None:
    keep = await box.start("setsid sleep 60 & sleep 60 & wait")
    job = await box.start("setsid sleep 61 & (setsid sleep 62 &); sleep 63 & wait")
    with anyio.fail_after(5):
        while (await box.usage()).processes < 7:
            await anyio.sleep(0.02)
    status = await box.stop(job.id, grace_s=0.2)
    assert status.reason == "stopped"
    assert (await box.wait(keep.id, 0)).state == "running"
    assert (await box.usage()).processes == 3
    again = await box.stop(job.id)
    assert (again.state, again.seconds) == (status.state, status.seconds)


async def test_stopping_an_ended_job_kills_what_it_left_behind(box: Sandbox) -> None:
    other = await box.start("sleep 60")
    status, _ = await run(box, "setsid sleep 60 > /dev/null & disown")
    assert (await box.usage()).processes == 2
    with anyio.fail_after(5):
        after = await box.stop(status.id, grace_s=0.1)
    assert after.state == "exited"
    assert (await box.usage()).processes == 1
    await box.stop(other.id, grace_s=0)


async def test_everything_can_be_killed_at_once(box: Sandbox) -> None:
    jobs = [await box.start("trap '' TERM; setsid sleep 60 & sleep 60; sleep 60") for _ in range(3)]
    await run(box, "(setsid sleep 60 > /dev/null &)")
    with anyio.fail_after(5):
        await box.kill_all()
    assert (await box.usage()).processes == 0
    for job in jobs:
        status = await box.wait(job.id, 1)
        assert (status.state, status.reason, status.exit_code) == ("killed", "stopped", 137)


async def test_a_fork_bomb_ends_in_a_bounded_result_and_a_working_sandbox(box: Sandbox, place: Place) -> None:
    # Without isolation there is no limit to stop it, so there it is a bomb of limited size.
    bomb = f"""
import os, time
for n in range({10_000 if place.isolates else 6}):
    try:
        if os.fork() == 0: os.setsid()
    except OSError: time.sleep(.01)
while True: time.sleep(1)
"""
    await box.write_file("bomb.py", bomb.encode())
    with anyio.fail_after(40):
        status, _ = await run(box, "trap '' TERM; python3 bomb.py", timeout_s=1.5, grace_s=0.1, wait_s=35)
        assert (status.state, status.reason) == ("killed", "timeout")
        assert (await run(box, "echo alive"))[1] == "alive\n"
        await nothing_runs(box)


async def test_a_full_process_table_is_a_clear_refusal_and_can_be_cleared(box: Sandbox, place: Place) -> None:
    if not place.isolates:
        pytest.skip("no limit on processes without isolation")
    job = await box.start("while :; do sleep 60 & done 2>/dev/null")
    with anyio.fail_after(40):
        while (await box.usage()).processes < SMALL.pids - 8:
            await anyio.sleep(0.05)
        refusals = []
        try:
            await box.run("true", wait_s=5)  # a backend may hold a place free for it
        except SandboxError as error:
            refusals.append(str(error))
        assert all("limit" in refusal for refusal in refusals)
        assert (await box.usage()).processes <= SMALL.pids + 8
        await box.read_file("/data/train.csv")
        await box.stop(job.id, grace_s=0)
        assert (await run(box, "echo alive"))[1] == "alive\n"


async def test_a_memory_hog_is_told_as_such_and_the_sandbox_goes_on(box: Sandbox, place: Place) -> None:
    if not place.isolates:
        pytest.skip("no limit on memory without isolation")
    status, _ = await run(box, ["python3", "-c", "x = [bytearray(1 << 20) for _ in range(1 << 14)]"], wait_s=60)
    assert status.exit_code != 0
    if (await box.usage()).oom_kills:
        assert (status.state, status.reason, status.oom, status.exit_code) == ("killed", "oom", True, 137)
    status, output = await run(box, "echo alive")
    assert (status.oom, output) == (False, "alive\n")


# --- output


async def test_a_gigabyte_of_output_keeps_its_beginning_and_its_end(box: Sandbox) -> None:
    with anyio.fail_after(60):
        status, output = await box.run("echo begin; head -c 1000000000 /dev/zero; echo end", wait_s=50)
    assert status.output_bytes == 1_000_000_010
    assert output.data.startswith(b"begin\n\0")
    assert len(output.data) == 65536
    tail = await box.output(status.id, offset=-6, limit=100)
    assert (tail.data, tail.offset, tail.total) == (b"\0\0end\n", 1_000_000_004, 1_000_000_010)
    gap = await box.output(status.id, offset=500_000_000, limit=10)
    assert gap.offset == gap.total - SMALL.output_mb * MIB // 4
    assert len(gap.data) == 10
    assert (await box.output(status.id, offset=2_000_000_000)).data == b""
    assert (await run(box, "echo alive"))[1] == "alive\n"


async def test_output_can_be_paged_through_without_loss(box: Sandbox) -> None:
    status, _ = await run(box, "seq 1 100000")
    parts, at = [], 0
    while at < status.output_bytes:
        piece = await box.output(status.id, offset=at, limit=50_000)
        assert piece.offset == at
        parts.append(piece.data)
        at += len(piece.data)
    assert b"".join(parts) == b"".join(b"%d\n" % number for number in range(1, 100_001))


async def test_an_endless_printer_starves_nobody(box: Sandbox) -> None:
    noisy = [await box.start("yes") for _ in range(3)]
    with anyio.fail_after(20):
        for _ in range(20):
            await box.ping()
        assert (await run(box, "echo heard"))[1] == "heard\n"
        for job in noisy:
            status = await box.stop(job.id, grace_s=0.1)
            assert status.output_bytes > MIB


async def test_nothing_that_a_command_prints_is_taken_for_protocol(box: Sandbox) -> None:
    # Frames of all kinds, byte by byte what the runner itself would send, to every descriptor the command has.
    status, output = await forge(box, "")
    assert status.exit_code == 9
    assert '"ok"' in output
    assert (await run(box, "exit 3"))[0].exit_code == 3


async def forge(box: Sandbox, more: str) -> tuple[JobStatus, str]:
    program = f"""
import json, os, struct
def frame(header):
    text = json.dumps(header).encode()
    return struct.pack("<I", len(text)) + text
data = b"".join(frame({{"id": n, "ok": True, "job": "j1", "state": "exited", "command": "x", "exit_code": 0,
    "reason": None, "started": 0, "seconds": 0, "output_bytes": 0, "oom": False}}) for n in range(100))
for fd in range(256):
    try: os.write(fd, data)
    except OSError: pass
{more}
raise SystemExit(9)
"""
    await box.write_file("forge.py", program.encode())
    return await run(box, "python3 forge.py")


# --- streams


async def test_a_stream_carries_bytes_both_ways_and_ends(box: Sandbox) -> None:
    async with await box.open_stream("cat; echo note >&2; exit 5") as stream:
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
        await stream.send(b"\0" * 10)
        await stream.close_stdin()
        assert await stream.receive(4) == b"\0" * 4
        assert await stream.receive() == b"\0" * 6
        with anyio.fail_after(5), pytest.raises(anyio.EndOfStream):
            await stream.receive()
        assert (await stream.wait(5)).exit_code == 5
        assert await stream.stderr() == b"note\n"
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"too late")


async def test_much_flows_through_a_stream_under_back_pressure(box: Sandbox) -> None:
    total = 12 * MIB
    async with await box.open_stream(["cat"]) as stream, anyio.create_task_group() as tasks:

        async def feed() -> None:
            for _ in range(total // MIB):
                await stream.send(bytes(MIB))
            await stream.close_stdin()

        tasks.start_soon(feed)
        seen = 0
        with anyio.fail_after(30):
            while True:
                try:
                    seen += len(await stream.receive(1 << 20))
                except anyio.EndOfStream:
                    break
        assert seen == total


async def test_a_stream_that_nobody_reads_holds_up_only_itself(box: Sandbox) -> None:
    async with await box.open_stream("yes") as stream:
        with anyio.fail_after(10):
            assert (await run(box, "echo free"))[1] == "free\n"
            for _ in range(50):
                await box.ping()
        assert (await stream.receive()).startswith(b"y\ny\n")


async def test_a_reader_that_never_reads_blocks_only_its_own_sender(box: Sandbox) -> None:
    async with await box.open_stream("sleep 60") as stream:
        with anyio.move_on_after(0.3) as scope:
            for _ in range(50):
                await stream.send(bytes(MIB))
        assert scope.cancelled_caught
        assert (await run(box, "echo free"))[1] == "free\n"
    await nothing_runs(box)


async def test_closing_a_stream_kills_its_command(box: Sandbox) -> None:
    stream = await box.open_stream("trap '' TERM PIPE; setsid sleep 60 & sleep 60; sleep 60")
    with anyio.fail_after(5):
        await stream.aclose()
    await nothing_runs(box)


async def test_a_stream_has_a_time_limit_too(box: Sandbox) -> None:
    async with await box.open_stream("sleep 60", timeout_s=0.2) as stream:
        with anyio.fail_after(5), pytest.raises(anyio.EndOfStream):
            await stream.receive()
        assert (await stream.wait(5)).reason == "timeout"


# --- cancellation, loss, return


async def test_a_cancelled_call_leaves_the_connection_usable(box: Sandbox) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(partial(box.run, "sleep 30", wait_s=30))
            tasks.cancel_scope.cancel()
    with anyio.move_on_after(0.1):
        await box.run("sleep 30", wait_s=30)
    with anyio.move_on_after(0.001):
        await box.search("x", "/")
    with anyio.fail_after(10):
        assert (await run(box, "echo fine"))[1] == "fine\n"
        await box.kill_all()


async def test_concurrent_calls_each_get_their_own_answer(box: Sandbox) -> None:
    async def one(number: int) -> None:
        await box.write_file(f"f{number}", b"%d" % number)
        assert (await box.read_file(f"f{number}")).data == b"%d" % number
        assert (await run(box, f"echo {number}"))[1] == f"{number}\n"
        await box.ping()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(one, number)


async def test_jobs_live_on_while_nobody_is_connected(fresh: Sandbox, place: Place) -> None:
    job = await fresh.start("echo before; while [ ! -e go ]; do sleep 0.02; done; echo after")
    await run(fresh, "cd /; export KEPT=yes", keep_state=True)
    await fresh.detach()
    with pytest.raises(SandboxLostError):
        await fresh.ping()
    again = await place.backend.attach(fresh.name)
    try:
        assert again.magic == fresh.magic
        await again.write_file("go", b"")
        assert (await again.wait(job.id, 10)).exit_code == 0
        assert (await again.output(job.id)).data == b"before\nafter\n"
        assert (await run(again, "pwd; echo $KEPT", keep_state=True))[1] == "/\nyes\n"
    finally:
        await again.close()
    with pytest.raises(SandboxLostError):
        await place.backend.attach(fresh.name)


async def test_the_latest_connection_is_the_one_that_counts(fresh: Sandbox, place: Place) -> None:
    first = await place.backend.attach(fresh.name)
    stream = await first.open_stream("cat")
    await stream.send(b"x")
    second = await place.backend.attach(fresh.name)
    try:
        with anyio.fail_after(10):
            assert (await run(second, "echo mine"))[1] == "mine\n"
            await nothing_runs(second)  # a stream dies with its connection
    finally:
        await first.detach()
        await second.detach()


async def test_sandboxes_are_found_by_label_until_they_are_removed(place: Place) -> None:
    spec = place.spec(labels={"suite": "labels", "session": "s1"})
    sandbox = await place.backend.create(spec)
    try:
        found = [one for one in await place.backend.find({"suite": "labels"}) if one.name == spec.name]
        assert [(one.labels["session"], one.running) for one in found] == [("s1", True)]
        assert not [one for one in await place.backend.find({"session": "other"}) if one.name == spec.name]
        with pytest.raises(SandboxError, match="already"):
            await place.backend.create(spec)
        assert await sandbox.ping() > 0
    finally:
        await sandbox.close()
    assert not [one for one in await place.backend.find({"suite": "labels"}) if one.name == spec.name]
    await place.backend.remove(spec.name)  # no error if gone
    with pytest.raises(SandboxLostError):
        await sandbox.ping()


async def test_a_sandbox_that_no_server_speaks_to_ends_itself(place: Place) -> None:
    sandbox = await place.backend.create(place.spec(ttl_s=1.0))
    try:
        await sandbox.start("trap '' TERM; sleep 100")
        await sandbox.detach()
        with anyio.fail_after(20):
            while any(one.running for one in await place.backend.find({}) if one.name == sandbox.name):
                await anyio.sleep(0.1)
        with pytest.raises(SandboxLostError):
            await place.backend.attach(sandbox.name)
    finally:
        await place.backend.remove(sandbox.name)


async def test_a_sandbox_that_dies_is_reported_to_all_who_wait(place: Place) -> None:
    sandbox = await place.backend.create(place.spec())
    job = await sandbox.start("sleep 60")
    lost = []

    async def wait() -> None:
        try:
            await sandbox.wait(job.id, 60)
        except SandboxLostError as error:
            lost.append(str(error))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait)
            await anyio.sleep(0.1)
            await place.backend.remove(sandbox.name)
    assert len(lost) == 3
    assert sandbox.lost


# --- the whole


async def test_usage_counts_processes_cpu_and_disk(box: Sandbox) -> None:
    before = await box.usage()
    await run(box, "for i in $(seq 60000); do :; done; bash -c 'for i in $(seq 60000); do :; done'")
    await box.write_file("big", b"\1" * (3 * MIB))
    job = await box.start("sleep 60 & sleep 60 & wait")
    with anyio.fail_after(5):
        while (after := await box.usage()).processes < 3:
            await anyio.sleep(0.02)
    assert after.cpu_s > before.cpu_s + 0.02
    assert after.memory_bytes > 0
    await box.stop(job.id, grace_s=0)
    with anyio.fail_after(10):
        while (await box.usage()).disk_bytes < 3 * MIB:
            await anyio.sleep(0.1)


async def test_what_is_hidden_counts_as_well_and_stays_hidden(box: Sandbox) -> None:
    with anyio.fail_after(10):
        while (await box.usage()).disk_bytes > MIB:  # as last seen, with what earlier tests left
            await anyio.sleep(0.1)
    await run(box, "mkdir closed; head -c 3M /dev/urandom > closed/f; chmod 000 closed")
    # A deleted file takes its room for as long as somebody holds it open.
    job = await box.start("head -c 3M /dev/urandom > gone; exec 5< gone; rm gone; sleep 60 & wait")
    with anyio.fail_after(10):
        while (await box.usage()).disk_bytes < 6 * MIB:
            await anyio.sleep(0.1)
    await box.stop(job.id, grace_s=0)
    assert (await run(box, "stat -c %a closed"))[1] == "0\n"


async def test_a_workspace_that_grows_beyond_its_limit_is_stopped(fresh: Sandbox) -> None:
    with anyio.fail_after(60):
        status, output = await run(fresh, "head -c 300M /dev/zero > big || exit 9; sleep 30", wait_s=50)
    refused = re.search("No space|File too large|File size limit", output) or status.exit_code == 128 + signal.SIGXFSZ
    assert status.reason == "disk" or refused
    await run(fresh, "rm -f big")
    assert (await run(fresh, "echo alive > f; cat f"))[1] == "alive\n"


# --- what only an isolating backend can promise


@pytest.fixture
def isolating(place: Place) -> None:
    if not place.isolates:
        pytest.skip("the process backend isolates nothing")


@pytest.mark.usefixtures("isolating")
async def test_a_command_cannot_touch_the_runner(box: Sandbox) -> None:
    attack = """
import os, signal, ctypes
def attempt(name, action):
    try: action()
    except OSError: return
    print("DONE", name)
for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    try: os.kill(1, number)
    except OSError: pass
for name in ("environ", "mem", "maps", "stack", "auxv", "syscall"):
    attempt(name, lambda: open("/proc/1/" + name, "rb").read(1))
attempt("fd", lambda: os.listdir("/proc/1/fd"))
attempt("cwd", lambda: os.readlink("/proc/1/cwd"))
attempt("root", lambda: os.listdir("/proc/1/root"))
attempt("oom", lambda: open("/proc/1/oom_score_adj", "w").write("1000"))
attempt("state", lambda: os.listdir("/run/mlgym"))
libc = ctypes.CDLL(None, use_errno=True)
for request in (16, 0x4206):  # attach, seize
    if libc.ptrace(request, 1, 0, 0) == 0: print("DONE ptrace", request)
"""
    await box.write_file("attack.py", attack.encode())
    with anyio.fail_after(20):
        status, output = await run(box, "python3 attack.py")
        assert (status.exit_code, output) == (0, "")
        assert await box.ping() < 5


@pytest.mark.usefixtures("isolating")
async def test_a_command_cannot_write_to_the_runners_descriptors(box: Sandbox) -> None:
    # Only where PID 1 is the runner: without isolation it would be the machine's own.
    status, output = await forge(
        box,
        """
for fd in range(64):
    try:
        with open("/proc/1/fd/%d" % fd, "wb", buffering=0) as file: file.write(data)
        print("REACHED", fd, flush=True)
    except OSError: pass
""",
    )
    assert status.exit_code == 9
    assert "REACHED" not in output
    assert (await run(box, "exit 3"))[0].exit_code == 3


@pytest.mark.usefixtures("isolating")
async def test_file_operations_have_only_the_agents_rights(box: Sandbox) -> None:
    for path in ("/proc/1/environ", "/proc/self/environ", "/proc/1/maps", "/proc/self/maps", "/proc/1/fd/1"):
        with pytest.raises(SandboxFileError):
            await box.read_file(path)
    await run(box, "ln -s /proc/1/maps maps; ln -s /proc/self/fd fds; ln -s /proc p")
    for path in ("maps", "fds/3", "p/self/maps", "p/1/environ"):
        with pytest.raises(SandboxFileError, match=r"/proc|permission"):
            await box.read_file(path)
    for path in ("/etc/passwd", "/usr/bin/x", "/run/mlgym/x", "/data/x", "/proc/1/oom_score_adj", "fds/1"):
        with pytest.raises(SandboxFileError):
            await box.write_file(path, b"x", append=True)
        with pytest.raises(SandboxFileError):
            await box.write_file(path, b"x")
    with pytest.raises(SandboxFileError):
        await box.list_files("/run/mlgym")


@pytest.mark.usefixtures("isolating")
async def test_there_are_no_more_rights_to_be_had(box: Sandbox) -> None:
    _, output = await run(box, "grep -E '^(CapEff|CapPrm|CapAmb|NoNewPrivs|Groups|Uid)' /proc/self/status")
    fields = {line.split(":")[0]: line.split(":")[1].split() for line in output.splitlines()}
    assert fields["CapEff"] == fields["CapPrm"] == fields["CapAmb"] == ["0" * 16]
    assert fields["NoNewPrivs"] == ["1"]
    assert set(fields["Uid"]) == {"1000"}
    assert set(fields["Groups"]) <= {"1000", "65534"}
    _, output = await run(box, "ls /proc | grep -c '^[0-9]'")
    assert int(output) < 8  # of the machine's processes none is seen


async def file_appears(sandbox: Sandbox, path: str) -> None:
    with anyio.fail_after(10):
        while True:
            try:
                await sandbox.stat(path)
            except SandboxFileError:
                await anyio.sleep(0.02)
            else:
                return


@pytest.mark.usefixtures("isolating")
async def test_data_that_packages_installed_on_this_machine_is_not_shown(box: Sandbox) -> None:
    """Data-set packages put labels below /usr/share: programs are shown to a sandbox, data is not."""
    for folder in ("/usr/share/doc", "/usr/share/datasets", "/usr/src", "/usr/local/share", "/var/lib/dpkg"):
        status, _ = await box.run(f"ls -A {folder} 2>/dev/null | grep -q .", wait_s=10)
        assert status.exit_code == 1, f"{folder} can be seen"
