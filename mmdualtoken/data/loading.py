"""Loading of images that reports or skips broken files."""

import fcntl
import hashlib
import io
import os
import warnings
from contextlib import suppress

import mmcv
import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.registry import TRANSFORMS
from PIL import Image, UnidentifiedImageError

from mmdualtoken.data.layout import missing_hint
from mmdualtoken.errors import InputError, log_warning

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"


class BrokenFileError(InputError):
    """A file of a data set is missing or cannot be decoded; the message names it and the reason."""

    def __init__(self, message: str) -> None:
        # A dataloader's worker hands on the text of its whole traceback as the message.
        super().__init__(message.rpartition("BrokenFileError: ")[2].strip())


def read_file(path: str, backend_args: dict | None = None) -> bytes:
    """Return the content of a file, of a local disk or of MMEngine's other storage.

    Raises:
        BrokenFileError: it is missing, unreadable, empty, or no file (a pipe would block for ever).
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise BrokenFileError(f"{path} is no regular file")
    try:
        content = fileio.get(path, backend_args=backend_args)
    except FileNotFoundError as error:
        raise BrokenFileError(f"{path} does not exist{missing_hint(path)}") from error
    except Exception as error:  # each kind of storage has errors of its own
        text = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise BrokenFileError(f"{path} cannot be read ({text})") from error
    if not content:
        raise BrokenFileError(f"{path} is empty (0 bytes)")
    return content


def _pillow_says(content: bytes) -> str | None:
    """What Pillow, which is strict about missing data, has against an image; None if nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of very large images
            Image.open(io.BytesIO(content)).load()
    except UnidentifiedImageError:
        return f"is no image that Pillow knows (it begins with {content[:12]!r})"
    except Exception as error:  # of many kinds, by format
        return f"is cut off or damaged ({error})"
    return None


def decode(path: str, content: bytes, flag: str = "color", backend: str = "cv2") -> np.ndarray:
    """Decode an image as mmcv does in training, (H, W, C) or (H, W), but never in part.

    Some versions of OpenCV make up the pixels that a cut-off JPEG lacks; here it is an error.

    Raises:
        BrokenFileError: mmcv cannot decode it, or its end is missing.
    """
    problem = f"cannot be decoded by {backend}, which this pipeline uses"
    try:
        image = mmcv.imfrombytes(content, flag=flag, backend=backend)
    except Exception as error:  # of many kinds, by backend
        image, problem = None, f"{problem} ({type(error).__name__}: {error})".replace("\n", " ")
    unfinished = content.startswith(JPEG_START) and JPEG_END not in content[-64:]
    if image is None or unfinished:
        reason = _pillow_says(content) or (problem if image is None else None)
        if reason:
            raise BrokenFileError(f"{path} {reason}")
    return image


@TRANSFORMS.register_module(force=True)
class CheckedLoadImageFromFile(LoadImageFromFile):
    """mmcv's LoadImageFromFile, with a choice of what happens to a broken image.

    An image is broken when it is missing, cannot be decoded, or has lost its end. Where a sample
    has a map of labels (``seg_map_path``), that file is looked at, too: broken, or of another size
    than the image.

    Use it in the pipeline of training only. The random sample that stands in for a skipped one
    would make an evaluation wrong; MMEngine therefore stops there.

    Args:
        on_error: ``'raise'`` stops with a BrokenFileError that names file and reason; ``'skip'``
            takes a random other sample instead (MMEngine's rule for pipelines that return None).
            Each skipped file is logged once in a run (by each process of a launcher), with the
            count so far.
        max_skipped: with ``'skip'``, stop after all at the first broken file beyond so many.
        mask_backend: mmcv's decoder of label maps; None leaves them unchecked. Default: mmseg's.
        to_float32, color_type, imdecode_backend, backend_args: as in LoadImageFromFile.
        ignore_empty: LoadImageFromFile's, without effect: `on_error` takes its place.

    Raises:
        ValueError: an argument is not one of those allowed.
    """

    def __init__(
        self,
        on_error: str = "raise",
        max_skipped: int = 100,
        mask_backend: str | None = "pillow",
        to_float32: bool = False,
        color_type: str = "color",
        imdecode_backend: str = "cv2",
        backend_args: dict | None = None,
        ignore_empty: bool = False,
    ) -> None:
        super().__init__(to_float32, color_type, imdecode_backend, backend_args=backend_args)
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is {on_error!r}; it must be 'raise' or 'skip'")
        if not isinstance(max_skipped, int) or isinstance(max_skipped, bool) or max_skipped < 1:
            raise ValueError(f"max_skipped is {max_skipped!r}; it must be an integer from 1")
        self.on_error = on_error
        self.mask_backend = mask_backend
        # Digests of the skipped files. Workers of a dataloader share it, and its next workers do.
        self._skipped = torch.zeros(max_skipped, dtype=torch.int64)
        if on_error == "skip":
            self._skipped.share_memory_()

    @property
    def num_skipped(self) -> int:
        """Number of different files skipped so far, by all workers of this process."""
        return int((self._skipped != 0).sum())

    def transform(self, results: dict) -> dict | None:
        """Load ``results['img_path']``; None if the sample is to be skipped.

        Raises:
            BrokenFileError: with ``on_error='raise'``, or after more than `max_skipped` files.
        """
        try:
            image = self._load(results)
        except BrokenFileError as error:
            if self.on_error == "raise":
                raise BrokenFileError(
                    f"{error}. `python tools/check_data.py CONFIG` finds all broken files; "
                    "on_error='skip' of CheckedLoadImageFromFile trains without them."
                ) from error
            # One worker at a time, by a lock that all know, and that ends with a killed process.
            with open(__file__) as lock:
                with suppress(OSError):  # a storage without locks: two may then log the same file
                    fcntl.flock(lock, fcntl.LOCK_EX)
                self._skip(str(error))
            return None
        results["img"] = image.astype(np.float32) if self.to_float32 else image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results

    def _load(self, results: dict) -> np.ndarray:
        path = results["img_path"]
        content = read_file(path, self.backend_args)
        image = decode(path, content, self.color_type, self.imdecode_backend)
        mask_path = results.get("seg_map_path")
        if mask_path and self.mask_backend:
            content = read_file(mask_path, self.backend_args)
            mask = decode(mask_path, content, "unchanged", self.mask_backend)
            if mask.shape[:2] != image.shape[:2]:
                raise BrokenFileError(f"{mask_path} {size_mismatch(mask, image)}")
        return image

    def _skip(self, problem: str) -> None:
        digest = hashlib.blake2b(problem.encode(errors="surrogateescape"), digest_size=8).digest()
        key = int.from_bytes(digest, "big", signed=True) or 1
        if (self._skipped == key).any():
            return
        free = torch.nonzero(self._skipped == 0)
        if not len(free):
            raise BrokenFileError(
                f"More than max_skipped={len(self._skipped)} files are broken, the last: "
                f"{problem}. `python tools/check_data.py CONFIG` finds all; repair the data, or "
                "raise max_skipped of CheckedLoadImageFromFile."
            )
        self._skipped[free[0]] = key
        log_warning(
            f"Skipped: {problem}. {self.num_skipped} broken so far; random others replace them."
        )

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, on_error={self.on_error!r})"


def size_mismatch(mask: np.ndarray, image: np.ndarray) -> str:
    """Say that a map of labels and its image differ in size."""
    return (
        f"is {mask.shape[1]}x{mask.shape[0]}, its image {image.shape[1]}x{image.shape[0]} "
        "as loaded (width x height)"
    )
