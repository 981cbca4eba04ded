"""The ways in which scorers were cheated, or could be, and the tests that try each of them: the list cannot rot.

The tests are in ``test_ways_*.py`` and, where they were there before, in the modules named below. They play on the
server of this folder: in its toy tasks where the mechanism is what matters, and in small copies of shipped tasks.
"""

from __future__ import annotations

import ast
import base64
import json
import re
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from mcp import Client

from mlgym_mcp.catalog.spec import SHARED
from mlgym_mcp.session.journal import Event
from tests.attacks.conftest import Arena, Server
from tests.serving.conftest import text_of

ROOT: Final = Path(__file__).resolve().parents[2]

FILES = "tests/attacks/test_submissions.py"
PROGRAMS = "tests/attacks/test_players.py"
COMMANDS = "tests/attacks/test_commands.py"
PREDICTIONS = "tests/attacks/test_ways_predictions.py"
SESSIONS = "tests/attacks/test_ways_sessions.py"
PLAYERS = "tests/attacks/test_ways_players.py"
MODELS = "tests/attacks/test_ways_models.py"

WAYS: Final[Mapping[str, tuple[str, ...]]] = {
    "a shadowed python: programs, modules and start-up files that the scorer might pick up": (
        f"{PREDICTIONS}::test_what_shadows_python_in_the_workspace_changes_no_score",
        f"{PLAYERS}::test_modules_that_shadow_the_library_beside_a_strategy_change_no_score",
        "tests/grading/test_grader_process.py::test_the_referee_has_a_clean_house",
    ),
    "code of the submission run in the scorer's process": (
        f"{PREDICTIONS}::test_nothing_that_lies_beside_predictions_is_imported_unpickled_or_evaluated",
        f"{PREDICTIONS}::test_a_grader_that_trusts_files_would_be_noticed",
        f"{PLAYERS}::test_a_program_runs_in_its_own_sandbox_and_nowhere_else",
        f"{FILES}::test_a_hostile_file_is_refused_with_a_type_and_a_sentence",
        "tests/grading/test_grader_process.py::test_a_grader_may_import_its_neighbours_but_not_the_servers_packages",
    ),
    "a score printed on stdout": (
        f"{SESSIONS}::test_output_that_imitates_results_is_only_output",
        f"{PLAYERS}::test_a_program_that_prints_results_is_scored_for_what_it_plays",
        f"{PROGRAMS}::test_a_hostile_program_is_refused_with_a_type_or_scored_as_what_it_plays",
        "tests/grading/test_grader_process.py::test_what_a_grader_prints_is_a_bounded_log_and_never_a_result",
    ),
    "a writable opponent or environment": (
        f"{PLAYERS}::test_opponents_rewritten_in_the_workspace_play_as_before",
        f"{PLAYERS}::test_a_solver_rewritten_in_the_workspace_counts_as_before",
        f"{MODELS}::test_a_game_rewritten_in_the_workspace_pays_as_before",
        f"{MODELS}::test_a_grader_that_plays_the_agents_game_would_be_noticed",
    ),
    "labels in the container": (
        f"{PREDICTIONS}::test_no_label_lies_anywhere_in_the_agents_sandbox",
        f"{PLAYERS}::test_no_secret_lies_anywhere_in_a_players_sandbox",
        "tests/attacks/test_reach.py::test_nothing_of_the_server_shows_inside",
        "tests/attacks/test_reach.py::test_the_journal_and_the_vault_cannot_be_reached_through_the_tools",
        "tests/grading/test_players_in_sandboxes.py::test_nothing_hidden_is_in_a_players_sandbox",
        "tests/session/test_proof.py::test_a_leak_a_lenient_grader_and_a_wrong_record_are_noticed",
    ),
    "a metric that the submission reports of itself": (
        f"{PREDICTIONS}::test_a_claimed_score_beside_predictions_is_not_believed",
        f"{PREDICTIONS}::test_a_grader_that_trusts_files_would_be_noticed",
        f"{PREDICTIONS}::test_a_claimed_score_within_texts_or_weights_is_refused",
        f"{PLAYERS}::test_a_claimed_payoff_is_not_believed",
        f"{MODELS}::test_a_claimed_return_is_not_believed",
    ),
    "targets handed to the model": (
        f"{MODELS}::test_a_model_that_remembers_all_it_was_asked_never_knows_a_target",
        f"{MODELS}::test_a_target_shown_beside_its_prefix_would_be_noticed",
    ),
    "pickles": (
        f"{PREDICTIONS}::test_pickles_and_object_arrays_are_no_predictions_texts_or_weights",
        f"{MODELS}::test_a_pickle_among_the_checkpoints_runs_in_the_players_sandbox_at_most",
        f"{PREDICTIONS}::test_a_grader_that_trusts_files_would_be_noticed",
        f"{FILES}::test_a_hostile_file_is_refused_with_a_type_and_a_sentence",
    ),
    "a patched clock or random module": (
        f"{PLAYERS}::test_a_patched_random_module_moves_no_opponent",
        f"{PLAYERS}::test_a_patched_clock_neither_earns_decisions_nor_time",
        f"{SESSIONS}::test_the_clock_of_the_sandbox_buys_no_time",
        f"{PROGRAMS}::test_a_hostile_program_is_refused_with_a_type_or_scored_as_what_it_plays",
        "tests/grading/test_players.py::test_a_patched_random_module_does_not_touch_the_opponents",
    ),
    "unlimited validation on the test set": (
        f"{SESSIONS}::test_validate_and_submit_pay_different_rows",
        f"{SESSIONS}::test_the_number_of_validations_is_limited_whoever_asks",
        f"{PREDICTIONS}::test_a_careless_grader_would_be_noticed",
        f"{PLAYERS}::test_validate_and_submit_play_different_matches",
        f"{FILES}::test_twenty_validations_say_the_same_and_nothing_of_the_test",
        "tests/attacks/test_calls.py::test_twenty_validations_and_submits_at_once_give_one_end",
        "tests/catalog/test_tasks.py::test_a_wrong_label_costs_only_on_the_split_that_it_belongs_to",
    ),
    "markers in output: results, protocol messages and frames": (
        f"{SESSIONS}::test_output_that_imitates_results_is_only_output",
        f"{PLAYERS}::test_a_program_that_prints_results_is_scored_for_what_it_plays",
        f"{COMMANDS}::test_frames_on_every_descriptor_are_only_output",
        f"{PROGRAMS}::test_a_program_that",
    ),
    "rows taken by their position": (
        f"{PREDICTIONS}::test_rows_count_for_the_id_they_name_wherever_they_stand",
        f"{PREDICTIONS}::test_texts_count_for_the_id_they_name_wherever_they_stand",
        f"{PREDICTIONS}::test_a_careless_grader_would_be_noticed",
        "tests/grading/test_strict.py::test_a_good_file_is_read_in_the_order_asked_for",
    ),
    "ids that occur twice": (
        f"{PREDICTIONS}::test_two_answers_for_one_id_are_refused",
        f"{PREDICTIONS}::test_a_careless_grader_would_be_noticed",
        f"{FILES}::test_a_hostile_file_is_refused_with_a_type_and_a_sentence",
        "tests/grading/test_strict.py::test_what_is_not_exactly_as_asked_is_refused",
    ),
    "the best seed five times, and actions learned by heart": (
        f"{MODELS}::test_one_policy_for_every_index_earns_its_mean_over_fresh_episodes",
        f"{MODELS}::test_actions_recorded_in_known_episodes_do_not_replay_in_hidden_ones",
    ),
    "files swapped behind the scorer's back": (
        f"{FILES}::test_what_is_swapped_during_the_grading_does_not_change_the_score",
        f"{PLAYERS}::test_a_program_swapped_while_it_plays_is_scored_as_it_was_copied",
        f"{SESSIONS}::test_what_was_graded_is_kept_and_scores_the_same_again",
    ),
}


