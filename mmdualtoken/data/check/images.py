"""Check of one image: read, decoded and looked at as training would."""

import io
import warnings
from collections.abc import Iterator

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from mmdualtoken.data.loading import BrokenFileError, decode, read_file

from mmdualtoken.data.check.findings import ERROR, WARNING, Finding

EXIF_ORIENTATION = 0x0112
TINY, EXTREME_ASPECT = 8, 20  # px of the shorter side; longer / shorter side
REPLACE = "mend or replace the file, or take it out of the data set"
UPRIGHT = (
    "save the pixels upright without the EXIF tag, for instance with PIL.ImageOps.exif_transpose, "
    "or load with color_type='color_ignore_orientation'"
)


def split_problem(path: str, error: BrokenFileError) -> Finding:
    """Turn the message of a BrokenFileError about `path` into a finding."""
    reason = str(error).removeprefix(path).strip()
    kind, bracket, detail = reason.partition(" (")
    return Finding(ERROR, path, kind, detail.removesuffix(")") if bracket else "", REPLACE)


def bits_per_channel(content: bytes, image: Image.Image) -> int:
    """Bits of one value in the file; Pillow itself shows 16-bit colour as 8-bit."""
    if image.format == "PNG":
        return content[24]  # of the header, which comes first in every PNG
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (8,)))
    return {"I;16": 16, "I;16B": 16, "I": 32, "F": 32}.get(image.mode, 8)


def orientation(image: Image.Image) -> int:
    """EXIF orientation from 1 (upright) to 8."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the whole image to look for it
    return image.getexif().get(EXIF_ORIENTATION, 1)


class ImageCheck:
    """What is asked of every image of a data set.

    Args:
        loader: the transform of the pipeline that loads images.
        channels: number of channels that the model takes.
    """

    def __init__(self, loader: LoadImageFromFile, channels: int = 3) -> None:
        self.flag, self.backend = loader.color_type, loader.imdecode_backend
        self.backend_args, self.channels = loader.backend_args, channels
        self.name = f"{type(loader).__name__}({self.flag!r}, {self.backend!r})"

    def __call__(self, path: str) -> tuple[list[Finding], np.ndarray | None, str]:
        """Check the image at `path`.

        Returns:
            Its findings; the image as the pipeline loads it, None if that fails; and what is known
            of its EXIF orientation, '' if upright.
        """
        try:
            content = read_file(path, self.backend_args)
            image = decode(path, content, self.flag, self.backend)
        except BrokenFileError as error:
            return [split_problem(path, error)], None, ""
        findings = list(self._shape(path, image))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                header = Image.open(io.BytesIO(content))
                findings += self._header(path, content, header, image)
                turned = self._turned(content, orientation(header), image)
            except Exception:  # a format that mmcv's decoder knows and Pillow does not
                turned = ""
        if turned:
            findings.append(Finding(WARNING, path, "has an EXIF orientation", turned, UPRIGHT))
        return findings, image, turned

    def _shape(self, path: str, image: np.ndarray) -> Iterator[Finding]:
        height, width = image.shape[:2]
        channels = image.shape[2] if image.ndim == 3 else 1
        if channels != self.channels:
            detail = f"{channels} as loaded by {self.name}, the model takes {self.channels}"
            remedy = "load with color_type='color', or set mean and std of the data_preprocessor"
            yield Finding(ERROR, path, "has a wrong number of channels", detail, remedy)
        if image.dtype != np.uint8:
            detail = f"{image.dtype}, values {image.min():g} to {image.max():g}"
            remedy = "mean and std of the data_preprocessor must fit such values"
            yield Finding(
                WARNING, path, "is loaded with other values than 0 to 255", detail, remedy
            )
        if min(height, width) < TINY:
            yield Finding(WARNING, path, "is tiny", f"{width}x{height} px")
        if max(height, width) > EXTREME_ASPECT * min(height, width):
            yield Finding(WARNING, path, "is extremely long", f"{width}x{height} px")

    def _header(
        self, path: str, content: bytes, header: Image.Image, image: np.ndarray
    ) -> Iterator[Finding]:
        if image.dtype == np.uint8 and (bits := bits_per_channel(content, header)) > 8:
            detail = f"{bits} bits per channel become values {image.min()} to {image.max()} of 255"
            clipped = self.backend == "pillow" and header.mode.startswith(("I", "F"))
            remedy = "convert it to 8 bits with a scale of your choice"
            if clipped and np.asarray(header).max() > 255:
                kind = "has 16 bits or more, and Pillow clips all above 255"
                yield Finding(ERROR, path, kind, detail, remedy)
            else:
                yield Finding(WARNING, path, "has 16 bits or more", detail, remedy)
        has_alpha = "A" in header.getbands() or "transparency" in header.info
        if has_alpha and image.shape[2:] != (4,):
            remedy = "transparent parts show the colour stored below; blend it with a background"
            yield Finding(WARNING, path, "has an alpha channel, which is dropped", "", remedy)
        if header.mode == "CMYK":
            yield Finding(WARNING, path, "is CMYK, converted to RGB without a colour profile")
        if header.mode in ("1", "L", "LA", "I;16", "I", "F") and image.shape[2:] == (3,):
            yield Finding(WARNING, path, "is grey, the one channel is repeated three times")

    def _turned(self, content: bytes, value: int, image: np.ndarray) -> str:
        """What the loader makes of the EXIF orientation; '' if the image is upright."""
        if value not in range(2, 9):
            return ""
        plain = image
        if self.flag in ("color", "grayscale"):
            flag = f"{self.flag}_ignore_orientation"
            plain = mmcv.imfrombytes(content, flag=flag, backend=self.backend)
        turns = plain.shape != image.shape or not np.array_equal(plain, image)
        stored, loaded = ("{1}x{0}".format(*a.shape) for a in (plain, image))
        does = f"turns it from {stored} to {loaded}" if turns else f"leaves it at {loaded}"
        return f"orientation {value}; {self.name} {does}"


def is_unusual(image: np.ndarray) -> bool:
    """Whether the shape of an image may break transforms that work on others."""
    height, width = image.shape[:2]
    return min(height, width) < TINY or max(height, width) > EXTREME_ASPECT * min(height, width)
