"""What pins a source: a checksum, or the trust of the first use, which is recorded and then enforced."""

from __future__ import annotations

import gzip
import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mlgym_mcp.catalog import SourceError, Task, TaskError, fetching, prepare, sources, state
from mlgym_mcp.catalog.lock import Source
from mlgym_mcp.catalog.prepared import recipe_digest
from mlgym_mcp.catalog.trust import record_path, trusted
from tests.catalog.conftest import TASK
from tests.catalog.mirror import Mirror, running_mirror, sha256

pytestmark = pytest.mark.anyio
PAYLOAD = bytes(range(256)) * 4096
OTHER = PAYLOAD[:-1] + b"!"
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with running_mirror() as made:
        yield made


def first_use(address: str, **more: Any) -> Source:
    origin = {"kind": "url", "url": address}
    return Source.model_validate(
        {"name": "houses", "trust": "first-use", "licence": "none", "origins": [origin], **more}
    )


async def fetch(wanted: Source, **options: Any) -> bytes:
    options.setdefault("environ", {})
    found = await sources.fetch([wanted], pause_s=0.01, **options)
    return found[wanted.name].read_bytes()


async def test_the_first_use_is_recorded_told_and_enforced(mirror: Mirror, mlgym_home: Path) -> None:
    mirror.files["/houses.arff"] = PAYLOAD
    wanted = first_use(f"{mirror.address}/houses.arff")
    assert trusted(wanted) is None
    assert not sources.have(wanted)
    said: list[str] = []
    assert await fetch(wanted, progress=lambda _done, text: said.append(text)) == PAYLOAD
    assert f"houses is trusted on first use: sha256 {sha256(PAYLOAD)}; compare it with a friend's" in said
    record = record_path(wanted)
    assert record.parent == mlgym_home / "trust"
    assert stat.S_IMODE(record.parent.stat().st_mode) == 0o700
    assert json.loads(record.read_text()) | {"first_used": ""} == {
        "source": "houses",
        "origin": f"{mirror.address}/houses.arff",
        "bytes": len(PAYLOAD),
        "sha256": sha256(PAYLOAD),
        "first_used": "",
    }
    assert sources.have(wanted)
    assert sources.known_checksum(wanted) == sha256(PAYLOAD)
    assert [path for path in record.parent.iterdir() if path != record] == []

    sources.payload_path(wanted).unlink()
    mirror.files["/houses.arff"] = OTHER
    with pytest.raises(SourceError, match="is not what was trusted on its first use") as caught:
        await fetch(wanted)
    assert caught.value.kind == "checksum"
    assert f"remove {record} and try again" in str(caught.value)
    assert not sources.have(wanted)

    record.unlink()
    assert await fetch(wanted) == OTHER
    assert sources.known_checksum(wanted) == sha256(OTHER)


async def test_the_same_content_again_needs_no_new_trust(mirror: Mirror) -> None:
    mirror.files["/houses.gz"] = gzip.compress(PAYLOAD)
    wanted = first_use(f"{mirror.address}/houses.gz", compression="gzip")
    assert await fetch(wanted) == PAYLOAD
    made = record_path(wanted).stat().st_mtime_ns
    sources.payload_path(wanted).unlink()
    assert await fetch(wanted) == PAYLOAD
    assert record_path(wanted).stat().st_mtime_ns == made


async def test_a_payload_without_its_record_is_fetched_anew(mirror: Mirror) -> None:
    mirror.files["/houses"] = PAYLOAD
    wanted = first_use(f"{mirror.address}/houses")
    await fetch(wanted)
    record_path(wanted).unlink()
    assert not sources.have(wanted)


async def test_other_origins_are_trusted_apart(mirror: Mirror) -> None:
    mirror.files |= {"/a": PAYLOAD, "/b": OTHER}
    one, two = first_use(f"{mirror.address}/a"), first_use(f"{mirror.address}/b")
    assert one.pin != two.pin
    assert one.pin.startswith("first-use:")
    assert await fetch(one) == PAYLOAD
    assert await fetch(two) == OTHER


@pytest.mark.parametrize("text", ["", "{}", '{"source": 1}', "[]"])
async def test_a_record_that_cannot_be_read_is_no_trust(mirror: Mirror, text: str) -> None:
    mirror.files["/houses"] = PAYLOAD
    wanted = first_use(f"{mirror.address}/houses")
    record_path(wanted).write_text(text)
    with pytest.raises(SourceError, match="does not say what was trusted") as caught:
        await fetch(wanted)
    assert str(record_path(wanted)) in str(caught.value)
    assert not sources.payload_path(wanted).exists()


async def test_a_known_size_is_enforced_on_first_use(mirror: Mirror) -> None:
    mirror.files["/houses"] = PAYLOAD
    with pytest.raises(SourceError, match=r"is larger"):
        await fetch(first_use(f"{mirror.address}/houses", payload_bytes=len(PAYLOAD) - 1))
    with pytest.raises(SourceError, match=r"ended after"):
        await fetch(first_use(f"{mirror.address}/houses", payload_bytes=len(PAYLOAD) + 1))
    assert list((sources.home("trust")).iterdir()) == []


async def test_a_first_use_goes_on_only_where_the_file_is_still_the_same(mirror: Mirror) -> None:
    mirror.files["/houses"] = PAYLOAD
    mirror.break_after = [300_000]
    wanted = first_use(f"{mirror.address}/houses")
    assert await fetch(wanted) == PAYLOAD
    assert mirror.sent.total() == len(PAYLOAD)

    other = first_use(f"{mirror.address}/other")
    mirror.files["/other"] = PAYLOAD
    mirror.break_after = [300_000] * fetching.RETRIES
    mirror.ranges = False
    with pytest.raises(SourceError, match="broke off after 300000"):
        await fetch(other)
    mirror.ranges = True
    mirror.files["/other"] = OTHER
    assert await fetch(other) == OTHER, "not the beginning of the one and the end of the other"
    assert mirror.requests[-1] == ("/other", "bytes=300000-")


