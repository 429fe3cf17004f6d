"""What a photo must be before it is decoded: uploads are bounded in bytes, pixels and shape."""

import io
import warnings
from dataclasses import dataclass

from PIL import ExifTags, Image, UnidentifiedImageError

from mmdualtoken.errors import InputError

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 32_000_000
MIN_SIDE = 8  # px
#: Of the longer side to the shorter one. Pipelines that scale the shorter side to a fixed length
#: would make a huge image of a longer one.
MAX_RATIO = 20
#: Pillow's names of the decoders that may touch an upload. Its JPEG opens phones' MPO, too.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
ALLOWED = "a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file"


class UploadError(InputError):
    """A photo is refused; the message says what it is, what is allowed and what to do."""


@dataclass(frozen=True)
class Photo:
    """An image file that may be decoded."""

    name: str
    content: bytes
    #: What is done to it that one might not expect, as sentences.
    notes: tuple[str, ...] = ()


def check_photo(name: str, content: bytes) -> Photo:
    """Check an upload: first its length, then its header, at last that it decodes to the end.

    Args:
        name: the file's name, for the messages.
        content: all of the file.

    Raises:
        UploadError: it is empty, too large, too small, too long, no image, animated or damaged.
    """
    if not content:
        raise UploadError(f"{name} is empty (0 bytes). Choose {ALLOWED}.")
    if len(content) > MAX_BYTES:
        raise UploadError(
            f"{name} has {len(content) / 2**20:.1f} MiB; at most {MAX_BYTES // 2**20} are allowed. "
            "Save it smaller."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of large images: the limit here is lower
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError as error:
            raise UploadError(
                f"{name} is no image that can be read (it begins with {content[:8]!r}). "
                f"Choose {ALLOWED}."
            ) from error
        except Image.DecompressionBombError as error:
            raise UploadError(f"{name} has too many pixels. {_limits()}") from error
        except Exception as error:  # of many kinds, by format
            raise _damaged(name, error) from error
        with image:
            notes = _look_at_header(name, image)
            try:
                image.load()
            except Exception as error:
                raise _damaged(name, error) from error
    return Photo(name, content, notes)


def _limits() -> str:
    return (
        f"Allowed are {MIN_SIDE} px a side to {MAX_PIXELS // 10**6} million pixels, and "
        f"{MAX_RATIO} to 1 between the sides. Scale or crop it."
    )


def _damaged(name: str, error: Exception) -> UploadError:
    text = str(error) or type(error).__name__
    return UploadError(f"{name} is cut off or damaged ({text}). Copy or save it again.")


def _look_at_header(name: str, image: Image.Image) -> tuple[str, ...]:
    """What the header says, before anything is decoded; returns the notes."""
    width, height = image.size
    large = width * height > MAX_PIXELS
    small = min(width, height) < MIN_SIDE
    if large or small or max(width, height) > MAX_RATIO * min(width, height):
        raise UploadError(f"{name} is {width}×{height} px. {_limits()}")
    if image.format != "MPO" and _has_more_frames(image):
        kind = "has several pages" if image.format == "TIFF" else "is animated"
        raise UploadError(f"{name} {kind}; one picture is expected. Save one of them by itself.")
    notes = []
    if image.has_transparency_data:
        notes.append("Its transparency is ignored.")
    if image.mode.startswith(("I", "F")):
        notes.append("Its values are brought to 8 bits.")
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # EXIF data are read by many rules
        raise _damaged(name, error) from error
    if image.format in ("JPEG", "MPO") and orientation in range(2, 9):
        notes.append("It is turned upright as its EXIF data say.")
    return tuple(notes)


def _has_more_frames(image: Image.Image) -> bool:
    """Whether there is a second frame; counting all could take long."""
    try:
        image.seek(1)
    except EOFError:
        return False
    except Exception:  # the second frame may be the damaged one
        return True
    return True
