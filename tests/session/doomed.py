"""A server that is made to be killed: one session in mid-work, told on stdout, then nothing more happens."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.session.calls import CallSpec
from mlgym_mcp.session.registry import SessionRegistry
from mlgym_mcp.session.session import Session
from mlgym_mcp.session.solutions import scored
from tests.toy import CSV


async def perform(session: Session, work: Callable[[], Awaitable[str]], *, name: str = "shell") -> str:
    """One counted call, journalled as the tools' calls are."""
    return await session.calls.perform(name, {}, CallSpec("shared"), work, lambda text: {"text": text})


async def command(session: Session, line: str) -> str:
    """Run a command as one counted call and return what it printed."""

    async def run() -> str:
        async with session.working() as sandbox:
            _, output = await sandbox.run(line, wait_s=20)
            return output.data.decode()

    return await perform(session, run)


JOB = "i=0; while true; do echo line $i; i=$((i+1)); sleep 0.02; done"


async def main(backend: str, stage: str) -> None:
    registry = SessionRegistry(Catalog.default(), sandbox=backend, unsafe=True)
    async with registry.run(address="here"):
        options: dict[str, Any] = {"seed": 7, "budget": {"calls": 10}, "metadata": {"who": "test"}, "key": "k"}
        session = await registry.create("toy", **options)
        told = {"id": session.id, "token": session.token, "episode": str(session.episode.folder)}
        if stage == "preparing":
            print(json.dumps(told), flush=True)
            await anyio.sleep_forever()
        await session.wait_ready()
        assert session.over is None, session.over_text()
        for i in range(3):
            await command(session, f"echo {i}")
        sandbox = await session.sandbox()
        await sandbox.write_file("submission.csv", CSV.encode())
        score = await scored(session, "validate")
        session.notes.write("remember this", ("tag",))
        job = await sandbox.start(JOB)
        told |= {"job": job.id, "shown": score.value, "sandbox": sandbox.name}
        if stage == "scored":  # the final score is journalled, its end is not
            session.end = nothing  # type: ignore[method-assign]
            await scored(session, "submit")
        if stage == "ending":
            session._ending = anyio.Event()
            await session.end("abandoned", "somebody deleted it")
        if stage == "in_flight":
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(command, session, "sleep 1000")
                while not any("sleep 1000" in job.command for job in await sandbox.jobs()):
                    await anyio.sleep(0.01)
                print(json.dumps(told), flush=True)
                await anyio.sleep_forever()
        print(json.dumps(told), flush=True)
        await anyio.sleep_forever()


async def nothing(*_: object) -> None:
    """What is never reached when the server dies right before it."""


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:3])
