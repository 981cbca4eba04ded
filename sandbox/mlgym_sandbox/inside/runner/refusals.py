"""Why a request cannot be done, in words for the one who asked."""

from __future__ import annotations

import errno


class Refusal(Exception):
    """A request that cannot be done; ``kind`` picks the exception on the server's side."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def file_refusal(error: OSError, shown: str) -> Refusal:
    reasons = {
        errno.ENOENT: "does not exist",
        errno.EACCES: "may not be accessed: permission denied",
        errno.EPERM: "may not be accessed: not permitted",
        errno.EROFS: "is on a read-only file system",
        errno.ENOSPC: "cannot be written: no space is left",
        errno.EDQUOT: "cannot be written: the disk quota is used up",
        errno.EFBIG: "cannot be written: it would be larger than the file size limit",
        errno.ENOTDIR: "cannot be reached: a part of its path is not a directory",
        errno.EISDIR: "is a directory",
        errno.ELOOP: "cannot be reached: too many symbolic links",
        errno.ENAMETOOLONG: "has a name that is too long",
    }
    why = reasons.get(error.errno or 0, "failed: %s" % error.strerror)
    return Refusal("file", "%s %s" % (shown, why))
