"""Files as they were: shown as they are, and never more than them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import time
from pathlib import Path

import pytest

from mlgym_mcp.grading.snapshot import store_snapshot
from mlgym_mcp.session.checkpoint_store import Checkpoint, Store
from mlgym_mcp.web.kinds import kind_of
from mlgym_mcp.web.past_files import MissingFileError, content_of, files_of, read_plain, snapshots_of
from mlgym_sandbox.trees import Entry, Tree
from tests.records.written import write_episode
from tests.web.conftest import address, elements, looking, words

pytestmark = pytest.mark.anyio

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360f8cfc0f01f00050001ff"
    "56c72f0d0000000049454e44ae426082"
)
PAGE = b"<!doctype html><script>alert(1)</script>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
FILES = {"a/page.html": PAGE, "a/drawing.svg": SVG, "picture.txt": PNG, "train.py": b"x = 1\n", "data.bin": b"\0\1\2"}


def packed(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def folder(root: Path) -> Path:
    return root / "e0"


async def scored(folder: Path) -> str:
    return (await store_snapshot(packed(FILES), folder, max_bytes=1 << 20, max_files=50)).digest


def checkpoint(folder: Path, files: dict[str, bytes], links: dict[str, str], sparse: bool = False) -> None:
    """Keep a snapshot of a workspace, as a session does."""
    store = Store(folder)
    pack = store.begin()
    tree: Tree = {name: Entry("link", 0, 1, target) for name, target in links.items()}
    for name, data in files.items():
        pack.write(data)
        spans = ((4, len(data)),) if sparse else None
        size = len(data) + 8 if sparse else len(data)
        tree[name] = Entry("file", 0o644, 1, "", size, spans, pack.finish(), len(data))
    size = sum(map(len, files.values()))
    facts = Checkpoint("s1", time.time(), None, 0, len(tree), size, len(tree), size, 0, 0, {}, 0)
    store.keep(facts, {}, tree, {}, pack)


async def test_what_was_scored_is_shown_as_text_and_pictures(root: Path, folder: Path) -> None:
    digest = await scored(folder)
    here = address(folder)
    async with looking(root) as client:
        assert digest[:12] in words((await client.get(f"{here}/files")).text)
        page = (await client.get(f"{here}/files/{digest}")).text
        links = {
            w: str(a["href"])
            for w, (_, a) in zip(
                sorted(FILES),
                [e for e in elements(page, "a") if e[1].get("href", "").rpartition("/")[2].isdigit()],
                strict=True,
            )
        }  # type: ignore[union-attr]
        shown = (await client.get(links["a/page.html"])).text
        assert "<script>alert(1)</script>" in words(shown)
        assert [a.get("src") for _, a in elements(shown, "script")] == ["/static/view.js"]
        picture = (await client.get(links["picture.txt"])).text
        assert [a["src"] for _, a in elements(picture, "img")] == [f"{links['picture.txt']}/raw"]
        assert "neither text nor a picture" in words((await client.get(links["data.bin"])).text)
        for name, data in FILES.items():
            raw = await client.get(f"{links[name]}/raw")
            assert raw.content == data
            assert raw.headers["content-type"] == kind_of(data)
            assert "html" not in raw.headers["content-type"]
            assert "svg" not in raw.headers["content-type"]
            assert raw.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
            assert raw.headers["x-content-type-options"] == "nosniff"
        assert (await client.get(f"{links['data.bin']}/raw")).headers["content-disposition"] == "attachment"
        assert (await client.get(f"{here}/files/{digest}/99")).status_code == 404


async def test_a_snapshot_of_the_workspace_is_shown_holes_links_and_all(root: Path, folder: Path) -> None:
    checkpoint(folder, {"holes.txt": b"data"}, {"out": "/etc/passwd"}, sparse=True)
    here = address(folder)
    async with looking(root) as client:
        assert "s1" in words((await client.get(f"{here}/files")).text)
        shown = words((await client.get(f"{here}/files/s1")).text)
        assert "out → /etc/passwd" in shown
        assert (await client.get(f"{here}/files/s1/0/raw")).content == b"\0\0\0\0data\0\0\0\0"
        assert (await client.get(f"{here}/files/s1/1/raw")).status_code == 404
        assert (await client.get(f"{here}/files/s2")).status_code == 404


@pytest.mark.parametrize(
    "path", ["../../../secret", "/etc/passwd", "a/../../../../secret", "a//b", "a/./b", "", "a\0b", "link", "up/secret"]
)
async def test_no_path_of_a_manifest_leads_out_of_the_snapshot(folder: Path, path: str) -> None:
    digest = "c" * 64
    files = folder / "snapshots" / digest / "files"
    files.mkdir(parents=True)
    (folder.parent / "secret").write_text("secret")
    (files / "link").symlink_to(folder.parent / "secret")
    (files / "up").symlink_to(folder.parent)
    manifest = {"digest": digest, "files": [{"path": path, "size": 6, "sha256": "0" * 64}]}
    (files.parent / "manifest.json").write_text(json.dumps(manifest))
    assert [f.path for f in files_of(folder, digest)] == [path]
    with pytest.raises(MissingFileError):
        content_of(folder, digest, 0)


async def test_no_link_in_place_of_a_folder_is_followed(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    digest = await scored(write_episode(tmp_path, "other"))
    for name in ("snapshots", "checkpoints", "blobs"):
        (folder / name).symlink_to(other / "snapshots")
    assert snapshots_of(folder) == ([], [])
    for name in (digest, "s1"):
        with pytest.raises(MissingFileError):
            files_of(folder, name)
    (folder / "snapshots").unlink()
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / digest).symlink_to(other / "snapshots" / digest)
    assert snapshots_of(folder) == ([], [])
    with pytest.raises(MissingFileError):
        files_of(folder, digest)


async def test_what_is_no_plain_file_or_too_large_is_not_read(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "dir").mkdir()
    for name in ("pipe", "dir", "missing", "x" * 300, "\udcff"):
        with pytest.raises(MissingFileError):
            read_plain(folder, (name,), 100)
    (folder / "large").write_bytes(b"x" * 101)
    with pytest.raises(MissingFileError, match="too large"):
        read_plain(folder, ("large",), 100)


async def test_damaged_snapshots_are_told_and_the_others_shown(root: Path, folder: Path) -> None:
    digest = await scored(folder)
    checkpoint(folder, {"a": b"data"}, {})
    for text in ("", "[]", '{"files": [{"path": 1}]}', '{"files": {"a": 1}}', "[" * 5000):
        broken = folder / "snapshots" / hashlib.sha256(text.encode()).hexdigest()
        broken.mkdir()
        (broken / "manifest.json").write_text(text)
    for file in folder.glob("checkpoints/*.pack"):
        file.write_bytes(b"DATA")
    here = address(folder)
    async with looking(root) as client:
        shown = words((await client.get(f"{here}/files")).text)
        assert shown.count("is damaged") == 5
        assert digest[:12] in shown
        assert (await client.get(f"{here}/files/s1/0")).status_code == 404
        for head in ("{}", '{"id": "s1"}', "[]"):
            (folder / "checkpoints" / "s1.json").write_text(f"{head}\n{{}}\n")
            answer = await client.get(f"{here}/files")
            assert answer.status_code == 200
            assert "cannot be read" in words(answer.text)
            assert (await client.get(f"{here}/files/s1")).status_code == 404


def test_a_file_is_what_it_holds_whatever_it_is_called() -> None:
    assert kind_of(PAGE) == kind_of(SVG) == kind_of("é".encode() * 40_000) == "text/plain; charset=utf-8"
    assert kind_of(PNG) == "image/png"
    assert kind_of(b"\xff\xfe") == kind_of(b"a\0b") == kind_of(b"\x80") == "application/octet-stream"
