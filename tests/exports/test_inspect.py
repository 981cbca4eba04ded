"""Inspect's logs, written by our code and read by Inspect's own library, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.exports.episodes import PLANTED, write_hostile, write_messages
from tests.frameworks.environments import python_of
from tests.records.written import write_episode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
WRITE = """
import os, sys
from pathlib import Path
from mlgym_mcp.records.exports.formats import FORMATS, Tally, trajectories
from mlgym_mcp.records.exports.redaction import Redactor, secrets_of
tally = Tally()
folders = sorted(path for path in Path(sys.argv[1]).iterdir())
redactor = Redactor([*secrets_of(os.environ), "planted-admin-token"])
FORMATS["inspect"](trajectories(folders, tally, redactor), Path(sys.argv[2]))
print(len(tally.exported), tally.problems)
"""

READ = """
import json, sys
from inspect_ai.log import list_eval_logs, read_eval_log, read_eval_log_sample_summaries
found, dumps = [], []
for info in list_eval_logs(sys.argv[1]):
    log = read_eval_log(info)
    dumps.append(log.model_dump_json())
    found.append({
        "task": log.eval.task, "model": log.eval.model, "solver": log.eval.solver, "status": log.status,
        "scores": [[s.name, s.metrics["mean"].value, s.scored_samples] for s in log.results.scores],
        "tokens": {name: usage.total_tokens for name, usage in log.stats.model_usage.items()},
        "summaries": len(read_eval_log_sample_summaries(info)),
        "samples": [{
            "id": s.id, "epoch": s.epoch, "input": s.input, "metadata": s.metadata,
            "roles": [m.role for m in s.messages],
            "events": [e.event for e in s.events],
            "errors": [e.error.message for e in s.events if e.event == "tool" and e.error],
            "intermediate": [e.score.value for e in s.events if e.event == "score" and e.intermediate],
            "scores": {name: score.value for name, score in (s.scores or {}).items()},
        } for s in log.samples],
    })
print(json.dumps({"logs": found, "dumps": dumps}))
"""


def test_logs_are_what_inspect_reads_and_hold_no_secrets(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    write_hostile(sweep, "spoken")
    write_messages(sweep / "spoken" / "messages.jsonl")
    write_hostile(sweep, "silent")
    for number, (submitted, seed) in enumerate(((0.6, 3), (0.8, 4), (None, 4))):
        outcome = "scored" if submitted is not None else "budget_exhausted"
        write_episode(sweep, f"e{number}", submitted=submitted, outcome=outcome, seed=seed, agent="a")
    logs = tmp_path / "logs"
    python = str(python_of("inspect"))
    paths = os.pathsep.join([str(ROOT), str(ROOT / "sandbox")])
    environ = {**os.environ, "PYTHONPATH": paths, "SOME_API_KEY": "planted-by-environment"}
    command = [python, "-c", WRITE, str(sweep), str(logs)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "5 []\n"), done.stderr
    assert {path.suffix for path in logs.iterdir()} == {".eval"}

    done = subprocess.run([python, "-c", READ, str(logs)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    for whole in read["dumps"]:
        assert "Submitted." in whole
        assert not [secret for secret in PLANTED if secret in whole]
    by_model: dict[str, Any] = {log["model"]: log for log in read["logs"]}
    assert set(by_model) == {"openai/gpt-x", "mlgym/a"}
    spoken, silent = by_model["openai/gpt-x"], by_model["mlgym/a"]
    assert (spoken["task"], spoken["solver"], spoken["status"]) == ("mlgym/toy", "a", "success")
    assert spoken["tokens"] == {"openai/gpt-x": 220}
    (sample,) = spoken["samples"]
    assert sample["roles"] == ["system", "user", "assistant", "tool", "tool", "assistant", "tool"]
    assert sample["events"].count("model") == 2
    assert sample["errors"] == ["There is no tool"]
    assert (sample["scores"], sample["intermediate"]) == ({"accuracy": 0.75}, [0.88])
    assert sample["metadata"]["episode"] == "spoken"

    assert silent["tokens"] == {}
    assert silent["summaries"] == 4
    assert silent["scores"] == [["accuracy", pytest.approx((0.75 + 0.6 + 0.8) / 3), 3]]
    assert sorted((s["id"], s["epoch"]) for s in silent["samples"]) == [
        *(("seed-3", 1), ("seed-3", 2), ("seed-4", 1), ("seed-4", 2))
    ]
    unscored = [s for s in silent["samples"] if not s["scores"]]
    assert [s["metadata"]["outcome"] for s in unscored] == ["budget_exhausted"]
    assert all("model" not in s["events"] for s in silent["samples"])
