"""The lines in which the server says how a job stands, told apart from what the job printed."""

from __future__ import annotations

import re

_STATUS = re.compile(
    r"\n?\[(?:bytes \d+ to \d+ of \d+[^\]]*\] \[)?"
    r"(?:job [^\]]* is still running[^\]]*|exit -?\d+ after[^\]]*|killed:[^\]]*|stopped after[^\]]*)\][^\n]*\Z"
)
_HEAD = re.compile(r"\A\[the first \d+ bytes are not shown[^\]]*\]\n")


def body_of(text: str) -> str:
    """Return what a job printed, without the server's own words around it."""
    text = re.sub(r"\n?\[(?:Budget is low:|The disk is nearly full:)[^\]]*\]\Z", "", text.rstrip())
    return _HEAD.sub("", _STATUS.sub("", text)).rstrip()
