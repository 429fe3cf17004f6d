"""Checking the files that arguments name, and writing files atomically."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmdualtoken.errors import InputError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

# Ending of a file that is being written; tools that look for *.pth do not see it.
PARTIAL = ".partial"
LOCK = ".training.lock"


def check_new_folder(folder: str | Path, overwrite: bool | None = None) -> Path:
    """Check, before the work, the folder that a tool's --out names, without creating it.

    Args:
        overwrite: whether --overwrite was given; None: the tool has no such argument.

    Raises:
        InputError: it is a file, or has something in it and `overwrite` is not True.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise InputError(f"--out {folder} is a file; name a folder.")
    if not overwrite and path.is_dir() and any(path.iterdir()):
        choice = "" if overwrite is None else ", or write into this one with --overwrite"
        raise InputError(
            f"--out {folder} has files in it. Name a folder that is new or empty{choice}."
        )
    return path


def check_new_file(file: str | Path, flag: str) -> Path:
    """Check, before the work, a file that a tool will write, and create its folder.

    Raises:
        InputError: it exists already, or its folder cannot be created.
    """
    path = Path(file)
    if path.exists():
        raise InputError(f"{flag} {file} exists already. Name another file or move it away.")
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{flag} {file}: its folder cannot be made ({error}).") from error
    return path


def check_file(name: str | Path, label: str = "", hint: str = "", url: bool = False) -> Path:
    """Check that a file exists, unless `url` allows its name to be a URL.

    `label`, such as the argument that named it, begins the message; `hint`, the remedy, ends it.

    Raises:
        InputError: there is no such file.
    """
    path = Path(os.path.expanduser(name))  # no error where "~x" is no user
    if not path.is_file() and not (url and "://" in str(name)):
        text = f"{label} {name} does not exist (working directory: {Path.cwd()}). {hint}"
        raise InputError(text.strip())
    return path


@contextmanager
def lock_work_dir(folder: str | Path) -> Iterator[None]:
    """Create a work dir and lock it against a second training.

    The lock is the operating system's: it ends with the process, also by kill -9, and workers do
    not inherit it. Its empty file stays. A file system without locks keeps no training out.

    Raises:
        InputError: another process trains into the folder.
        OSError: the folder cannot be created or written.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    with open(path / LOCK, "ab") as file:
        try:
            if fcntl is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise InputError(
                    f"Another training is writing into the work dir {folder}: each would replace "
                    "the other's checkpoints. Let it end or stop it, or name another folder with "
                    "--work-dir."
                ) from error
        yield


def replace_file(path: str | Path, content: bytes) -> None:
    """Replace a file atomically: at any moment, its name is that of the old or the new one.

    Raises:
        OSError: as from writing; the old file is unchanged, and nothing half-written is left.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):  # on a full disk it takes the space that is left
            partial.unlink(missing_ok=True)
        error.filename = str(path)  # writing itself names no file
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where its file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
