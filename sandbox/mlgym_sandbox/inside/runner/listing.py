"""What a folder holds."""

from __future__ import annotations

import os
import stat

from mlgym_sandbox.inside.runner.files import Files, kind_of, write_all
from mlgym_sandbox.inside.runner.names import plain, sorted_entries
from mlgym_sandbox.inside.runner.native import dumps
from mlgym_sandbox.inside.runner.refusals import file_refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlgym_sandbox.inside.runner.errands import Work
    from mlgym_sandbox.inside.runner.wire import Header


def list_work(files: Files, path: str, depth: int, limit: int, hidden: bool) -> Work:
    def work(_: int, out_fd: int) -> Header:
        top = files.real(path)
        lines: list[bytes] = []
        left = limit

        def add(name: str, info: os.stat_result) -> None:
            row = [plain(name), kind_of(info.st_mode), info.st_size, info.st_mtime]
            lines.append(dumps(row).encode() + b"\n")

        def walk(folder: str, prefix: str, level: int) -> bool:
            nonlocal left
            for entry in sorted_entries(folder):
                if not hidden and entry.name.startswith("."):
                    continue
                if left <= 0:
                    return True
                try:
                    info = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                left -= 1
                add(prefix + entry.name, info)
                if level > 1 and stat.S_ISDIR(info.st_mode):
                    try:
                        if walk(entry.path, prefix + entry.name + "/", level - 1):
                            return True
                    except OSError:
                        pass  # not permitted, or too deep: its name is all there is to see
            return False

        try:
            info = os.lstat(top)
            truncated = False
            if stat.S_ISDIR(info.st_mode):
                truncated = walk(top, "", depth)
            else:
                add(os.path.basename(top), info)
        except OSError as error:
            raise file_refusal(error, path) from None
        write_all(out_fd, b"".join(lines))
        return {"truncated": truncated}

    return work
