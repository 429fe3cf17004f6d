"""The checkpoint from which --resume continues."""

from pathlib import Path

from mmengine.logging import print_log

from mmdualtoken.errors import InputError


def moved_checkpoint(work_dir: str | Path) -> str | None:
    """Return the last checkpoint of a run whose folder was moved or copied.

    `last_checkpoint` then names a file of another folder; one of the same name is in this.

    Returns:
        its path; None where MMEngine itself finds the checkpoint, or that there is none.

    Raises:
        InputError: `last_checkpoint` names no checkpoint that exists.
    """
    folder = Path(work_dir)
    try:
        name = (folder / "last_checkpoint").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        if (folder / "last_checkpoint").is_symlink():
            raise _unusable(folder, "it is a link to a file that is gone") from None
        return None
    except (OSError, ValueError) as error:
        raise _unusable(folder, f"it cannot be read ({error})") from error
    if not name:
        raise _unusable(folder, "it is empty")
    if "://" in name:  # of a remote storage
        return None
    named = Path(name)
    moved = folder / named.name
    # The folder that `out_dir` names is no work dir; then the file here is an earlier run's.
    elsewhere = not _is_checkpoint(named) or (named.parent / "last_checkpoint").exists()
    if _is_checkpoint(moved) and moved.resolve() != named.resolve() and elsewhere:
        print_log(f"--resume: {moved} is taken, not {name} of its name.", logger="current")
        return str(moved)
    if _is_checkpoint(named):
        return None
    raise _unusable(folder, f"it names {name}, which does not exist")


def _is_checkpoint(path: Path) -> bool:
    """Return whether it is a file, or the folder of a strategy that writes checkpoints in parts."""
    return path.is_file() or (path.is_dir() and path.suffix == ".pth")


def _unusable(folder: Path, why: str) -> InputError:
    there = ", ".join(sorted(p.name for p in folder.glob("*.pth"))[-5:]) or "none"
    return InputError(
        f"--resume: {folder}/last_checkpoint is of no use: {why}. Name a checkpoint with --resume "
        f"FILE. In {folder}: {there}."
    )
