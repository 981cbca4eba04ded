"""What a sandbox for Inspect is made of."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mlgym_sandbox import BACKENDS, DATA, WORKSPACE, Limits, Mount

FILE = "mlgym-sandbox.toml"
"""Found beside an Inspect task, it says how the sandbox is made."""


def _target(path: str) -> str:
    if not path.startswith("/") or ".." in path.split("/") or path.rstrip("/") in ("", WORKSPACE):
        raise ValueError(f"a folder is shown at an absolute path other than {WORKSPACE}, such as {DATA}")
    return path


class SandboxOptions(BaseModel):
    """How the sandboxes of a task are made; everything has a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: Literal["auto", "docker", "bubblewrap", "process"] = Field(
        default="auto", description="auto: docker where an engine has the image, else bubblewrap."
    )
    unsafe: bool = Field(default=False, description="Allow the backend process, which isolates nothing.")
    environment: str = Field(default="light", description="The prepared Python environment (bubblewrap, process).")
    image: str = Field(default="mlgym-light", description="The container image (docker).")
    cpus: float = Field(default=2.0, gt=0)
    memory_mb: int = Field(default=4096, gt=0)
    storage_mb: int = Field(default=2048, gt=0, description="MiB that the workspace may take.")
    tmp_mb: int = Field(default=256, gt=0, description="MiB that /tmp may take.")
    pids: int = Field(default=512, gt=0)
    mounts: dict[Annotated[str, AfterValidator(_target)], Path] = Field(
        default_factory=dict, description="Folders of this machine shown read-only: where inside -> which."
    )
    env: dict[str, str] = Field(default_factory=dict, description="Environment variables of every command.")
    ttl_s: float = Field(
        default=43_200.0, gt=0, description="A sandbox that Inspect has not spoken to for so long ends itself, seconds."
    )

    def __hash__(self) -> int:
        """Return a hash: Inspect keeps options in a table."""
        return hash(self.model_dump_json())

    def limits(self) -> Limits:
        """Return the limits as a backend takes them."""
        return Limits(
            cpus=self.cpus,
            memory_mb=self.memory_mb,
            pids=self.pids,
            storage_mb=self.storage_mb,
            tmp_mb=self.tmp_mb,
        )

    def shown(self) -> tuple[Mount, ...]:
        """Return the mounts as a backend takes them."""
        return tuple(Mount(source.expanduser().absolute(), target) for target, source in self.mounts.items())


def options_of(config: Any) -> SandboxOptions:
    """Return the options that Inspect hands on: none, a model of ours, a backend's name, or the path of a TOML file.

    Raises:
        ValueError: they make no sense; the message says which.
    """
    if config is None:
        return SandboxOptions()
    if isinstance(config, SandboxOptions):
        return config
    if not isinstance(config, str):
        raise ValueError(f"a sandbox of mlgym takes SandboxOptions, a backend's name or a TOML file, not {config!r}")
    path = Path(config)
    if path.name in ("auto", *BACKENDS) and not path.exists():  # Inspect puts the task's folder before it
        return read_options({"backend": path.name}, path.name)
    try:
        given = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{config!r} is neither a backend ({', '.join(('auto', *BACKENDS))}) nor a TOML file"
        ) from None
    except (OSError, ValueError) as exc:
        raise ValueError(f"{config} cannot be read: {exc}") from exc
    options = read_options(given, config)
    at = path.absolute().parent
    return options.model_copy(update={"mounts": {to: at / source for to, source in options.mounts.items()}})


def read_options(given: dict[str, Any], name: str) -> SandboxOptions:
    """Return options from what was written down.

    Raises:
        ValueError: an unknown or impossible one, named.
    """
    try:
        return SandboxOptions.model_validate_json(json.dumps(given, default=str))
    except ValidationError as exc:
        (first, *_) = exc.errors()
        raise ValueError(f"{name}: {'.'.join(map(str, first['loc'])) or 'options'}: {first['msg']}") from exc
