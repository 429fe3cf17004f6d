"""Checks of an uploaded photo, most of them before anything is decoded."""

import io
import warnings
from dataclasses import dataclass

from PIL import ExifTags, Image, UnidentifiedImageError

from mmdualtoken.errors import InputError

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 32_000_000
MIN_SIDE = 8  # px
MAX_RATIO = 20  # of the sides: a pipeline that fixes the shorter one makes the longer one huge
#: Pillow's names of the decoders that may touch an upload. Its JPEG opens phones' MPO, too.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
ALLOWED = "a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file"
LIMITS = (
    f"Allowed are {MIN_SIDE} px a side to {MAX_PIXELS // 10**6} million pixels, and {MAX_RATIO} to "
    "1 between the sides. Scale or crop it."
)


class UploadError(InputError):
    """A photo is refused; the message names the fault, the limit and the remedy."""


@dataclass(frozen=True)
class Photo:
    """An image file that passed the checks."""

    name: str
    content: bytes
    #: Unexpected changes that decoding makes, as sentences.
    notes: tuple[str, ...] = ()


def check_photo(name: str, content: bytes) -> Photo:
    """Check the length of an upload, then its header, then that it decodes to the end.

    Args:
        name: the file's name, for the messages.
        content: the whole file.

    Raises:
        UploadError: it is empty, too large, too small, too long, no image, animated or damaged.
    """
    if not content:
        raise UploadError(f"{name} is empty (0 bytes). Choose {ALLOWED}.")
    if len(content) > MAX_BYTES:
        raise UploadError(f"{name} has more than {MAX_BYTES // 2**20} MiB. Save it smaller.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of large images: the limit here is lower
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                notes = _check_header(name, image)
                image.load()
        except UploadError:
            raise
        except UnidentifiedImageError as error:
            raise UploadError(
                f"{name} is no image that can be read (it begins with {content[:8]!r}). "
                f"Choose {ALLOWED}."
            ) from error
        except Image.DecompressionBombError as error:
            raise UploadError(f"{name} has too many pixels. {LIMITS}") from error
        except Exception as error:  # each format raises other errors
            reason = str(error) or type(error).__name__
            raise UploadError(
                f"{name} is cut off or damaged ({reason}). Copy or save it again."
            ) from error
    return Photo(name, content, notes)


def _check_header(name: str, image: Image.Image) -> tuple[str, ...]:
    """Check size and number of frames before anything is decoded; return the notes."""
    short, long = sorted(image.size)
    if short * long > MAX_PIXELS or short < MIN_SIDE or long > MAX_RATIO * short:
        raise UploadError(f"{name} is {image.width}×{image.height} px. {LIMITS}")
    if image.format != "MPO" and _has_second_frame(image):
        kind = "has several pages" if image.format == "TIFF" else "is animated"
        raise UploadError(f"{name} {kind}; one picture is expected. Save one of them by itself.")
    turned = image.format in ("JPEG", "MPO") and (
        image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
    )
    notes = {
        "Its transparency is ignored.": image.has_transparency_data,
        "Its values are reduced to 8 bits.": image.mode.startswith(("I", "F")),
        "It is turned upright as its EXIF data say.": turned,
    }
    return tuple(note for note, applies in notes.items() if applies)


def _has_second_frame(image: Image.Image) -> bool:
    try:
        image.seek(1)  # counting all frames could take long
    except EOFError:
        return False
    except Exception:  # the second frame may be the damaged one
        return True
    return True
