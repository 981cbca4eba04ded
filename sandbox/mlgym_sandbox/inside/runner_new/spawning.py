"""Starting a command as the agent: nothing inherited but what it is given, in a session of its own."""

from __future__ import annotations

import os


def enter(folder: str, identity: Identity) -> None:
    """Change to a folder as the agent: the runner may have no right to enter a private one."""
    try:
        with identity:
            os.chdir(folder)
    except OSError as error:
        raise Refusal("file", "the working directory %s cannot be entered: %s" % (folder, error.strerror)) from None


def check_command(argv: list[str], environment: dict[str, str]) -> None:
    if not argv or not argv[0]:
        raise Refusal("misuse", "the command is empty")
    for name in environment:
        if not name or "=" in name:
            raise Refusal("misuse", "%r is no name of an environment variable" % name)
    for text in itertools.chain(argv, environment, environment.values()):
        if not isinstance(text, str) or "\0" in text:
            raise Refusal("misuse", "the command and its environment must be text without NUL characters")
        if len(os.fsencode(text)) > ARGUMENT_LIMIT:
            raise Refusal(
                "misuse",
                "the command has an argument of more than %d bytes; write it to a file and run that" % ARGUMENT_LIMIT,
            )
