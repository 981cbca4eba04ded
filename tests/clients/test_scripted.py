"""The scripted agent: plays a list of calls and refers to earlier results."""

from __future__ import annotations

import pytest

from mlgym_clients.agents.scripted import ScriptedAgent, Step
from tests.serving.conftest import light, own_home, playing, running_host
from tests.toy import CSV

__all__ = ["light", "own_home"]  # fixtures

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_home")]


async def test_a_script_plays_an_episode_to_its_score() -> None:
    async with running_host(wait_s=1.2) as host, playing(host) as (client, _):
        results = await ScriptedAgent(client).play(
            [
                Step("get_task"),
                Step("shell", {"command": "sleep 3; echo long"}, save="job", until_done=True),
                Step("job_output", {"job_id": "${job.job_id}"}),
                Step("write_file", {"path": "submission.csv", "content": CSV}),
                Step("submit"),
            ]
        )
    assert results[1].facts["state"] == "exited"
    assert "long" in results[2].text
    assert results[-1].structured["valid"]


async def test_a_script_stops_at_the_first_error_with_the_servers_words() -> None:
    async with running_host() as host, playing(host) as (client, _):
        with pytest.raises(RuntimeError, match=r"read_file failed: .*nowhere"):
            await ScriptedAgent(client).play([Step("read_file", {"path": "nowhere"}), Step("submit")])
