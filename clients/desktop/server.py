"""What Claude Desktop starts: the relay of one task, or of the desk. A setting that was not made is empty."""

from __future__ import annotations

import sys

from mlgym_mcp.cli.entry import main


def arguments(settings: list[str]) -> list[str]:
    """Return the command line for the settings task, preset and sandbox.

    The desk has a name, so that the next start of Claude Desktop finds the sessions of this one.
    """
    task, preset, sandbox = ("" if value.startswith("${") else value.strip() for value in settings)
    if task.startswith("-"):
        raise SystemExit(f"mlgym-mcp: {task!r} is no task; leave the setting empty to choose one later")
    what = [task, "--preset", preset or "mini"] if task else ["--session", "claude-desktop"]
    return ["serve", *what, "--sandbox", sandbox or "auto"]


if __name__ == "__main__":
    sys.argv[1:] = arguments(sys.argv[1:])
    main()