def functions(path: str) -> set[str]:
    """The names of the tests in a module."""
    tree = ast.parse((ROOT / path).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds) and node.name.startswith("test_")}


def test_every_way_of_cheating_is_tried_by_tests_that_exist() -> None:
    assert len(WAYS) == 15
    for way, tests in WAYS.items():
        assert tests, way
        for test in tests:
            path, _, name = test.partition("::")
            assert name in functions(path), f"{way}: there is no {test}"


def test_every_test_of_the_ways_is_listed() -> None:
    listed = {test for tests in WAYS.values() for test in tests}
    for path in (PREDICTIONS, SESSIONS, PLAYERS, MODELS):
        assert {f"{path}::{name}" for name in functions(path)} <= listed


# -- what the tests of the ways have in common -----------------------------------------------------------------------

SMALL: Final[Mapping[str, Mapping[str, object]]] = {
    "house_price": {"train": 60, "val": 30, "test": 60, "unlabelled": 90, "last_id": 89},
    "image_captioning": {"train": 20, "val": 10, "test": 20, "unlabelled": 30, "last_id": 29},
    "language_modeling": {
        "train_bytes": 20_000,
        "val_bytes": 80_000,
        "test_bytes": 80_000,
        "val_windows": 120,
        "test_windows": 120,
        "batch": 32,
    },
    "model_soup": {"models": 4, "last_model": 3, "first_steps": 20, "tune_steps": 10, "train_draws": 1, "draws": 1},
    "prisoners_dilemma": {"matches_per_rule": 3, "examples_per_rule": 2, "rounds_low": 5, "rounds_high": 8},
    "three_sat": {"n": 20, "clauses": 85, "examples": 2, "val_formulas": 8, "test_formulas": 8},
    "breakout": {"episodes": 8, "val_episodes": 8, "horizon": 60},
    "metamaze": {"episodes_per_goal": 1, "val_episodes_per_goal": 1, "horizon": 60},
    "mountain_car": {"episodes": 8, "val_episodes": 8, "horizon": 60, "checkpoints": 3},
}
"""Parameters of the small copies of shipped tasks."""
PLENTY: Final = {"calls": 100_000, "validations": 10_000, "wall_s": 3600, "cpu_s": 100_000}
UNPACK: Final = """\
import base64, json, pathlib
for name, data in json.load(open("/tmp/pack.json")).items():
    path = pathlib.Path("/workspace", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64decode(data))
"""


