"""The ``mlgym-mcp`` command: a short way to the relay, the whole command line for all else."""

from __future__ import annotations

import sys
from typing import Any

from mlgym_mcp.loading import loading

_TEXT = {"--preset": "preset", "--session": "session", "--sandbox": "sandbox"}
_NUMBERS = {"--seed": "seed"}
_BUDGET = {
    "--wall": "wall_s",
    "--calls": "calls",
    "--validations": "validations",
    "--cpu": "cpu_s",
    "--idle": "idle_s",
    "--disk": "disk_mb",
}
_WHOLE = ("calls", "validations", "disk_mb")


def greeting_of(arguments: list[str]) -> dict[str, Any] | None:
    """Return the relay's greeting for ``serve``'s arguments, or ``None`` if they need the whole command line.

    Clients start a relay per connection, some per tool call: the libraries of the command line would cost each
    one half a second.
    """
    greeting: dict[str, Any] = {"preset": "mini", "budget": {}}
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name == "--unsafe" and not equals:
            greeting["unsafe"] = True
            continue
        if not name.startswith("-"):
            if "task" in greeting:
                return None
            greeting["task"] = argument
            continue
        if name not in _TEXT | _NUMBERS | _BUDGET:
            return None
        value = value if equals else next(rest, "")
        try:
            if name in _TEXT:
                greeting[_TEXT[name]] = value
            elif name in _NUMBERS:
                greeting[_NUMBERS[name]] = int(value)
            else:
                key = _BUDGET[name]
                greeting["budget"][key] = int(value) if key in _WHOLE else float(value)
        except ValueError:
            return None
        if value == "":
            return None
    session = greeting.pop("session", None)
    if "task" not in greeting:  # the desk, where the agent chooses the task: nothing here may be about one
        if {name for name in greeting if name not in ("sandbox", "unsafe")} != {"preset", "budget"}:
            return None
        if greeting.pop("preset") != "mini" or greeting.pop("budget"):
            return None
        return greeting if session is None else {**greeting, "key": f"session:{session}:desk"}
    if session is not None:
        greeting["key"] = f"session:{session}:{greeting['task']}:{greeting['preset']}"
        greeting["metadata"] = {"session": session}
    return greeting


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["serve"] and (greeting := greeting_of(sys.argv[2:])) is not None:
        from mlgym_mcp.serving.relay import relay

        raise SystemExit(relay(greeting))
    with loading():
        from mlgym_mcp.cli.commands import make_app

        app = make_app(*sys.argv[1:2])
    app()


if __name__ == "__main__":
    main()
