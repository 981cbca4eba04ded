"""Submissions that are no honest files of predictions, and gradings that somebody interferes with."""

from __future__ import annotations

import json
import tomllib
from collections.abc import AsyncIterator

import anyio
import pytest
from mcp import Client

from mlgym_mcp.catalog.adversarial import VALID, Adversarial, adversarial
from mlgym_mcp.catalog.spec import TaskSpec
from tests.attacks.conftest import TOY, Arena, Server, alive, both, expected
from tests.serving.conftest import text_of
from tests.toy import CSV

pytestmark = pytest.mark.anyio
CASES = {
    case.name: case
    for case in adversarial(TaskSpec.model_validate(tomllib.loads(TOY)), {"submission.csv": CSV.encode()})
}


@pytest.fixture(scope="module")
def session(server: Server) -> dict[str, str]:
    """One session for all files: an invalid one leaves it open and costs no validation."""
    return server.create("toy", "bubblewrap")


@pytest.fixture
async def client(arena: Arena, session: dict[str, str]) -> AsyncIterator[Client]:
    async with Client(session["mcp_url"]) as client:
        await text_of(client, "shell", command="cd; find . -mindepth 1 -delete")
        yield client


def as_shell(path: str, content: bytes) -> str:
    """A command that writes any bytes."""
    return f"python3 -c \"import sys; open('{path}', 'wb').write(bytes.fromhex(open('hex').read()))\""


@pytest.mark.parametrize("name", CASES)
async def test_a_hostile_file_is_refused_with_a_type_and_a_sentence(client: Client, name: str) -> None:
    case: Adversarial = CASES[name]
    for path, content in case.files.items():
        await text_of(client, "write_file", path="hex", content=content.hex())
        await text_of(client, "shell", command=as_shell(path, content))
    if case.commands:
        await text_of(client, "shell", command=case.commands)
    result = await client.call_tool("submit", {})
    view = result.structured_content
    assert not result.is_error, result.content
    assert (VALID if view["valid"] else view["code"]) in expected(case), view
    assert view["reason"]
    assert view["score"] is None
    assert len(result.content[0].text) < 2000
    assert "Traceback" not in result.content[0].text
    assert (await client.call_tool("status", {})).structured_content["state"] == "ready"


SPECIAL = {
    "the folder above is a link": "mkdir real; cp good.csv real/submission.csv; cd /; rm -rf ~/x; ln -s real ~/x",
    "a link to the file itself beside it": "cp good.csv other; ln -s other submission.csv",
    "a link into proc": "ln -s /proc/self/environ submission.csv",
    "a link to a device": "ln -s /dev/zero submission.csv",
    "a device": "mknod submission.csv c 1 5 || mkfifo submission.csv",
    "a socket": "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"submission.csv\")'",
    "a file nobody may read": "cp good.csv submission.csv; chmod 000 submission.csv",
    "a sparse giant": "for n in 8E 15T 8G; do truncate -s $n submission.csv && break; done",
    "a compressed bomb": "head -c 50M /dev/zero | gzip -9 > submission.csv",
    "a name with a newline beside": "cp good.csv 'submission.csv\n'; true",
}


@both
async def test_special_files_are_never_followed(arena: Arena) -> None:
    async with arena.playing() as (client, _):
        for name, command in SPECIAL.items():
            await text_of(client, "shell", command="cd; chmod -R u+rwX .; find . -mindepth 1 -delete")
            await text_of(client, "write_file", path="good.csv", content=CSV)
            await text_of(client, "shell", command=command)
            with anyio.fail_after(20):
                result = await client.call_tool("submit", {})
            assert not result.is_error, (name, result.content)
            assert not result.structured_content["valid"], name
            assert result.structured_content["code"] in ("forbidden", "missing", "too_large", "format"), name
        await text_of(client, "shell", command="cd; find . -mindepth 1 -delete")
        await text_of(client, "write_file", path="real.csv", content=CSV)
        await text_of(client, "shell", command="ln real.csv submission.csv")  # a hard link to one's own file is a file
        assert (await client.call_tool("submit", {})).structured_content["valid"]


