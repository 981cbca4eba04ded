"""A client's file after our entry went in: everything else as it was, whatever it looked like."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlgym_mcp.connecting import jsonc, toml_tables
from mlgym_mcp.connecting.clients import CLIENTS
from mlgym_mcp.connecting.merging import UnmergeableError, entry_in, merged
from mlgym_mcp.connecting.servers import Address, Program

PROGRAM = Program('/opt/a "b"/mlgym-mcp', ("serve", "toy"), {"MLGYM_HOME": "/srv/ü\\x\x7f"})
ADDRESS = Address("http://127.0.0.1:8000/mcp", "MLGYM_TOKEN")
SERVERS = st.sampled_from([PROGRAM, ADDRESS])
JSON_CLIENTS = st.sampled_from(
    [CLIENTS[name] for name in ("claude-code", "cursor", "vscode", "gemini-cli", "opencode")]
)

keys = st.sampled_from(["mcpServers", "servers", "mcp", "inputs", "mlgym", "other", "a//b", 'q"', "ü", ""]) | st.text(
    max_size=4
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
sections = st.dictionaries(keys, values | st.dictionaries(keys, values, max_size=2), max_size=3)
inputs = st.lists(values | st.fixed_dictionaries({"id": st.sampled_from(["MLGYM_TOKEN", "else"])}), max_size=3)
documents = st.builds(
    lambda some, more: {**some, **more},
    st.dictionaries(keys, values, max_size=4),
    st.fixed_dictionaries(
        {}, optional={"mcpServers": sections, "servers": sections, "mcp": sections, "inputs": inputs}
    ),
)
blanks = st.lists(
    st.sampled_from(["", " ", "\n", "\t", "\r\n", "// a } comment\n", '/* "mlgym": { */', "// 'last',\n"]), max_size=2
).map("".join)


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """A value as somebody might have written it: comments, blanks, commas too many."""
    if isinstance(value, dict):
        parts = [
            f"{draw(blanks)}{json.dumps(key, ensure_ascii=draw(st.booleans()))}{draw(blanks)}:{draw(written(item))}"
            for key, item in value.items()
        ]
    elif isinstance(value, list):
        parts = [draw(written(item)) for item in value]
    else:
        return f"{draw(blanks)}{json.dumps(value)}{draw(blanks)}"
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    comma = "," if parts and draw(st.booleans()) else ""
    return f"{draw(blanks)}{opening}{','.join(parts)}{comma}{draw(blanks)}{closing}{draw(blanks)}"


def value_of(text: str) -> Any:
    root = jsonc.parse(text)
    return None if root is None else root.value


def refused(word: str) -> Any:
    raise ValueError(word)


def comments_of(text: str) -> list[str]:
    strings = r'"(?:[^"\\]|\\.)*"'
    found = re.finditer(rf"{strings}|(//[^\n\r]*|/\*.*?\*/)", text, re.DOTALL)
    return [match[1] for match in found if match[1]]


@given(st.data(), documents)
def test_what_was_written_by_hand_is_read_as_what_it_means(data: st.DataObject, document: dict[str, Any]) -> None:
    assert value_of(data.draw(written(document))) == document


@given(values)
def test_plain_json_is_read_as_the_standard_library_reads_it(value: Any) -> None:
    text = json.dumps(value)
    assert value_of(text) == json.loads(text)


@given(st.text(alphabet='{}[]",:/*\\ \n1at-.e', max_size=14) | st.text(max_size=6))
def test_no_text_does_anything_but_be_read_or_be_refused(text: str) -> None:
    try:
        theirs = json.loads(text, parse_constant=refused)
    except ValueError:
        try:
            value_of(text)
        except jsonc.BrokenJsonError as exc:
            told = str(exc)
            assert re.match(r"line \d+, column \d+: ", told)
    else:
        assert value_of(text) == theirs


@given(st.data(), documents, JSON_CLIENTS, SERVERS)
def test_a_merged_file_is_what_it_was_and_our_entry_and_twice_is_once(
    data: st.DataObject, document: dict[str, Any], client: Any, server: Any
) -> None:
    text = data.draw(written(document))
    wanted = json.loads(json.dumps(document))
    asked = client.inputs(server)
    try:
        if asked is not None:
            items = wanted.setdefault("inputs", [])
            same = [i for i, item in enumerate(items) if isinstance(item, dict) and item.get("id") == asked["id"]]
            place = same[0] if same else len(items)
            items[place : place + 1] = [asked]
        wanted.setdefault(client.key, {})["mlgym"] = client.entry(server)
    except (AttributeError, TypeError):
        with pytest.raises(UnmergeableError, match=r"f\.json was left as it is: .* is .*, not an? (object|list)"):
            merged(text, client, server, "mlgym", Path("f.json"))
        return
    new = merged(text, client, server, "mlgym", Path("f.json"))
    assert value_of(new) == wanted
    assert list(value_of(new)) == list(wanted), "the order stays"
    assert merged(new, client, server, "mlgym", Path("f.json")) == new
    ours = document.get(client.key, {}).get("mlgym") is not None or asked is not None
    if not ours:
        assert comments_of(new) == comments_of(text)


def test_an_editors_settings_keep_their_comments_commas_and_shape() -> None:
    text = (
        '// my settings\r\n{\r\n\t"theme": "dark", // at night\r\n\t"context_servers": {\r\n\t\t"other": {},'
        " // { mine }\r\n\t},\r\n\t/* the end */\r\n}\r\n"
    )
    new = merged(text, CLIENTS["zed"], PROGRAM, "mlgym", Path("settings.json"))
    head, tail = text.split("\r\n\t},")
    assert new.startswith(head + '\r\n\t\t"mlgym": {\r\n\t\t\t"command"')
    assert new.endswith("\t\t},\r\n\t}," + tail)
    assert "\n" not in new.replace("\r\n", "")


def test_of_equal_keys_the_last_counts_and_is_the_one_that_changes() -> None:
    new = merged('{"mcpServers": {"a": 1}, "mcpServers": {"b": 2}}', CLIENTS["cursor"], PROGRAM, "mlgym", Path("f"))
    assert set(json.loads(new)["mcpServers"]) == {"b", "mlgym"}
    assert '"mcpServers": {"a": 1}' in new


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1', "line 1, column 8: a comma or } is missing"),
        ('{"a": 1}\n}', "line 2, column 1: nothing may follow"),
        ('{"a": NaN}', "'NaN' is not a value"),
        ("{'a': 1}", 'a "key" or } is missing'),
        ('{"a": "b\n"}', "this string never ends"),
        ('{"a": "\\x"}', "holds what no string may"),
        ('{"a": 1} /* ', "this comment never ends"),
        ("[" * 5000, "more than 100 levels deep"),
        ('{"a": ' + "9" * 5000 + "}", "is not a value"),
        ("[]", "the whole is a list, not an object"),
        ('{"mcpServers": []}', '"mcpServers" is a list, not an object'),
        ('{"mcpServers": null}', '"mcpServers" is null, not an object'),
    ],
)
def test_a_file_that_cannot_take_it_is_refused_in_words(text: str, told: str) -> None:
    with pytest.raises(UnmergeableError) as refused:
        merged(text, CLIENTS["claude-desktop"], PROGRAM, "mlgym", Path("/x/f.json"))
    assert told in str(refused.value)
    assert "/x/f.json" in str(refused.value)
    assert "left as it is" in str(refused.value)


TOML_LINES = [
    "# a comment",
    "",
    'model = "gpt" # [mcp_servers.mlgym]',
    "[history]",
    "[mcp_servers]",
    "[mcp_servers.other]",
    'command = "x"',
    '[mcp_servers.other.env]\nA = "[mcp_servers.mlgym]"',
    '[mcp_servers."mlgym"] # quoted\ncommand = "old"',
    "[mcp_servers.mlgym.env]\nA = '''\n[mcp_servers.no]\n'''",
    'notice = """\\"""\n[mcp_servers.mlgym]\n\\\\"""',
    "list = [ # one\n  1,\n  [2], # ]\n]",
    "[[profiles]]\nname = 'a#b'",
    'mcp_servers.dotted.command = "y"',
    '[projects."/a]b"]\ntrust = true',
]


