"""Gemini CLI, opencode and GitHub Copilot CLI: as clients.py has it, with what ``more/package-lock.json`` pins."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.desktop.clients import ASKED, MODEL, ClaudeCode, Codex, DesktopClient, kind_of_machine, node_programs


def program(path: str) -> str:
    """Return where a program is that ``more/package-lock.json`` pins; it is installed if it is missing.

    Raises:
        OSError, CalledProcessError: it cannot be had, or not for this kind of machine.
    """
    file = node_programs("tests/desktop/more") / path
    if not file.exists():
        raise FileNotFoundError(f"{file} was not installed")
    return str(file)


class JsonClient(DesktopClient):
    """A client whose file of servers is JSON, and says for each server how many milliseconds a call may take."""

    key = ""
    """Where in the file the servers are."""

    @property
    @abstractmethod
    def file(self) -> Path:
        """The file that holds its servers."""

    def begin_file(self, settings: Mapping[str, Any]) -> None:
        """Make the file, as a user has it before a server is put into it; leave one alone that is there."""
        if not self.file.exists():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps(settings))

    def give_up_after(self, seconds: float) -> None:
        settings = json.loads(self.file.read_text())
        settings[self.key]["mlgym"]["timeout"] = round(seconds * 1000)
        self.file.write_text(json.dumps(settings))


class GeminiCli(JsonClient):
    """Gemini CLI, with a key of Google's API."""

    title, name, key = "Gemini CLI", "gemini-cli", "mcpServers"

    @classmethod
    def installed(cls) -> list[str]:
        return [program("node"), program("node_modules/@google/gemini-cli/bundle/gemini.js")]

    @property
    def file(self) -> Path:
        return self.home / ".gemini" / "settings.json"

    def set_up(self) -> Mapping[str, str]:
        settings = {
            "security": {"auth": {"selectedType": "gemini-api-key"}},
            "privacy": {"usageStatisticsEnabled": False},
            "general": {"enableAutoUpdate": False},
            "model": {"disableLoopDetection": True},  # else it takes waiting for a job for a loop
            "tools": {"core": ["mcp_mlgym_*"]},  # none of its own, and nobody is asked about ours
        }
        self.begin_file(settings)
        return {
            "GEMINI_API_KEY": "scripted",
            "GOOGLE_GEMINI_BASE_URL": self.model,
            "GEMINI_CLI_NO_RELAUNCH": "true",  # else it starts itself again, and that one outlives a killed one
        }

    def command(self) -> list[str]:
        return ["-p", ASKED, "--model", MODEL, "--skip-trust"]


class Opencode(JsonClient):
    """opencode, its program that runs without a terminal."""

    title, name, key = "opencode", "opencode", "mcp"

    @classmethod
    def installed(cls) -> list[str]:
        return [program(f"node_modules/opencode-linux-{kind_of_machine()}/bin/opencode")]

    @property
    def file(self) -> Path:
        return self.home / ".config" / "opencode" / "opencode.json"

    def set_up(self) -> Mapping[str, str]:
        provider = {
            "npm": "@ai-sdk/openai-compatible",
            "options": {"baseURL": "{env:SCRIPTED_MODEL}/v1", "apiKey": "scripted"},
            "models": {MODEL: {}},
        }
        settings = {
            "model": f"scripted/{MODEL}",
            "provider": {"scripted": provider},
            # None of its own, all of ours, and the same one three times at once.
            "permission": {"*": "deny", "mlgym_*": "allow", "doom_loop": "allow"},
            "autoupdate": False,
            "share": "disabled",
        }
        self.begin_file(settings)
        return {
            "SCRIPTED_MODEL": self.model,
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
        }

    def command(self) -> list[str]:
        return ["run", ASKED]


class CopilotCli(JsonClient):
    """GitHub Copilot CLI, with a model provider of one's own."""

    title, name, key = "GitHub Copilot CLI", "copilot-cli", "mcpServers"

    @classmethod
    def installed(cls) -> list[str]:
        return [program(f"node_modules/copilot-linux-{kind_of_machine()}/copilot")]

    @property
    def file(self) -> Path:
        return self.home / ".copilot" / "mcp-config.json"

    def set_up(self) -> Mapping[str, str]:
        return {
            "COPILOT_HOME": str(self.home / ".copilot"),
            "COPILOT_OFFLINE": "true",
            "COPILOT_PROVIDER_BASE_URL": f"{self.model}/v1",
            "COPILOT_MODEL": MODEL,
        }

    def command(self) -> list[str]:
        return ["-p", ASKED, "--allow-tool", "mlgym", "--available-tools", "mlgym", "--no-auto-update"]


CLIENTS: dict[str, type[DesktopClient]] = {
    client.title: client for client in (ClaudeCode, Codex, GeminiCli, Opencode, CopilotCli)
}