def shrink(text: str, name: str, changes: Mapping[str, object]) -> str:
    """A shipped ``task.toml`` for the light environment, with other parameters in ``mini`` and room for any file."""
    begin = text.index("[presets.mini]")
    end = text.find("[presets.full]")
    head, mini, rest = text[:begin], text[begin:end], text[end:]
    for key, value in changes.items():
        mini, count = re.subn(rf'\b{key} = ("[^"]*"|[^\s,}}]+)', f"{key} = {value}", mini)
        assert count, f"{name} has no parameter {key}"
    mini = mini.replace('environment = "torch"', 'environment = "light"')
    head = re.sub(r"^include = .*$", 'include = ["**"]', head, flags=re.MULTILINE)
    return re.sub(r"^max_files = .*$", "max_files = 64", head, flags=re.MULTILINE) + mini + rest


@dataclass
class Desk:
    """An agent's place at a task: an open session, and what the server's journal says of its scores."""

    server: Server
    made: Mapping[str, Any]
    client: Client

    async def put(self, files: Mapping[str, str | bytes], command: str = "true") -> str:
        """Make these files the whole workspace, then run a command; returns what it printed."""
        raw = {name: data.encode() if isinstance(data, str) else data for name, data in files.items()}
        packed = json.dumps({name: base64.b64encode(data).decode() for name, data in raw.items()})
        await text_of(self.client, "write_file", path="/tmp/pack.json", content=packed)
        await text_of(self.client, "write_file", path="/tmp/unpack.py", content=UNPACK)
        unpack = "cd /workspace && find . -mindepth 1 -delete && python3 -I /tmp/unpack.py && echo unpacked"
        assert "unpacked" in await text_of(self.client, "shell", command=unpack)
        return "" if command == "true" else await text_of(self.client, "shell", command=command, timeout_s=60)

    async def scored(self, kind: str = "validate") -> Event:
        """Have the workspace scored; returns the journal's record, at full precision. No score is no error here."""
        result = await self.client.call_tool(kind, {})
        view = result.structured_content
        assert not result.is_error, result.content
        event = [event for event in self.server.events(self.made) if event.type == "score"][-1]
        assert (event["kind"], event["valid"], event["code"]) == (kind, view["valid"], view["code"])
        assert view["score"] == event["shown"]
        return event

    async def score_of(self, files: Mapping[str, str | bytes], command: str = "true") -> Mapping[str, float]:
        """Validate these files, which must be valid; returns all metrics."""
        await self.put(files, command)
        event = await self.scored()
        assert event["valid"], event["reason"]
        return dict(event["metrics"])

    async def refusal_of(self, files: Mapping[str, str | bytes]) -> str:
        """Validate these files, which must not be valid; returns the code."""
        await self.put(files)
        event = await self.scored()
        assert not event["valid"], event["metrics"]
        assert event["reason"]
        return str(event["code"])


