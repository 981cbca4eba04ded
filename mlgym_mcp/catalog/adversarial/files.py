"""What is not a regular file, or not there."""

from __future__ import annotations

from collections.abc import Iterator

from mlgym_mcp.catalog.adversarial.case import Adversarial, case
from mlgym_mcp.catalog.spec import Submission


def files(rules: Submission, path: str) -> Iterator[Adversarial]:
    """Yield submissions whose file is no regular file, or not there."""
    refused = ("forbidden", "missing")
    yield case("nothing", {}, "missing", commands=f"rm -rf {path}")
    yield case("a link to a file outside", {}, *refused, commands=f"rm -rf {path}; ln -s /etc/passwd {path}")
    yield case("a link to itself", {}, *refused, commands=f"rm -rf {path}; ln -s {path} {path}")
    yield case("a hard link", {"other": b"x"}, *refused, "format", "crash", commands=f"rm -rf {path}; ln other {path}")
    yield case("a folder", {}, *refused, commands=f"rm -rf {path}; mkdir {path}")
    yield case("a pipe", {}, *refused, commands=f"rm -rf {path}; mkfifo {path}")
    size = rules.max_bytes + 1
    huge = ("too_large", "forbidden")
    yield case("a file with a hole, too large", {}, *huge, commands=f"rm -rf {path}; truncate -s {size} {path}")
    yield case(
        "a terabyte of nothing", {}, *huge, commands=f"rm -rf {path}; truncate -s 1T {path} || truncate -s 8G {path}"
    )
