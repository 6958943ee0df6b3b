"""Claims: of several sweeps on one folder, one alone runs a cell."""

import contextlib
import fcntl
import os
from dataclasses import dataclass
from multiprocessing import reduction
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Claim:
    """
    A file lock, which the system frees when the last process that holds it ends, however it ends: a claim outlives neither a
    kill nor a reboot. Sent to a process that starts, it is held by both.

    :param path: the file that is locked
    :param fd: its descriptor
    """

    path: Path
    fd: int

    @staticmethod
    def take(path: Path) -> "Claim | None":
        """
        :return: the claim, or ``None`` while another process holds it; the file to lock is created, and removed on release
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return None
            # The holder before us may have removed the file that we opened: a lock on that would bind nobody.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), path.stat()):
                    return Claim(path, fd)
            os.close(fd)

    @staticmethod
    def is_held(path: Path) -> bool:
        """
        :return: whether a process holds the claim. A file that nobody has locked, which a killed process left, is removed.
        """
        if not path.exists():
            return False
        claim = Claim.take(path)
        if claim is not None:
            claim.release()
        return claim is None

    def release(self) -> None:
        """
        Give the claim back. The process that sent it does so when the other has ended; the other may do so earlier, when what
        it claimed is done.
        """
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self.fd), self.path.stat()):  # else the file is the next holder's
                self.path.unlink(missing_ok=True)
        os.close(self.fd)

    def __reduce__(self) -> tuple[object, ...]:
        return _inherited, (self.path, reduction.DupFd(self.fd))


def _inherited(path: Path, duplicate: Any) -> Claim:
    return Claim(path, duplicate.detach())
