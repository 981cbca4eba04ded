"""Getting source files: resumed, checked, and each failure told apart."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import shutil
import socket
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlgym_mcp.catalog import SourceError, Task, fetching, prepare, sources, state
from mlgym_mcp.catalog.lock import Source
from tests.catalog.conftest import TASK
from tests.catalog.mirror import Mirror, running_mirror, sha256

pytestmark = pytest.mark.anyio
PAYLOAD = bytes(range(256)) * 4096
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with running_mirror() as made:
        yield made


def source(*origins: dict[str, Any], payload: bytes = PAYLOAD, compression: str = "gzip", **pins: Any) -> Source:
    pins = pins or {"payload_bytes": len(payload), "payload_sha256": sha256(payload)}
    return Source.model_validate(
        {"name": "data", "compression": compression, "licence": "CC0", "origins": origins, **pins}
    )


def url(mirror: Mirror, path: str = "/data.gz", **more: Any) -> dict[str, Any]:
    return {"kind": "url", "url": mirror.address + path, **more}


async def fetch(*wanted: Source, **options: Any) -> bytes:
    options.setdefault("environ", {})
    found = await sources.fetch(wanted, pause_s=0.01, **options)
    return found["data"].read_bytes()


async def test_a_file_is_downloaded_decompressed_and_kept(mirror: Mirror, mlgym_home: Path) -> None:
    packed = gzip.compress(PAYLOAD)
    mirror.files["/data.gz"] = packed
    wanted = source(url(mirror, bytes=len(packed), sha256=sha256(packed)))
    said: list[float] = []
    assert await fetch(wanted, progress=lambda done, _text: said.append(done)) == PAYLOAD
    assert said == sorted(said)
    assert await fetch(wanted) == PAYLOAD
    assert len(mirror.requests) == 1
    left = [path.name for path in (mlgym_home / "downloads").iterdir() if path.name != ".lock"]
    assert left == [sources.payload_path(wanted).name]


async def test_a_broken_off_download_goes_on_where_it_stopped(mirror: Mirror) -> None:
    packed = gzip.compress(os.urandom(400_000))
    mirror.files["/data.gz"] = packed
    mirror.break_after = [100_000, 150_000]
    wanted = source(url(mirror, bytes=len(packed), sha256=sha256(packed)), payload=gzip.decompress(packed))
    assert await fetch(wanted) == gzip.decompress(packed)
    assert [begin for _, begin in mirror.requests] == [None, "bytes=100000-", "bytes=250000-"]


async def test_a_download_that_was_given_up_goes_on_next_time(mirror: Mirror) -> None:
    packed = gzip.compress(os.urandom(400_000))
    mirror.files["/data.gz"] = packed
    mirror.break_after = [50_000] * fetching.RETRIES
    wanted = source(url(mirror, bytes=len(packed)), payload=gzip.decompress(packed))
    with pytest.raises(SourceError, match="broke off after 200000 bytes") as caught:
        await fetch(wanted)
    assert caught.value.kind == "truncated"
    assert not sources.have(wanted)
    await fetch(wanted)
    assert mirror.requests[-1][1] == "bytes=200000-"


async def test_a_server_without_ranges_is_asked_from_the_start(mirror: Mirror) -> None:
    packed = gzip.compress(os.urandom(100_000))
    mirror.files["/data.gz"] = packed
    mirror.ranges = False
    mirror.break_after = [50_000]
    wanted = source(url(mirror, bytes=len(packed)), payload=gzip.decompress(packed))
    assert await fetch(wanted) == gzip.decompress(packed)


async def test_busy_servers_are_asked_again(mirror: Mirror) -> None:
    mirror.files["/data.gz"] = gzip.compress(PAYLOAD)
    mirror.statuses = [503, 429]
    assert await fetch(source(url(mirror))) == PAYLOAD
    assert len(mirror.requests) == 3


async def test_a_wrong_checksum_of_the_file_is_told_and_nothing_kept(mirror: Mirror, mlgym_home: Path) -> None:
    mirror.files["/data.gz"] = gzip.compress(PAYLOAD)
    wanted = source(url(mirror, sha256="0" * 64))
    with pytest.raises(SourceError, match="wrong SHA-256 checksum: expected 0000") as caught:
        await fetch(wanted)
    assert caught.value.kind == "checksum"
    assert len(mirror.requests) == 1
    assert [path.name for path in (mlgym_home / "downloads").iterdir()] == [".lock"]


@pytest.mark.parametrize("payload", [PAYLOAD[:-1] + b"!", PAYLOAD + b"!", b"", PAYLOAD * 50])
async def test_a_wrong_payload_is_told_and_nothing_kept(mirror: Mirror, mlgym_home: Path, payload: bytes) -> None:
    mirror.files["/data.gz"] = gzip.compress(payload)
    with pytest.raises(SourceError, match="wrong content") as caught:
        await fetch(source(url(mirror)))
    assert caught.value.kind == "checksum"
    assert [path.name for path in (mlgym_home / "downloads").iterdir()] == [".lock"]


async def test_a_file_that_is_no_gzip_is_told(mirror: Mirror) -> None:
    mirror.files["/data.gz"] = b"<html>please log in</html>"
    with pytest.raises(SourceError, match="cannot be decompressed"):
        await fetch(source(url(mirror)))


async def test_a_file_larger_than_expected_is_cut_off(mirror: Mirror) -> None:
    mirror.files["/data.gz"] = b"x" * 5_000_000
    with pytest.raises(SourceError, match="is larger than the 1000 bytes expected"):
        await fetch(source(url(mirror, bytes=1000)))


async def test_a_missing_file_is_told_at_once(mirror: Mirror) -> None:
    with pytest.raises(SourceError, match=r"is not there \(HTTP 404\)") as caught:
        await fetch(source(url(mirror)))
    assert caught.value.kind == "missing"
    assert len(mirror.requests) == 1


async def test_no_network_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/data.gz"
        with pytest.raises(SourceError, match="cannot be reached") as caught:
            await fetch(source({"kind": "url", "url": address}))
    assert caught.value.kind == "network"


async def test_the_next_origin_is_tried_and_all_failures_are_told(mirror: Mirror) -> None:
    mirror.files["/good.gz"] = gzip.compress(PAYLOAD)
    bad = url(mirror, "/none.gz")
    assert await fetch(source(bad, url(mirror, "/good.gz"))) == PAYLOAD
    other = source(bad, url(mirror, "/none-either.gz"), payload=b"x")
    with pytest.raises(SourceError, match=r"none\.gz.*none-either\.gz"):
        await fetch(other)


async def test_a_full_disk_is_told_and_ends_the_attempts(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.files["/data.gz"] = gzip.compress(PAYLOAD)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SourceError, match=r"No space left on device\); \d+ MiB are free") as caught:
        await fetch(source(url(mirror), url(mirror)))
    assert caught.value.kind == "disk"
    assert len(mirror.requests) == 1


HUB = {"kind": "hf", "repo": "some/thing", "revision": REVISION, "path": "a/b.parquet"}


@pytest.mark.parametrize("kind", ["dataset", "model"])
async def test_a_hub_file_is_addressed_by_repository_and_revision(mirror: Mirror, kind: str) -> None:
    mirror.hub("some/thing", REVISION, "a/b.parquet", PAYLOAD, kind="datasets/" if kind == "dataset" else "")
    wanted = source(HUB | {"repo_type": kind, "sha256": sha256(PAYLOAD)}, compression="none")
    assert await fetch(wanted, environ={"HF_ENDPOINT": mirror.address + "/"}) == PAYLOAD
    assert len(mirror.requests) == 2, "the hub, and the store that it redirects to"


async def test_a_broken_off_hub_file_goes_on_behind_the_redirection(mirror: Mirror) -> None:
    mirror.hub("some/thing", REVISION, "a/b.parquet", PAYLOAD)
    mirror.break_after = [300_000]
    mirror.statuses = [500, 500]
    wanted = source(HUB, compression="none")
    assert await fetch(wanted, environ={"HF_ENDPOINT": mirror.address}) == PAYLOAD
    assert mirror.sent.total() == len(PAYLOAD)
    assert mirror.requests[-1][1] == "bytes=300000-"


async def test_a_hub_file_with_the_wrong_bytes_is_told_and_nothing_kept(mirror: Mirror, mlgym_home: Path) -> None:
    mirror.hub("some/thing", REVISION, "a/b.parquet", PAYLOAD[:-1] + b"!")
    wanted = source(HUB | {"bytes": len(PAYLOAD), "sha256": sha256(PAYLOAD)}, compression="none")
    with pytest.raises(SourceError, match=f"wrong content: expected {len(PAYLOAD)} bytes with SHA-256") as caught:
        await fetch(wanted, environ={"HF_ENDPOINT": mirror.address})
    assert caught.value.kind == "checksum"
    assert [path.name for path in (mlgym_home / "downloads").iterdir()] == [".lock"]


async def test_a_file_that_is_its_own_payload_is_moved_and_not_copied(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data set of many gigabytes is on the disk once at any time, and is read once to be checked."""
    mirror.files["/data"] = PAYLOAD
    wanted = source(url(mirror, "/data", sha256=sha256(PAYLOAD)), compression="none")
    read: list[tuple[Path, int]] = []
    checksum = sources.checksum

    def noted(path: Path, algorithm: str) -> str:
        read.append((path, path.stat().st_ino))
        return checksum(path, algorithm)

    monkeypatch.setattr(sources, "checksum", noted)
    monkeypatch.setattr(fetching, "checksum", noted)
    assert await fetch(wanted) == PAYLOAD
    assert [inode for _, inode in read] == [sources.payload_path(wanted).stat().st_ino]


