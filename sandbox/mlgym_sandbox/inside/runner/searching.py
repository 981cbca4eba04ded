"""Regular expressions in text files."""

from __future__ import annotations

import os
import re
import stat
import time

from mlgym_sandbox.inside.runner.files import Files, need_regular, write_all
from mlgym_sandbox.inside.runner.globs import glob_expression
from mlgym_sandbox.inside.runner.names import plain, sorted_entries
from mlgym_sandbox.inside.runner.native import dumps
from mlgym_sandbox.inside.runner.refusals import Refusal, file_refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlgym_sandbox.inside.runner.errands import Work
    from mlgym_sandbox.inside.runner.wire import Header


def search_work(files: Files, header: Header) -> Work:
    def work(_: int, out_fd: int) -> Header:
        path: str = header["path"]
        glob: str = header["glob"] or ""
        limit: int = header["limit"]
        try:
            wanted = re.compile(header["pattern"], re.IGNORECASE if header["ignore_case"] else 0)
        except (re.error, RecursionError, OverflowError) as error:
            raise Refusal("misuse", "%r is not a regular expression: %s" % (header["pattern"], error)) from None
        name_wanted = re.compile(glob_expression(glob)) if glob else None
        end: float = time.monotonic() + header["timeout_s"]
        counts = {"files": 0, "found": 0}

        def look(real: str, shown: str) -> bool:
            """Search one file; true when it is time to stop."""
            fd = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                if not stat.S_ISREG(os.fstat(fd).st_mode) or b"\0" in file.read(8192):
                    return False
                file.seek(0)
                counts["files"] += 1
                number = 0
                whole = True
                for raw in iter(lambda: file.readline(65536), b""):
                    number += whole
                    whole = raw.endswith(b"\n")
                    text = raw.decode("utf-8", "replace").rstrip("\r\n")
                    if wanted.search(text):
                        if counts["found"] >= limit:
                            return True
                        counts["found"] += 1
                        write_all(out_fd, dumps([plain(shown), number, text[:400]]).encode() + b"\n")
                    if number % 256 == 0 and time.monotonic() > end:
                        return True
            return time.monotonic() > end

        def walk(folder: str, prefix: str) -> bool:
            for entry in sorted_entries(folder):
                shown = prefix + entry.name
                try:
                    if entry.is_dir(follow_symlinks=False):
                        stop = walk(entry.path, shown + "/")
                    elif not entry.is_file(follow_symlinks=False):
                        continue
                    elif name_wanted and not name_wanted.fullmatch(shown if "/" in glob else entry.name):
                        continue
                    else:
                        stop = look(entry.path, shown)
                except OSError:
                    continue  # not readable: nothing to find
                if stop or time.monotonic() > end:
                    return True
            return False

        top = files.real(path)
        try:
            if stat.S_ISDIR(os.lstat(top).st_mode):
                truncated = walk(top, "")
            else:
                need_regular(os.lstat(top).st_mode, path)
                truncated = look(top, os.path.basename(top))
        except OSError as error:
            raise file_refusal(error, path) from None
        return {"truncated": truncated, "files": counts["files"]}

    return work