@given(st.lists(st.sampled_from(TOML_LINES), max_size=8), st.sampled_from(["\n", "\r\n"]), SERVERS)
def test_a_merged_toml_file_keeps_every_other_line(lines: list[str], newline: str, server: Any) -> None:
    text = "\n".join(lines).replace("\n", newline)
    client = CLIENTS["codex"]
    try:
        wanted = tomllib.loads(text.replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError:
        with pytest.raises(UnmergeableError, match="is not TOML"):
            merged(text, client, server, "mlgym", Path("config.toml"))
        return
    wanted.setdefault("mcp_servers", {})["mlgym"] = client.entry(server)
    new = merged(text, client, server, "mlgym", Path("config.toml"))
    assert toml_tables.parse(new) == wanted
    assert merged(new, client, server, "mlgym", Path("config.toml")) == new
    if "mlgym" not in tomllib.loads(text.replace("\r\n", "\n")).get("mcp_servers", {}):
        assert new.startswith(text)
    else:
        ours = r'^\[mcp_servers\."?mlgym.*?(?=^\[|\Z)'  # a comment between our own lines goes with them
        others = re.sub(ours, "", text.replace("[mcp_servers.no]", ""), flags=re.MULTILINE | re.DOTALL)
        assert new.count("# a comment") >= others.count("# a comment")
    if newline == "\r\n" and "\r\n" in text:
        assert "\n" not in new.replace("\r\n", "")


@pytest.mark.parametrize("text", ['mcp_servers = { other = { command = "x" } }', "mcp_servers = 3", "[[mcp_servers]]"])
def test_a_toml_file_whose_servers_are_no_tables_is_left_alone(text: str) -> None:
    with pytest.raises(UnmergeableError, match="was left as it is"):
        merged(text, CLIENTS["codex"], PROGRAM, "mlgym", Path("config.toml"))


@pytest.mark.parametrize("client", CLIENTS.values(), ids=list(CLIENTS))
def test_every_client_gets_an_entry_that_is_found_again(client: Any) -> None:
    text = merged("", client, PROGRAM, "mlgym", Path("f"))
    found = entry_in(text, client, "mlgym")
    assert found is not None
    together = client.name == "opencode"
    assert (found["command"] if together else [found["command"], *found["args"]]) == [PROGRAM.command, *PROGRAM.args]
    assert found["environment" if together else "env"] == PROGRAM.env
    assert entry_in(text, client, "other") is None
