"""Tool calls that models write as text are found in every known form, and nothing else is."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlgym_clients.agents import written_calls as module
from mlgym_clients.agents.written_calls import WrittenCall, written_calls

KNOWN = {"shell", "write_file", "submit", "job_wait"}

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=40)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
keywords = st.sampled_from(["command", "path", "content", "wait_s", "job_id", "x1"])
calls = st.builds(WrittenCall, st.sampled_from(sorted(KNOWN)), st.dictionaries(keywords, values, max_size=3))
several = st.lists(calls, min_size=1, max_size=3)
prose = st.sampled_from(["", "I will look at it.\n", "First (maybe) this: ", "See [1] and {x}:\n\n"])


def as_json(call: WrittenCall, key: str = "parameters") -> str:
    return json.dumps({"name": call.name, key: call.arguments})


def as_python(call: WrittenCall) -> str:
    return f"{call.name}({', '.join(f'{name}={value!r}' for name, value in call.arguments.items())})"


@given(several, prose)
def test_llama_3_json_is_read_in_all_its_forms(wanted: list[WrittenCall], before: str) -> None:
    joined = "; ".join(map(as_json, wanted))
    for text in (
        before + joined,
        before + f"```json\n{joined}\n```",
        before + f"<|python_tag|>{joined}<|eom_id|>",
        before + json.dumps([json.loads(as_json(call, "arguments")) for call in wanted]),
        before + "\n".join(f"<tool_call>\n{as_json(call, 'arguments')}\n</tool_call>" for call in wanted),
        before + "".join(f"<function={call.name}>{json.dumps(call.arguments)}</function>" for call in wanted),
    ):
        assert written_calls(text, KNOWN) == wanted, text


@given(several, prose)
@example([WrittenCall("shell", {"command": "echo ')]' \"\"\" '''"})], "")
def test_llama_4_lists_are_read(wanted: list[WrittenCall], before: str) -> None:
    listed = f"[{', '.join(map(as_python, wanted))}]"
    for text in (before + listed, before + f"<|python_start|>{listed}<|python_end|><|eot|>"):
        assert written_calls(text, KNOWN) == wanted, text
    (one, *_) = wanted
    assert written_calls(f"<|python_tag|>{as_python(one).replace('(', '.call(', 1)}", KNOWN) == [one]


@given(st.lists(st.sampled_from([*"[]{}()\"'\\,:=;\n .", "shell", "name", "<|python_tag|>"]), max_size=60).map("".join))
@example('[shell(command="')
@example('{"name": "shell", "parameters": {"a": 1e999}}')
@example("[shell(x=" + "9" * 5000 + ")]")
@example("[shell(x=" + "-" * 5000 + "1)]")
@example("[shell(x=" + "[" * 3000 + "]" * 3000 + ")]")
@example("[" * 100_000)
@example('{"name": "shell", "parameters": ' * 2000)
@example("[shell(a='\ud800')]")
@example("[shell(a='\0')]")
def test_any_text_is_read_without_an_error(text: str) -> None:
    for call in written_calls(text, KNOWN):
        assert isinstance(call.arguments, dict)


BEGINNINGS = ["[shell(", '{"name": "shell", "parameters": {', "<tool_call>", "<function=shell>", "[shell(a='",
              "<|python_tag|>", "; a(", '[{"name": "shell"}, ', "[" * 50, "[shell(a='\\'"]  # fmt: skip


@pytest.mark.parametrize("piece", BEGINNINGS)
def test_a_megabyte_of_beginnings_is_read_in_no_time(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    begin = time.process_time()
    written_calls(text, KNOWN)
    assert time.process_time() - begin < 3  # quadratic would be hours


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Shall I call shell(command='ls')?",
        "[see (a)] and [other(x=1)]",
        '{"name": "someone", "parameters": {}}',
        '{"name": "shell"}',
        '{"name": "shell", "parameters": {}, "because": "prose"}',
        '{"name": "shell", "parameters": [1]}',
        '{"command": "ls"}',
        "[shell('ls')]",
        "[shell(**{'command': 'ls'})]",
        "[shell(command=open('/etc/passwd').read())]",
        "[shell(command=f'{1}')]",
        "[shell(command=b'x')]",
        "[shell(command=1+1)]",
        "[shell(x=1, x=2)]",
        "[__import__('os').system('x')]",
        "<|python_tag|>import os\nprint(os.listdir('.'))",
        "[shell(command='ls'), 3]",
    ],
)
def test_what_is_no_call_is_none(text: str) -> None:
    assert written_calls(text, KNOWN) == []


def test_a_call_of_an_unknown_tool_counts_only_behind_a_mark() -> None:
    assert written_calls('{"name": "magic", "parameters": {}}', KNOWN) == []
    assert written_calls('<|python_tag|>{"name": "magic", "parameters": {}}', KNOWN) == [WrittenCall("magic", {})]


def test_line_breaks_in_strings_are_kept_whoever_forgot_to_escape_them() -> None:
    wanted = [WrittenCall("write_file", {"path": "a.py", "content": "import os\nprint('x')\n"})]
    python = '[write_file(path="a.py", content="import os\nprint(\'x\')\n")]'
    assert written_calls(python, KNOWN) == wanted
    assert written_calls(python.replace('="import', '="""import').replace('\n")', '\n""")'), KNOWN) == wanted
    given = '{"path": "a.py", "content": "import os\nprint(\'x\')\n"}'
    assert written_calls(f'{{"name": "write_file", "parameters": {given}}}', KNOWN) == wanted


def test_json_words_in_python_calls_and_arguments_as_text_are_understood() -> None:
    assert written_calls("[shell(a=true, b=null, c=-1.5, d=(1, 2))]", KNOWN) == [
        WrittenCall("shell", {"a": True, "b": None, "c": -1.5, "d": [1, 2]})
    ]
    text = '{"type": "function", "function": {"name": "shell", "arguments": "{\\"command\\": \\"ls\\"}"}}'
    assert written_calls(text, KNOWN) == [WrittenCall("shell", {"command": "ls"})]


def test_nothing_is_ever_evaluated() -> None:
    source = Path(module.__file__).read_text()
    assert "eval(" not in source.replace("ast.parse(source, mode=", "")
    assert "exec(" not in source
