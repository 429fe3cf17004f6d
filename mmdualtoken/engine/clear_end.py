"""What a user is told when a disk or a key press ends training."""

import errno
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from os.path import realpath  # unlike Path.resolve, also of a link to itself
from pathlib import Path
from typing import Any

from .errors import InputError, tell

REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than the limit for files",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "the permission is missing",
    errno.EPERM: "the permission is missing",
    errno.EIO: "the disk fails",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a file, or a link to nothing, is in the folder's place",
    errno.ENAMETOOLONG: "the name is too long",
}


def _inside(path: str | None, folder: Path) -> bool:
    return path is None or Path(realpath(path)).is_relative_to(realpath(folder))


def last_checkpoint(folder: Path) -> str:
    """In words: what --resume goes on from, in a work dir."""
    try:
        last = (folder / "last_checkpoint").read_text().strip()
    except OSError:
        return "No checkpoint has been written yet"
    return f"The last good checkpoint is {last}; --resume goes on from it"


def _describe(error: OSError, folder: Path) -> str:
    # Reading data names no file either, when it fails; but the errors below come of writing alone.
    nameless = f"to {folder}"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        nameless += ", or cannot read its data"
    return (
        f"Training cannot write {error.filename or nameless}: {REASONS[error.errno]} "
        f"({error.strerror}). Make room or give another folder with --work-dir. "
        f"{last_checkpoint(folder)}."
    )


def _give_back(handlers: dict[int, Any]) -> None:
    """Set signal handlers that have changed back, where it is possible."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@contextmanager
def clear_end(work_dir: str | Path) -> Iterator[None]:
    """Turn a disk that cannot be written, or Ctrl-C, into one paragraph and an exit status.

    Ctrl-C ends with status 130. A log file that cannot be written prints no traceback for each
    line, and does not end training. Errors of the operating system that do not come from writing
    below `work_dir` are left as they are. Signal handlers are afterwards as before.

    Args:
        work_dir: folder of the run.

    Raises:
        InputError: writing failed; the message says why, and which checkpoint is the last.
    """
    folder = Path(work_dir)
    talkative, logging.raiseExceptions = logging.raiseExceptions, False
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    except KeyboardInterrupt:
        tell(f"\nStopped by Ctrl-C at once. {last_checkpoint(folder)}.")
        sys.exit(130)
    except OSError as error:
        if error.errno not in REASONS or not _inside(error.filename, folder):
            raise
        raise InputError(_describe(error, folder)) from error
    finally:
        logging.raiseExceptions = talkative
        _give_back(handlers)
