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

from mmdualtoken.errors import InputError, tell

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
    errno.ESTALE: "the network's file system has lost it",
}
#: These come of writing alone, the others of reading data, too.
WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def _concerns(path: str | None, folder: Path) -> bool:
    """Whether the path lies in the folder, or the folder below it, and could not be made."""
    if path is None:
        return True
    path, folder = Path(realpath(path)), Path(realpath(folder))
    return path.is_relative_to(folder) or folder.is_relative_to(path)


def last_checkpoint(folder: Path) -> str:
    """In words: what --resume goes on from, in a work dir."""
    try:
        last = (folder / "last_checkpoint").read_text().strip()
    except OSError:
        return "No checkpoint has been written yet"
    return f"The last good checkpoint is {last}; --resume goes on from it"


def _describe(error: OSError, folder: Path) -> str:
    nameless = f"to {folder}" + ("" if error.errno in WRITING else ", or cannot read its data")
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


def _thread_ends(args: Any) -> None:
    """TensorBoard's thread: what it cannot write, it raises again where training goes on."""
    if not isinstance(args.exc_value, OSError) or args.exc_value.errno not in WRITING:
        threading.__excepthook__(args)


@contextmanager
def clear_end(work_dir: str | Path) -> Iterator[None]:
    """Turn a disk that cannot be written, or Ctrl-C, into one paragraph and an exit status.

    Ctrl-C ends with status 130. A log file that cannot be written prints no traceback for each
    line, and does not end training; nor does TensorBoard's thread print one. Errors of the
    operating system that do not come from writing below `work_dir`, or from making it, are left as
    they are. Signal handlers are afterwards as before.

    Args:
        work_dir: folder of the run.

    Raises:
        InputError: writing failed; the message says why, and which checkpoint is the last.
    """
    folder = Path(work_dir)
    talkative, logging.raiseExceptions = logging.raiseExceptions, False
    excepthook, threading.excepthook = threading.excepthook, _thread_ends
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    except KeyboardInterrupt:
        tell(f"\nStopped by Ctrl-C at once. {last_checkpoint(folder)}.")
        sys.exit(130)
    except OSError as error:
        if error.errno not in REASONS or not _concerns(error.filename, folder):
            raise
        raise InputError(_describe(error, folder)) from error
    finally:
        logging.raiseExceptions = talkative
        threading.excepthook = excepthook
        _give_back(handlers)
