"""Files that the report writes, and nothing that others made."""

from pathlib import Path

from mmdualtoken.errors import InputError
from mmdualtoken.files import replace_file

MARK = "written by mmdualtoken's tools/reproduce.py"


def check_own(path: Path, overwrite: bool = False) -> None:
    """Check that a file may be written.

    Raises:
        InputError: it is a folder; or it is there, this tool did not write it, and `overwrite` is
            False.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file to write.")
    if path.exists() and not overwrite:
        with path.open("rb") as file:
            if MARK.encode() not in file.read(4096):
                raise InputError(
                    f"{path} exists and was not written by this tool. Name another file, or "
                    "replace it with --overwrite."
                )


def write_own(path: Path, text: str, comment: str, overwrite: bool = False) -> None:
    """Write a file, and its folder, with a comment that marks it as this tool's own.

    Args:
        path: the file.
        text: its content.
        comment: how the file's language writes a comment, e.g. '# {}'.
        overwrite: also replace a file that others wrote.

    Raises:
        InputError: as `check_own`.
    """
    check_own(path, overwrite)
    replace_file(path, f"{comment.format(MARK)}\n{text.strip()}\n".encode())