@dataclass
class Desks:
    """Desks at tasks by name, one session each as long as a module's tests run; tasks are added on first use."""

    server: Server
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)

    def copy(self, name: str, *, called: str = "", grader: str = "", **changes: object) -> str:
        """Add a small copy of a shipped task, perhaps under another name and with another grader."""
        target = self.server.tasks / (called or name)
        if not target.exists():
            draft = self.server.home / f"draft-{target.name}"
            shutil.copytree(ROOT / "tasks" / name, draft, ignore=shutil.ignore_patterns("__pycache__"))
            text = shrink((draft / "task.toml").read_text(), name, {**SMALL[name], **changes})
            (draft / "task.toml").write_text(text.replace(f'id = "{name}"', f'id = "{target.name}"', 1))
            if grader:
                (draft / "grader.py").write_text(grader)
            shutil.copytree(ROOT / "tasks" / SHARED, self.server.tasks / SHARED, dirs_exist_ok=True)
            draft.rename(target)
        return target.name

    @asynccontextmanager
    async def at(self, task: str) -> AsyncIterator[Desk]:
        """A client of the module's session of a task; shipped tasks are copied."""
        if not (self.server.tasks / task).exists():
            self.copy(task)
        if task not in self.sessions:
            self.sessions[task] = self.server.create(task, "bubblewrap", budget=PLENTY)
        async with self._connected(self.sessions[task]) as desk:
            yield desk

    @asynccontextmanager
    async def fresh(self, task: str, **budget: float) -> AsyncIterator[Desk]:
        """A client of a new session, for what spoils or ends it."""
        if not (self.server.tasks / task).exists():
            self.copy(task)
        made = self.server.create(task, "bubblewrap", budget=PLENTY | budget)
        try:
            async with self._connected(made) as desk:
                yield desk
        finally:
            self.server.api("DELETE", f"/sessions/{made['id']}")

    @asynccontextmanager
    async def _connected(self, made: dict[str, Any]) -> AsyncIterator[Desk]:
        failure: Exception | None = None
        async with Client(made["mcp_url"]) as client:
            try:
                yield Desk(self.server, made, client)
            except Exception as exc:
                failure = exc  # the client would wrap it in groups, of which nobody wants to read
        if failure is not None:
            raise failure


@pytest.fixture(scope="module")
def sessions(server: Server) -> Iterator[dict[str, dict[str, Any]]]:
    """The sessions that a module's tests share; ended afterwards."""
    made: dict[str, dict[str, Any]] = {}
    yield made
    for session in made.values():
        server.api("DELETE", f"/sessions/{session['id']}")


@pytest.fixture
def desks(arena: Arena, sessions: dict[str, dict[str, Any]]) -> Desks:
    """Places to cheat from; the arena looks after the server."""
    return Desks(arena.server, sessions)


def hidden(server: Server, task: str, name: str) -> Path:
    """A file of a task's vault."""
    (found,) = (server.home / "vault").glob(f"{task}/**/{name}")
    return found


def array_of(path: Path) -> list[float]:
    """The numbers of a small one-dimensional ``.npy`` file; the tests themselves have no NumPy."""
    data = path.read_bytes()
    start = 10 + int.from_bytes(data[8:10], "little")
    header = ast.literal_eval(data[10:start].decode())
    code = {"<f8": "d", "<i8": "q", "<i4": "i", "<f4": "f", "|b1": "?", "|u1": "B"}[header["descr"]]
    return memoryview(data[start:]).cast(code).tolist()


SCAN: Final = """\
import os, sys
def scan(masked):
    wanted = {name: bytes(byte ^ 85 for byte in bytes.fromhex(text)) for name, text in masked.items()}
    skip, paths, found = {"/proc", "/sys", "/dev", "/usr", sys.prefix, sys.base_prefix}, [], []
    for folder, folders, files in os.walk("/"):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in skip]
        paths += [os.path.join(folder, name) for name in files]
    for folder, _, files in os.walk("/dev/shm"):
        paths += [os.path.join(folder, name) for name in files]
    for process in filter(str.isdigit, os.listdir("/proc")):
        paths += ["/proc/%s/%s" % (process, part) for part in ("environ", "cmdline", "maps", "mountinfo")]
    for path in paths:
        try:
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    data = file.read(1 << 26)
                found += [(name, path) for name, needle in wanted.items() if needle in data]
        except OSError:
            pass
    return found
"""
"""Looks for bytes in all files of a sandbox but the system's, and in what is known of its processes."""


def masked(needles: Mapping[str, bytes]) -> dict[str, str]:
    """Needles as ``SCAN`` takes them: they must not be found in the program that looks for them."""
    assert all(len(needle) >= 8 for needle in needles.values())
    return {name: bytes(byte ^ 85 for byte in needle).hex() for name, needle in needles.items()}


def world_needles(server: Server, task: str) -> dict[str, bytes]:
    """The task's secret in the ways in which it might be written down."""
    secret = (server.home / "worlds" / task).read_bytes()
    return {"secret": secret, "secret in hex": secret.hex().encode(), "secret in base64": base64.b64encode(secret)}
