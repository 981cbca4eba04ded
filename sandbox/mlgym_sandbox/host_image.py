"""Images made from the engine's own machine: a few empty folders onto which parts of its ``/usr`` are mounted.

Made in a moment with nothing to download, for tests and for machines that reach no registry. Sandboxes of such
an image see the host's programs, not its data; it works only with an engine on this machine.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Final

from mlgym_sandbox import environment
from mlgym_sandbox.errors import BackendUnavailableError
from mlgym_sandbox.host_system import TOP, is_plain_folder, shows, usr_parts

HOST_LABEL: Final = "mlgym.host"
ENVIRONMENT_LABEL: Final = "mlgym.environment"

_FOLDERS: Final = ("data", "dev", "etc", "home", "opt/env", "proc", "run", "sys", "tmp", "usr", "var/tmp", "workspace")
_ETC: Final = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives")
_PASSWD: Final = (
    "root:x:0:0:root:/:/bin/sh\nagent:x:1000:1000::/workspace:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n"
)
_GROUP: Final = "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n"


def image_tar() -> bytes:
    """Return the image's file system as a tar: folders, the links that the host has too, users."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, kind: bytes, mode: int, *, owner: int = 0, link: str = "", data: bytes = b"") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.gid = kind, mode, owner, owner
            info.linkname, info.size = link, len(data)
            tar.addfile(info, io.BytesIO(data))

        for folder in _FOLDERS:
            mode = 0o1777 if folder in ("tmp", "var/tmp") else 0o755
            add(folder, tarfile.DIRTYPE, mode, owner=1000 if folder == "workspace" else 0)
        for name in TOP:
            there = Path("/", name)
            if there.is_symlink():
                add(name, tarfile.SYMTYPE, 0o777, link=str(there.readlink()))
            elif there.is_dir():
                add(name, tarfile.DIRTYPE, 0o755)
        add("etc/passwd", tarfile.REGTYPE, 0o644, data=_PASSWD.encode())
        add("etc/group", tarfile.REGTYPE, 0o644, data=_GROUP.encode())
    return buffer.getvalue()


def image_changes(environment_name: str) -> list[str]:
    """Return the Dockerfile instructions that go with the tar."""
    return [
        f"LABEL {HOST_LABEL}=1",
        f"LABEL {ENVIRONMENT_LABEL}={environment_name}",
        "LABEL mlgym.image=1",
        f"ENV PATH={environment.INSIDE}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ENV LANG=C.UTF-8",
        "WORKDIR /workspace",
        'CMD ["python3"]',
    ]


def binds(environment_name: str) -> tuple[tuple[str, str], ...]:
    """Return what to mount read-only onto such an image: pairs of host path and path inside.

    Fixed here and not read from the image: an image must not choose what it sees of the host.

    Raises:
        BackendUnavailableError: the environment is not prepared on this machine.
    """
    prepared = environment.find(environment_name)
    if prepared is None:
        raise BackendUnavailableError(
            f"the environment {environment_name!r} of this image is not prepared on this machine; "
            f"prepare it: mlgym-mcp environments prepare {environment_name}"
        )
    pairs = [(part, part) for part in usr_parts() if is_plain_folder(Path(part))]
    pairs += [(f"/{name}", f"/{name}") for name in TOP if is_plain_folder(Path("/", name))]
    pairs += [(path, path) for path in _ETC if Path(path).exists()]
    base = prepared.base_prefix
    if not shows(f"{base}/bin") and str(base) not in ("/usr", "/usr/local"):
        pairs.append((str(base), str(base)))  # at its own path: interpreters are built to know where they are
    pairs.append((str(prepared.path), environment.INSIDE))
    return tuple(pairs)