async def test_a_first_use_without_marks_is_downloaded_from_the_start(mirror: Mirror) -> None:
    mirror.files["/houses"] = PAYLOAD
    mirror.etags = False
    mirror.break_after = [300_000]
    assert await fetch(first_use(f"{mirror.address}/houses")) == PAYLOAD
    assert [begin for _, begin in mirror.requests] == [None, None]


async def test_a_first_use_of_unknown_length_is_refused(mirror: Mirror) -> None:
    mirror.files["/houses"] = PAYLOAD
    mirror.sizes = False
    with pytest.raises(SourceError, match="without a size, so nobody can tell whether all of it came") as caught:
        await fetch(first_use(f"{mirror.address}/houses"))
    assert caught.value.kind == "unusable"


async def test_what_the_hub_announces_is_held_against_the_first_use(mirror: Mirror) -> None:
    mirror.hub("some/thing", REVISION, "weights", PAYLOAD, kind="")
    origin = {"kind": "hf", "repo": "some/thing", "revision": REVISION, "path": "weights", "repo_type": "model"}
    wanted = first_use("http://x", origins=[origin])
    stored = f"/store/{sha256(PAYLOAD)}"
    mirror.files[stored] = OTHER
    environ = {"HF_ENDPOINT": mirror.address}
    with pytest.raises(SourceError, match=f"wrong SHA-256 checksum: expected {sha256(PAYLOAD)}"):
        await fetch(wanted, environ=environ)
    mirror.files[stored] = PAYLOAD
    assert await fetch(wanted, environ=environ) == PAYLOAD


PINS = [
    ({}, "payload_sha256: expected exactly one of .*, got none"),
    ({"payload_md5": "0" * 32, "trust": "first-use"}, "got payload_md5 and trust"),
    ({"payload_sha256": "0" * 64, "payload_md5": "0" * 32}, "got payload_sha256 and payload_md5"),
    ({"payload_sha256": "0" * 64, "trust": "first-use"}, "got payload_sha256 and trust"),
    ({"trust": "always"}, "expected 'first-use', got 'always'"),
    ({"payload_md5": "0" * 64}, "payload_md5: expected"),
]


def lock(address: str, pins: dict[str, Any], origin: str = "") -> str:
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in pins.items())
    return (
        f"schema_version = 1\n[[sources]]\nname = 'words'\nlicence = 'CC0'\n{lines}"
        f"[[sources.origins]]\nkind = 'url'\nurl = '{address}/words'\n{origin}"
    )


REAL = TASK.replace('kind = "generated"', 'kind = "real", sources = ["words"]')
WORDS = "def build(ctx):\n    (ctx.public / 'w').write_text(ctx.source('words').read_text() + '!')"


@pytest.mark.parametrize(("pins", "sentence"), PINS, ids=[" ".join(pins) or "none" for pins, _ in PINS])
def test_exactly_one_thing_pins_a_payload(write_toy: Callable[..., Path], pins: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TaskError, match=r"data\.lock\.toml: sources\[0\]\." + f".*{sentence}"):
        Task.load(write_toy(REAL, WORDS, lock("http://x", pins))).lock  # noqa: B018


def test_an_uncompressed_origin_states_the_payload_and_may_not_contradict_it() -> None:
    facts = {"name": "words", "licence": "CC0"}
    origin = {"kind": "url", "url": "http://x/words", "bytes": 5, "sha256": sha256(b"hello")}
    stated = Source.model_validate({**facts, "origins": [origin]})
    assert (stated.size, stated.sha256, stated.pin) == (5, sha256(b"hello"), sha256(b"hello"))
    with pytest.raises(ValidationError, match=r"got .* and "):
        Source.model_validate({**facts, "origins": [origin, origin | {"sha256": "0" * 64}]})
    with pytest.raises(ValidationError, match="got 5 and 6"):
        Source.model_validate({**facts, "payload_bytes": 6, "origins": [origin]})
    with pytest.raises(ValidationError, match="got none"):
        Source.model_validate({**facts, "compression": "gzip", "origins": [origin]})


def test_another_pin_is_another_recipe(write_toy: Callable[..., Path]) -> None:
    pins = [{"payload_md5": "0" * 32}, {"payload_md5": "1" * 32}, {"trust": "first-use"}, {"payload_sha256": "0" * 64}]
    tasks = (Task.load(write_toy(REAL, WORDS, lock("http://x", each))) for each in pins)
    assert len({recipe_digest(task, "mini", b"world") for task in tasks}) == len(pins)


@pytest.mark.parametrize("pins", [{"trust": "first-use"}, {"payload_md5": "5d41402abc4b2a76b9719d911017c592"}])
async def test_a_task_is_prepared_from_a_source_without_a_sha256(
    mirror: Mirror, write_toy: Callable[..., Path], light_python: Path, pins: dict[str, Any]
) -> None:
    task = Task.load(write_toy(REAL, WORDS, lock(mirror.address, pins)))
    with pytest.raises(SourceError, match="words cannot be had"):
        await prepare(task, "mini", python=light_python)
    assert state(task, "mini") == "missing"
    mirror.files["/words"] = b"hello"
    made = await prepare(task, "mini", python=light_python)
    assert (made.public / "w").read_text() == "hello!"
    assert made.manifest.sources == {"words": sources.known_checksum(task.lock.sources[0])}
    assert state(task, "mini") == "ready"
