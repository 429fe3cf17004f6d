"""Check of one image: read, decoded and looked at as training would."""

import io
import warnings
from collections.abc import Callable

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from mmdualtoken.data.check.findings import ERROR, WARNING
from mmdualtoken.data.loading import BrokenFileError, decode, read_file

EXIF_ORIENTATION = 0x0112
TINY, EXTREME_ASPECT = 8, 20  # px of the shorter side; longer / shorter side
REPLACE = "repair or replace the file, or take it out of the data set"
UPRIGHT = (
    "save the pixels upright without the EXIF tag, for instance with PIL.ImageOps.exif_transpose, "
    "or load with color_type='color_ignore_orientation'"
)
#: Shapes that may break transforms that work on others.
UNUSUAL = ("is tiny", "is extremely long")
#: add(severity, kind, detail, remedy)
Add = Callable[..., None]


def read_and_decode(
    path: str, loader: LoadImageFromFile, flag: str, add: Add
) -> tuple[bytes, np.ndarray] | None:
    """Return a file's content and pixels as `loader` decodes them; None if it is broken."""
    try:
        content = read_file(path, loader.backend_args)
        return content, decode(path, content, flag, loader.imdecode_backend)
    except BrokenFileError as error:
        kind, _, detail = str(error).removeprefix(path).strip().partition(" (")
        add(ERROR, kind, detail.removesuffix(")"), "" if "; write " in kind else REPLACE)
        return None


def bits_per_channel(content: bytes, image: Image.Image) -> int:
    """Return the bits of one value in the file; Pillow itself shows 16-bit colour as 8-bit."""
    if image.format == "PNG":
        return content[24]  # of the header, which comes first in every PNG
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (8,)))
    return {"I;16": 16, "I;16B": 16, "I": 32, "F": 32}.get(image.mode, 8)


def check_image(
    path: str, loader: LoadImageFromFile, channels: int, add: Add
) -> tuple[np.ndarray | None, str]:
    """Check an image, of which the model takes a number of channels; `add` receives the findings.

    Returns:
        The image as the pipeline's `loader` loads it, None if that fails; and a description of its
        EXIF orientation, '' if upright.
    """
    found = read_and_decode(path, loader, loader.color_type, add)
    if found is None:
        return None, ""
    content, image = found
    name = f"{type(loader).__name__}({loader.color_type!r}, {loader.imdecode_backend!r})"
    height, width = image.shape[:2]
    own = image.shape[2] if image.ndim == 3 else 1
    if own != channels:
        detail = f"{own} as loaded by {name}, the model takes {channels}"
        remedy = "load with color_type='color', or set model.backbone.in_channels, mean and std"
        add(ERROR, "has a wrong number of channels", detail, remedy)
    if image.dtype != np.uint8:
        detail = f"{image.dtype}, values {image.min():g} to {image.max():g}"
        remedy = "mean and std of the data_preprocessor must fit such values"
        add(WARNING, "is loaded with other values than 0 to 255", detail, remedy)
    if min(height, width) < TINY:
        add(WARNING, UNUSUAL[0], f"{width}x{height} px")
    if max(height, width) > EXTREME_ASPECT * min(height, width):
        add(WARNING, UNUSUAL[1], f"{width}x{height} px")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = Image.open(io.BytesIO(content))
            _check_header(content, header, image, loader.imdecode_backend, add)
            turned = _orientation(content, header, image, loader, name)
        except Exception:  # a format that mmcv's decoder knows and Pillow does not
            turned = ""
    if turned:
        add(WARNING, "has an EXIF orientation", turned, UPRIGHT)
    return image, turned


def _check_header(
    content: bytes, header: Image.Image, image: np.ndarray, backend: str, add: Add
) -> None:
    if image.dtype == np.uint8 and (bits := bits_per_channel(content, header)) > 8:
        detail = f"{bits} bits per channel become values {image.min()} to {image.max()} of 255"
        remedy = "convert it to 8 bits with a scale of your choice"
        clips = backend == "pillow" and header.mode.startswith(("I", "F"))
        if clips and np.asarray(header).max() > 255:
            add(ERROR, "has 16 bits or more, and Pillow clips all above 255", detail, remedy)
        else:
            add(WARNING, "has 16 bits or more", detail, remedy)
    if ("A" in header.getbands() or "transparency" in header.info) and image.shape[2:] != (4,):
        remedy = "transparent parts show the colour stored below; blend it with a background"
        add(WARNING, "has an alpha channel, which is dropped", "", remedy)
    if header.mode == "CMYK":
        add(WARNING, "is CMYK, converted to RGB without a colour profile")
    if header.mode in ("1", "L", "LA", "I;16", "I", "F") and image.shape[2:] == (3,):
        add(WARNING, "is grey, the one channel is repeated three times")


def _orientation(
    content: bytes, header: Image.Image, image: np.ndarray, loader: LoadImageFromFile, name: str
) -> str:
    """Describe how the loader treats an EXIF orientation; '' if the image is upright."""
    if header.format == "PNG" and "exif" not in header.info:
        return ""  # Pillow would decode the whole image to look for it
    value = header.getexif().get(EXIF_ORIENTATION, 1)
    if value not in range(2, 9):
        return ""
    plain, flag = image, loader.color_type
    if flag in ("color", "grayscale"):
        flag = f"{flag}_ignore_orientation"
        plain = mmcv.imfrombytes(content, flag=flag, backend=loader.imdecode_backend)
    stored, loaded = ("{1}x{0}".format(*a.shape) for a in (plain, image))
    turns = plain.shape != image.shape or not np.array_equal(plain, image)
    does = f"turns it from {stored} to {loaded}" if turns else f"leaves it at {loaded}"
    return f"orientation {value}; {name} {does}"
