"""Globs."""

from __future__ import annotations

import re


def glob_expression(glob: str) -> str:
    """A glob as a regular expression: ``*`` and ``?`` stay within a name, ``**`` crosses folders."""
    text, at = "", 0
    while at < len(glob):
        if glob.startswith("**/", at):
            text, at = text + "(?:.*/)?", at + 3
        elif glob.startswith("**", at):
            text, at = text + ".*", at + 2
        elif glob[at] == "*":
            text, at = text + "[^/]*", at + 1
        elif glob[at] == "?":
            text, at = text + "[^/]", at + 1
        elif glob[at] == "[" and "]" in glob[at + 2 :]:
            close = glob.index("]", at + 2)
            inside = glob[at + 1 : close].replace("\\", "\\\\").replace("[", "\\[")
            text, at = text + "[" + ("^" + inside[1:] if inside[0] in "!^" else inside) + "]", close + 1
        else:
            text, at = text + re.escape(glob[at]), at + 1
    return "(?s:%s)" % text