async def test_an_md5_pins_where_nothing_better_was_published(mirror: Mirror, mlgym_home: Path) -> None:
    mirror.files["/images.zip"] = PAYLOAD
    md5 = hashlib.md5(PAYLOAD).hexdigest()
    wanted = source(url(mirror, "/images.zip"), compression="none", payload_bytes=len(PAYLOAD), payload_md5=md5)
    assert wanted.pin == f"md5:{md5}"
    mirror.files["/images.zip"] = PAYLOAD[:-1] + b"!"
    with pytest.raises(SourceError, match=f"bytes with MD5 {md5}, got {len(PAYLOAD)} with") as caught:
        await fetch(wanted)
    assert caught.value.kind == "checksum"
    assert [path.name for path in (mlgym_home / "downloads").iterdir()] == [".lock"]
    mirror.files["/images.zip"] = PAYLOAD
    assert await fetch(wanted) == PAYLOAD


async def test_a_web_page_in_the_place_of_a_file_is_told(mirror: Mirror) -> None:
    mirror.files["/data.gz"] = b"<html>please log in</html>"
    mirror.content_type = "text/html; charset=utf-8"
    with pytest.raises(SourceError, match="is a web page, not a file of data") as caught:
        await fetch(source(url(mirror)))
    assert caught.value.kind == "missing"


