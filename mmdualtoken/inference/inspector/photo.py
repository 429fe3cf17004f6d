"""Checks of an uploaded photo: of its header before anything is decoded, then of the whole."""

import io
import warnings
from contextlib import suppress
from dataclasses import dataclass

from PIL import ExifTags, Image, UnidentifiedImageError

from mmdualtoken.errors import InputError

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 32_000_000
MIN_SIDE = 8  # px
MAX_RATIO = 20  # of the sides: a pipeline that fixes the shorter one makes the longer one huge
#: Pillow's names of the decoders that may touch an upload. Its JPEG opens phones' MPO, too.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
LIMITS = (
    f"Choose one picture as {', '.join(FORMATS)}, of at most {MAX_BYTES // 2**20} MiB, {MIN_SIDE} "
    f"px a side to {MAX_PIXELS // 10**6} million pixels, and {MAX_RATIO} to 1 between the sides."
)


@dataclass(frozen=True)
class Photo:
    """An image file that passed the checks."""

    name: str
    content: bytes
    #: Unexpected changes that decoding makes, as sentences.
    notes: tuple[str, ...] = ()


def check_photo(name: str, content: bytes) -> Photo:
    """Check an upload: the whole file, or more than MAX_BYTES of it.

    Raises:
        InputError: it is beyond the limits, animated, damaged or no image; the message says which.
    """
    if len(content) > MAX_BYTES:
        raise InputError(f"{name} has more than {MAX_BYTES // 2**20} MiB. {LIMITS}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of large images: the limit here is lower
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            fault = _fault_of(image)
            if not fault:
                image.load()
    except UnidentifiedImageError:
        fault = f"is no image that can be read (it begins with {content[:8]!r})"
    except Exception as error:  # each format raises other errors
        fault = f"is cut off, damaged or too large ({str(error) or type(error).__name__})"
    if fault:
        raise InputError(f"{name} {fault}. {LIMITS}")
    return Photo(name, content, _notes_on(image))


def _fault_of(image: Image.Image) -> str | None:
    """What the header says against an image."""
    short, long = sorted(image.size)
    if short * long > MAX_PIXELS or short < MIN_SIDE or long > MAX_RATIO * short:
        return f"is {image.width}×{image.height} px"
    if image.format != "MPO":
        with suppress(EOFError):  # there is no second frame
            image.seek(1)
            return "is animated or has several pages"
    return None


def _notes_on(image: Image.Image) -> tuple[str, ...]:
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    turned = image.format in ("JPEG", "MPO") and orientation in range(2, 9)
    notes = {
        "Its transparency is ignored.": image.has_transparency_data,
        "Its values are reduced to 8 bits.": image.mode.startswith(("I", "F")),
        "It is turned upright as its EXIF data say.": turned,
    }
    return tuple(note for note, applies in notes.items() if applies)
