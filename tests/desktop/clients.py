"""Claude Code and Codex: where their programs come from, how they are set up, and how they are run without a person."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import anyio
from typer.testing import CliRunner

from mlgym_mcp.cli.app import app
from tests.desktop.loopback import cut_off
from tests.frameworks.environments import python_of

INSTALL = Path(__file__).parents[2] / ".ci" / "node"
MODEL = "player"
ASKED = "Attempt the task."
_CODEX = """\
model = "{model}"
model_provider = "scripted"

[model_providers.scripted]
name = "scripted"
wire_api = "responses"
supports_websockets = false
request_max_retries = 0
stream_max_retries = 0

[analytics]
enabled = false
"""


class DesktopClient(ABC):
    """A client with a home of its own, and a model that plays a script.

    Args:
        program: the words that start it.
        home: an empty folder of a short name.
        model: the address of the model.
    """

    title = ""
    name = ""
    """What ``mlgym-mcp config`` calls it."""

    def __init__(self, program: Sequence[str], home: Path, model: str) -> None:
        self.program = program
        self.home = home
        self.work = home / "work"
        self.work.mkdir()
        self.server = ""
        """Where a server is that it reaches over HTTP."""
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TERM": "dumb"}
        """All that it gets of one."""
        self.talk_to(model)

    def talk_to(self, model: str) -> None:
        """Have it talk to the model at this address from its next run on."""
        self.model = model
        self.environment |= self.set_up()

    @classmethod
    @abstractmethod
    def installed(cls) -> list[str]:
        """Return the words that start it; it is installed if it is missing.

        Raises:
            OSError, CalledProcessError: it cannot be had.
        """

    @abstractmethod
    def set_up(self) -> Mapping[str, str]:
        """Write what it needs to find the model; return what its environment must say."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return how it is told to attempt the task, with nobody to ask."""

    @abstractmethod
    def give_up_after(self, seconds: float) -> None:
        """Make it wait no longer for a call."""

    def connect(self, *options: str) -> None:
        """Put the server into its configuration by our own command, as its user would."""
        ran = CliRunner(env=self.environment).invoke(app, ["config", self.name, *options, "--write"])
        assert ran.exit_code == 0, ran.output

    def connect_to(self, url: str, token: str) -> None:
        """The same, of a server that is reached over HTTP and wants a token: the client finds it in its environment."""
        file = self.home / "token"
        file.write_text(token)
        self.environment["MLGYM_TOKEN"] = token
        self.connect("--http", url, "--token-file", str(file))
        self.server = url

    async def run(self) -> str:
        """Have it attempt the task, where nothing else can be reached; return what it printed."""
        ports = [urlsplit(url).port or 0 for url in (self.model, self.server) if url]
        with TemporaryDirectory(dir=self.home) as folder, anyio.fail_after(100):
            with cut_off([*self.program, *self.command()], ports, Path(folder)) as command:
                done = await anyio.run_process(
                    command, check=False, env=self.environment, cwd=self.work, stdin=subprocess.DEVNULL
                )
        output = done.stdout.decode()
        assert done.returncode == 0, f"{output[-3000:]}\n{done.stderr.decode()[-3000:]}"
        return output

    def version(self) -> str:
        """Return the version of the program."""
        said = subprocess.run([*self.program, "--version"], capture_output=True, check=True, env=self.environment)
        found = re.search(r"\d+\.\d+\.\d+", said.stdout.decode())
        assert found is not None, said
        return found[0]


class ClaudeCode(DesktopClient):
    """Claude Code, as the Claude Agent SDK brings it along."""

    title, name = "Claude Code", "claude-code"

    @classmethod
    def installed(cls) -> list[str]:
        folder = python_of("claude_agent_sdk").parents[1]
        (binary,) = folder.glob("lib/python3.*/site-packages/claude_agent_sdk/_bundled/claude")
        return [str(binary)]

    def set_up(self) -> Mapping[str, str]:
        return {
            "CLAUDE_CONFIG_DIR": str(self.home / ".claude"),
            "ANTHROPIC_BASE_URL": self.model,
            "ANTHROPIC_API_KEY": "sk-ant-scripted",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "IS_SANDBOX": "1",
        }

    def give_up_after(self, seconds: float) -> None:
        self.environment["MCP_TOOL_TIMEOUT"] = str(round(seconds * 1000))

    def command(self) -> list[str]:
        tools = ["--tools", "", "--allowedTools", "mcp__mlgym"]  # none of its own, all of ours
        told = ["--model", MODEL, "--no-session-persistence", "--output-format", "stream-json", "--verbose"]
        return ["-p", ASKED, *tools, *told]


class Codex(DesktopClient):
    """Codex, its command line."""

    title, name = "Codex", "codex"

    @classmethod
    def installed(cls) -> list[str]:
        folder = node_programs("tests/desktop") / "node_modules" / f"codex-linux-{kind_of_machine()}"
        (binary,) = folder.glob("vendor/*/bin/codex")
        return [str(binary)]

    def set_up(self) -> Mapping[str, str]:
        folder = self.home / ".codex"
        folder.mkdir(exist_ok=True)
        file = folder / "config.toml"
        if not file.exists():
            file.write_text(_CODEX.format(model=MODEL))
        address = f'model_providers.scripted.base_url="{self.model}/v1"'
        # Whoever runs "exec" cannot be asked whether a tool that changes something may be called.
        self.overriding = ["-c", address, "-c", 'mcp_servers.mlgym.default_tools_approval_mode="approve"']
        return {"CODEX_HOME": str(folder)}

    def give_up_after(self, seconds: float) -> None:
        self.overriding += ["-c", f"mcp_servers.mlgym.tool_timeout_sec={seconds}"]

    def command(self) -> list[str]:
        offline = [word for feature in ("plugins", "apps", "remote_plugin") for word in ("--disable", feature)]
        return ["exec", *offline, *self.overriding, "--json", "--skip-git-repo-check", ASKED]


def node_programs(pinned: str) -> Path:
    """Return the folder with the programs that a lock file of ours pins; they are installed if they are missing."""
    done = subprocess.run([INSTALL, pinned], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip().splitlines()[-1])


def kind_of_machine() -> str:
    """Return what Node's packages call this kind of processor."""
    return {"x86_64": "x64", "aarch64": "arm64"}[platform.machine()]