async def test_a_disk_that_is_too_small_is_told_before_anything_is_downloaded(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.files["/data"] = PAYLOAD
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1000))
    with pytest.raises(SourceError, match=r"needs 1 MiB more, but .* has 0 MiB free") as caught:
        await fetch(source(url(mirror, "/data"), compression="none"))
    assert caught.value.kind == "disk"


async def test_a_long_download_may_break_off_often_as_long_as_it_gets_on(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "STRETCH", 50_000)
    mirror.files["/data"] = PAYLOAD
    mirror.break_after = [100_000] * 10
    assert await fetch(source(url(mirror, "/data"), compression="none")) == PAYLOAD
    assert mirror.sent.total() == len(PAYLOAD)


def package(files: dict[str, bytes], *, data: str = "data.tar.xz") -> bytes:
    """A Debian package in memory."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as out:
        for name, content in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    packed = lzma.compress(tar.getvalue()) if data.endswith(".xz") else tar.getvalue()
    members = [("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (data, packed)]
    archive = b"!<arch>\n"
    for name, content in members:
        archive += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        archive += content + b"\n" * (len(content) % 2)
    return archive


@pytest.fixture
def no_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "apt-get" else real(name))


def deb(archive: bytes, member: str = "usr/share/x/data.gz") -> dict[str, Any]:
    facts = {"bytes": len(archive), "sha256": sha256(archive)}
    return {"kind": "deb", "package": "dataset-x", "path": "pool/x.deb", "member": member, **facts}


@pytest.mark.parametrize("data", ["data.tar.xz", "data.tar"])
async def test_a_package_from_a_mirror_is_read_without_installing_it(
    mirror: Mirror, no_apt: None, mlgym_home: Path, data: str
) -> None:
    archive = package({"etc/other": b"1", "usr/share/x/data.gz": gzip.compress(PAYLOAD)}, data=data)
    mirror.files["/debian/pool/x.deb"] = archive
    environ = {"MLGYM_DEB_MIRRORS": f"http://127.0.0.1:9/none {mirror.address}/debian"}
    assert await fetch(source(deb(archive)), environ=environ) == PAYLOAD
    assert not list((mlgym_home / "downloads").glob("*.whole"))


@pytest.mark.parametrize("spoilt", ["member", "cut", "no package"])
async def test_a_package_that_is_not_right_is_told(mirror: Mirror, no_apt: None, spoilt: str) -> None:
    archive = package({"usr/share/x/data.gz": gzip.compress(os.urandom(9999))})
    member = "usr/share/x/other.gz" if spoilt == "member" else "usr/share/x/data.gz"
    archive = {"member": archive, "cut": archive[:-5000], "no package": b"hello"}[spoilt]
    mirror.files["/pool/x.deb"] = archive
    with pytest.raises(SourceError, match=r"has no file|not a whole Debian package|not a Debian package"):
        await fetch(source(deb(archive, member)), environ={"MLGYM_DEB_MIRRORS": mirror.address})


async def test_a_package_without_apt_and_mirrors_says_what_is_missing(no_apt: None) -> None:
    with pytest.raises(SourceError, match="needs apt") as caught:
        await fetch(source(deb(package({}))))
    assert caught.value.kind == "unusable"


async def test_apt_is_asked_and_its_words_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for apt-get: knows the package only once its lists were fetched into a private folder."""
    archive = package({"usr/share/x/data.gz": gzip.compress(PAYLOAD)})
    (tmp_path / "x.deb").write_bytes(archive)
    fake = tmp_path / "bin" / "apt-get"
    fake.parent.mkdir()
    fake.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *State::lists*download\\ dataset-x) cp {tmp_path}/x.deb . ;;\n'
        '*update) ;; *) echo "E: Unable to locate package dataset-x"; exit 100 ;; esac\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    assert await fetch(source(deb(archive))) == PAYLOAD
    other = source(deb(archive) | {"package": "dataset-y"}, payload=b"y")
    with pytest.raises(SourceError, match=r"Unable to locate package.*apt-get update") as caught:
        await fetch(other)
    assert caught.value.kind == "missing"


async def test_a_task_whose_sources_cannot_be_had_stays_missing_and_is_prepared_later(
    mirror: Mirror, write_toy: Callable[..., Path], light_python: Path
) -> None:
    lock = (
        "schema_version = 1\n[[sources]]\nname = 'words'\npayload_bytes = 5\n"
        f"payload_sha256 = '{sha256(b'hello')}'\nlicence = 'CC0'\n"
        f"[[sources.origins]]\nkind = 'url'\nurl = '{mirror.address}/words'\n"
    )
    task_text = TASK.replace('kind = "generated"', 'kind = "real", sources = ["words"]')
    generator = "def build(ctx):\n    (ctx.public / 'w').write_text(ctx.source('words').read_text() + '!')"
    task = Task.load(write_toy(task_text, generator, lock))
    with pytest.raises(SourceError, match="words cannot be had"):
        await prepare(task, "mini", python=light_python)
    assert state(task, "mini") == "missing"
    mirror.files["/words"] = b"hello"
    made = await prepare(task, "mini", python=light_python)
    assert (made.public / "w").read_text() == "hello!"
    assert made.manifest.sources == {"words": sha256(b"hello")}
