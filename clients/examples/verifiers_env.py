"""Tasks as a taskset of verifiers: ``pip install -r requirements/verifiers_env.txt``, in an environment of its own.

Run, with ``MLGYM_SERVER`` and ``MLGYM_ADMIN_TOKEN`` of ``mlgym-mcp serve --http``, from the folder of this file:

    vf-eval verifiers_env -m MODEL --client.base-url URL --client.api-key-var NAME --no-push \
        --env.agent.harness.id null --env.agent.runtime.type subprocess --env.taskset.tasks '["three_sat"]'

Every rollout is a session of its own. The harness talks to a small server beside it (``MLGymTools``), which keeps the
session's token from the harness. For one session that exists already, ``ToolsetConfig(url=...)`` takes its MCP URL.
"""

import os
from typing import Any

import httpx
import httpx2
import verifiers.v1 as vf
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from pydantic import Field

SERVER, ADMIN = os.environ["MLGYM_SERVER"], {"Authorization": f"Bearer {os.environ['MLGYM_ADMIN_TOKEN']}"}
GOAL = "Call get_task and do what it says. Improve on the baseline step by step, validate, and submit once, at the end."


async def api(method: str, path: str, **body: Any) -> Any:
    """Ask the server's control API. The last grading of a session may take a while."""
    async with httpx.AsyncClient(base_url=SERVER, headers=ADMIN, timeout=3600) as http:
        answer = await http.request(method, f"/api/{path}", json=body or None)
        return answer.raise_for_status().json()


class Data(vf.TaskData):
    """What a rollout is about."""

    task: str
    preset: str


class Rollout(vf.State):
    """What a rollout and its tools share, no secrets: it is recorded."""

    key: str = ""


class MLGymTools(vf.Toolset[vf.ToolsetConfig, Rollout]):
    """The tools of the rollout's session."""

    TOOL_PREFIX = None

    async def setup_task(self, task: Data) -> None:
        self.data = task

    async def call(self, tool: str, **arguments: Any) -> str:
        """Pass a call on. Asking again with a session's key returns that session, and its token."""
        wanted = {"task": self.data.task, "preset": self.data.preset, "idempotency_key": self.state.key}
        session = await api("POST", "sessions", **wanted)
        headers = {"Authorization": f"Bearer {session['token']}"}
        async with httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(30, read=300)) as http:
            async with Client(streamable_http_client(session["mcp_url"], http_client=http)) as client:
                answer = await client.call_tool(tool, arguments)
        return "\n".join(block.text for block in answer.content if block.type == "text")

    @vf.tool
    async def get_task(self) -> str:
        """Read the task: what to do, the files, the metric, the baseline, the budget. Call it first."""
        return await self.call("get_task")

    @vf.tool
    async def shell(self, command: str) -> str:
        """Run a bash command in the sandbox. One that runs longer than 45 seconds goes on by itself as a job."""
        return await self.call("shell", command=command)

    @vf.tool
    async def job_wait(self, job_id: str) -> str:
        """Wait for a job, for up to 45 seconds, and show the end of its output."""
        return await self.call("job_wait", job_id=job_id)

    @vf.tool
    async def write_file(self, path: str, content: str) -> str:
        """Write a file of the workspace."""
        return await self.call("write_file", path=path, content=content)

    @vf.tool
    async def validate(self) -> str:
        """Score the work as it stands on a hidden validation set; limited in number."""
        return await self.call("validate")

    @vf.tool
    async def submit(self) -> str:
        """Score the work on the hidden test set and end the episode."""
        return await self.call("submit")


class MLGymTask(vf.Task[Data, Rollout]):
    """One attempt."""

    @classmethod
    def toolsets(cls, config: vf.TaskConfig) -> list[vf.Toolset]:
        return [MLGymTools(vf.ToolsetConfig())]

    async def setup(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        """Make the rollout's session."""
        trace.state.key = f"verifiers-{trace.id}"
        wanted = {"task": self.data.task, "preset": self.data.preset, "idempotency_key": trace.state.key}
        trace.info["mlgym"] = (await api("POST", "sessions", **wanted))["id"]

    @vf.reward
    async def gain(self, trace: vf.Trace) -> float:
        """End the session; the reward is by how much its final score is better than the baseline, -1 without one."""
        session = await api("DELETE", f"sessions/{trace.info['mlgym']}")
        if session["outcome"] == "infrastructure_error":
            raise RuntimeError(session["detail"])  # nobody's failure: no reward, rather than a bad one
        score = session["score"]
        if not score or not score["valid"]:
            return -1.0
        (task,) = [task for task in await api("GET", "tasks") if task["id"] == self.data.task]
        better = score["score"] - score["baseline"]
        return max(-1.0, (better if task["direction"] == "max" else -better) / (abs(score["baseline"]) or 1.0))


class Config(vf.TasksetConfig):
    tasks: list[str] = Field(default_factory=lambda: ["three_sat"])
    preset: str = "mini"


class MLGymTaskset(vf.Taskset[MLGymTask, Config]):  # noqa: D101
    def load(self) -> list[MLGymTask]:  # noqa: D102
        rows = [Data(prompt=GOAL, name=task, task=task, preset=self.config.preset) for task in self.config.tasks]
        return [MLGymTask(row, self.config.task) for row in rows]


__all__ = ["MLGymTaskset"]

if __name__ == "__main__":
    MLGymTools.run()  # verifiers starts this file for the tools
