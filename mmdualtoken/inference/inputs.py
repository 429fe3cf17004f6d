"""Inputs of a prediction: images, folders of them, and videos."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from mmdualtoken.errors import InputError
from mmdualtoken.files import check_file

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


@dataclass(frozen=True)
class Source:
    """An image or a video, and the name of its results without a suffix ('folder/photo')."""

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether the file is a video, by its suffix."""
        return self.path.suffix.lower() in VIDEOS

    def results(self, out: Path) -> tuple[Path, Path]:
        """Its picture or video, and its records, in a folder of results."""
        vis, preds = (".mp4", ".jsonl") if self.is_video else (".jpg", ".json")
        return Path(f"{out / 'vis' / self.name}{vis}"), Path(f"{out / 'preds' / self.name}{preds}")


def _in_folder(folder: Path, out: Path) -> list[Source]:
    """The images and videos at any depth of a folder, but for results in `out`.

    Links to folders are followed, where they lead to no folder that was searched before; what is
    hidden, such as macOS's `._photo.jpg`, is left out.
    """
    seen, files, start = set(), [], [str(folder)]
    for place in start:  # folders, then links to some, so that names are those of the folders
        for parent, folders, names in os.walk(place):
            if (real := os.path.realpath(parent)) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            paths = (os.path.join(parent, name) for name in folders)
            start += [path for path in paths if os.path.islink(path)]
            files += [Path(parent, name) for name in names if not name.startswith(".")]
    files = sorted(p for p in files if p.suffix.lower() in IMAGES + VIDEOS)
    results = {out.resolve() / "vis", out.resolve() / "preds"}
    files = [p for p in files if results.isdisjoint(p.resolve().parents)]
    return [Source(p, p.relative_to(folder).with_suffix("").as_posix()) for p in files]


def _named_apart(sources: list[Source]) -> list[Source]:
    """The sources with names that differ: first by the suffix, then by a number.

    A video's label maps take a folder of its name, which others may have, such as its own frames.
    """
    counts = Counter(source.name for source in sources)
    folders = {str(folder) for source in sources for folder in Path(source.name).parents}
    sources = [
        replace(s, name=s.name + s.path.suffix)
        if counts[s.name] > 1 or (s.is_video and s.name in folders)
        else s
        for s in sources
    ]
    taken: Counter = Counter()
    for i, source in enumerate(sources):
        taken[source.name] += 1
        if (number := taken[source.name]) > 1:
            sources[i] = replace(source, name=f"{source.name}_{number}")
    return sources


def find_sources(inputs: Iterable[str], out: str | Path) -> list[Source]:
    """Find all images and videos, in order, and give each a unique name.

    Args:
        inputs: files, and folders that are searched at any depth for the suffixes `IMAGES` and
            `VIDEOS`. A file that is listed itself may have any suffix.
        out: folder of the results; those are no input.

    Raises:
        InputError: a path does not exist, or there is nothing at all.
    """
    paths = [Path(os.path.expanduser(name)) for name in inputs]
    found: list[Source] = []
    for path in paths:
        if path.is_dir():
            found += _in_folder(path, Path(out))
        else:
            found.append(Source(path if path.is_symlink() else check_file(path), path.stem))
    if not found:
        raise InputError(
            f"No image or video in {', '.join(map(str, paths))}: none of the files ends in "
            f"{', '.join(IMAGES + VIDEOS)}."
        )
    return _named_apart(found)
