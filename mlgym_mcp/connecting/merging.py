"""A server's entry in the text of a client's file: put in, shown alone, found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mlgym_mcp.connecting import jsonc, toml_tables
from mlgym_mcp.connecting.clients import Client, Format
from mlgym_mcp.connecting.servers import Server

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


class UnmergeableError(ValueError):
    """The file's text cannot take the entry; nothing was changed."""


def check_name(name: str) -> None:
    """Refuse a name that some client would not take.

    Raises:
        ValueError: it is one.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a server: up to 40 letters, digits, - and _ are wanted")


def shown(client: Client, server: Server, name: str) -> str:
    """Return the configuration with this server alone, as the client's file would hold it."""
    return merged("", client, server, name, Path("it")).strip("\n")


def merged(text: str, client: Client, server: Server, name: str, path: Path) -> str:
    """Return the text of a client's file with the server's entry in it, and all else as it was.

    Raises:
        UnmergeableError: the text is broken, or something else is where the entry belongs; names the path.
        UnwritableServerError: the client cannot be told of such a server.
    """
    entry = client.entry(server)
    try:
        if client.format is Format.TOML:
            return toml_tables.with_table(text, (client.key, name), entry)
        asked = client.inputs(server)
        if asked is not None:
            text = jsonc.with_item(text, "inputs", asked, "id")
        return jsonc.with_member(text, (client.key, name), entry)
    except (jsonc.BrokenJsonError, toml_tables.BrokenTomlError) as exc:
        kind = client.format.upper()
        raise UnmergeableError(f"{path} is not {kind}, and was left as it is: {exc}") from None
    except (jsonc.WrongKindError, toml_tables.UnreachableTableError) as exc:
        raise UnmergeableError(f"{path} was left as it is: {exc}") from None


def entry_in(text: str, client: Client, name: str) -> dict[str, Any] | None:
    """Return the entry of this name in the text of a client's file, or ``None``.

    Raises:
        ValueError: the text is broken.
    """
    value: Any
    if client.format is Format.TOML:
        value = toml_tables.parse(text)
    else:
        root = jsonc.parse(text)
        value = None if root is None else root.value
    for key in (client.key, name):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else None
