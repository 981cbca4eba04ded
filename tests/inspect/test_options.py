"""What may be said about sandboxes for Inspect, and how it is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from mlgym_clients.inspect.options import SandboxOptions, options_of
from mlgym_sandbox import Limits

DOCUMENT = Path(__file__).parents[2] / "docs" / "inspect.md"


def test_nothing_said_means_the_defaults_and_a_name_means_a_backend(tmp_path: Path) -> None:
    assert options_of(None) == SandboxOptions()
    assert options_of("bubblewrap").backend == "bubblewrap"
    assert options_of(str(tmp_path / "docker")).backend == "docker", "Inspect puts the task's folder before a name"
    assert options_of(SandboxOptions(cpus=1)).limits() == Limits(cpus=1)


def test_a_file_says_it_all_and_its_folders_are_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "mlgym-sandbox.toml"
    file.write_text(
        'backend = "docker"\nimage = "mine"\nmemory_mb = 512\n[mounts]\n"/data" = "given"\n[env]\nA = "1"\n'
    )
    options = options_of(str(file))
    assert (options.backend, options.image, options.limits().memory_mb) == ("docker", "mine", 512)
    (mount,) = options.shown()
    assert (mount.source, mount.target) == (tmp_path / "given", "/data")


def test_options_that_mean_the_same_are_the_same_to_inspect() -> None:
    one, two = (SandboxOptions(env={"A": "1"}, mounts={"/data": Path("/srv")}) for _ in range(2))
    assert len({one, two}) == 1
    assert SandboxOptions.model_validate(one.model_dump(mode="json")) == one, "as a log has it"


def test_the_file_in_the_document_is_one(tmp_path: Path) -> None:
    text = DOCUMENT.read_text().split("```toml\n")[1].split("```")[0]
    shown = SandboxOptions.model_validate(tomllib.loads(text))
    default = SandboxOptions()
    assert shown.model_copy(update={"mounts": {}, "env": {}}) == default, "it shows the defaults"


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ('backend = "podman"', "backend: "),
        ("cpus = 0", "cpus: "),
        ("memory = 5", "memory: Extra inputs are not permitted"),
        ('[mounts]\n"data" = "given"', "absolute path"),
        ('[mounts]\n"/a/../workspace" = "given"', "absolute path"),
        ('[mounts]\n"/workspace/" = "given"', "absolute path"),
        ("mounts = 2026-01-01", "mounts: "),
        ("cpus = [", "cannot be read"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, written: str, why: str) -> None:
    file = tmp_path / "mlgym-sandbox.toml"
    file.write_text(written)
    with pytest.raises(ValueError, match=r"mlgym-sandbox\.toml") as told:
        options_of(str(file))
    assert why in str(told.value)


@pytest.mark.parametrize("config", ["compose.yaml", 5, {"backend": "docker"}])
def test_what_is_for_other_sandboxes_is_refused(config: Any) -> None:
    with pytest.raises(ValueError, match="TOML file"):
        options_of(config)