async def test_twenty_validations_say_the_same_and_nothing_of_the_test(arena: Arena) -> None:
    labels = arena.server.vault("toy", "labels.json")
    async with arena.playing(budget={"validations": 20}) as (client, _):
        seen = set()
        for i in range(20):
            rows = [*labels["val"][:15], *(1 - x for x in labels["val"][15:]), *((i + k) % 2 for k in range(20))]
            csv = "id,label\n" + "".join(f"{k},{label}\n" for k, label in enumerate(rows))
            await text_of(client, "write_file", path="submission.csv", content=csv)
            result = await client.call_tool("validate", {})
            view = result.structured_content
            assert view["validations_left"] == 19 - i
            seen.add((view["score"], json.dumps(view["details"]), view["standard_error"]))
        assert len(seen) == 1, "what stands in the test's rows changes nothing that validate says"
        refused = await client.call_tool("validate", {})
        assert refused.structured_content["code"] == "refused"
        assert not refused.is_error
        await alive(client)


@both
async def test_what_is_swapped_during_the_grading_does_not_change_the_score(arena: Arena) -> None:
    """A job writes one file or another for ever; the score must be that of the one that was copied."""
    server = arena.server
    gate = server.tasks.parent / "gate"
    for name in ("arrived", "go"):
        (gate / name).unlink(missing_ok=True)
    swap = """
import os, time
count = 0
while True:
    for name in ("zeros.csv", "ones.csv"):
        with open("part", "w") as out: out.write(open(name).read())
        os.rename("part", "submission.csv")
        count += 1
        with open("count.part", "w") as out: out.write(str(count))
        os.rename("count.part", "count")
        time.sleep(0.01)
"""
    zeros = "id,label\n" + "".join(f"{i},0\n" for i in range(40))
    files = {"zeros": zeros, "ones": zeros.replace(",0\n", ",1\n")}
    async with arena.playing("gated") as (client, made):
        for name, text in files.items():
            await text_of(client, "write_file", path=f"{name}.csv", content=text)
        await text_of(client, "write_file", path="swap.py", content=swap)
        await text_of(client, "shell", command="python3 swap.py & sleep 0.3")
        before = int((await text_of(client, "read_file", path="count")).split()[-1])
        answers = []

        async def submit() -> None:
            answers.append((await client.call_tool("submit", {})).structured_content)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(submit)
                while not (gate / "arrived").exists():
                    await anyio.sleep(0.01)
                await anyio.sleep(0.3)
                (gate / "go").touch()
        (view,) = answers
        assert view["valid"], view
        (score,) = [e for e in server.events(made) if e.type == "score"]
        snapshots = server.home / "episodes" / made["episode"] / "snapshots"
        copied = snapshots / score["snapshot"] / "files" / "submission.csv"
        assert copied.read_text() in files.values()
        labels = server.vault("gated", "labels.json")["test"]
        bit = 0 if copied.read_text() == files["zeros"] else 1
        assert view["score"] == labels.count(bit) / 20
        assert before > 0
        assert "The episode is over (scored)" in await text_of(client, "read_file", path="count")


@both
async def test_a_full_disk_and_a_full_process_table_do_not_prevent_a_score(arena: Arena) -> None:
    async with arena.playing() as (client, _):
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        await text_of(client, "shell", command="head -c 500M /dev/zero > big; echo full", timeout_s=30)
        assert (await client.call_tool("validate", {})).structured_content["valid"]
        forks = """
import os, time
for _ in range(2000):
    try:
        if os.fork() == 0: time.sleep(600)
    except OSError: break
"""
        await text_of(client, "shell", command=f"python3 -c '{forks}'")
        result = await client.call_tool("submit", {})
        assert "stop something" in result.content[0].text or result.structured_content["valid"]
        await text_of(client, "job_stop", job_id="j2")
        if not (result.structured_content or {}).get("valid"):
            assert (await client.call_tool("submit", {})).structured_content["valid"]
