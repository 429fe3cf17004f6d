"""Uploads to the inspector: bounded before anything is decoded, whole, one picture."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mmdualtoken.data.loading import decode
from mmdualtoken.errors import InputError
from mmdualtoken.inference.inspector import photo as uploads
from mmdualtoken.inference.inspector.photo import check_photo

RNG = np.random.default_rng(0)


def picture(width=40, height=24, mode="RGB"):
    depth = dict(RGB=3, RGBA=4, L=1)[mode]
    values = RNG.integers(0, 256, (height, width, depth), dtype=np.uint8)
    return Image.fromarray(values[..., 0] if depth == 1 else values, mode)


def file_of(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that is whole up to the size that it claims, and has next to no data."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + size + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_formats(kind):
    content = file_of(picture(), kind)
    photo = check_photo("a.bin", content)
    assert (photo.name, photo.content, photo.notes) == ("a.bin", content, ())
    assert decode(photo.name, photo.content).shape == (24, 40, 3)


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


VALUES = RNG.integers(0, 65536, (24, 40), dtype=np.uint16)
NOTES = {
    "upright": (file_of(picture(), "JPEG", exif=exif(1)), ()),
    "turned": (
        file_of(picture(), "JPEG", exif=exif(6)),
        ("It is turned upright as its EXIF data say.",),
    ),
    "alpha": (file_of(picture(mode="RGBA"), "PNG"), ("Its transparency is ignored.",)),
    "16 bits": (
        file_of(Image.fromarray(VALUES), "PNG"),
        ("Its values are reduced to 8 bits.",),
    ),
    "a phone's second view": (
        file_of(picture(), "MPO", save_all=True, append_images=[picture()]),
        (),
    ),
}


@pytest.mark.parametrize("case", NOTES)
def test_notes(case):
    """They say what decoding does."""
    content, notes = NOTES[case]
    photo = check_photo("a.jpg", content)
    assert photo.notes == notes
    seen = decode(photo.name, photo.content)
    assert seen.shape[:2] == ((40, 24) if case == "turned" else (24, 40))
    if case == "16 bits":
        assert seen.dtype == np.uint8 and abs(seen[..., 0] - VALUES / 257).max() <= 1


def several(kind):
    return file_of(picture(), kind, save_all=True, append_images=[picture()])


BAD = {
    "empty": (b"", r"is no image that can be read \(it begins with b''\)"),
    "text": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no image that can be read"),
    "program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image"),
    "cut JPEG": (file_of(picture(99, 99), "JPEG")[:-700], "is cut off, damaged"),
    "cut PNG": (file_of(picture(99, 99), "PNG")[:-700], "is cut off, damaged"),
    "one pixel": (file_of(picture(1, 1), "PNG"), "is 1×1 px. .*8 px a side to 32 million"),
    "long": (file_of(picture(800, 9), "PNG"), "is 800×9 px.* 20 to 1 between the sides"),
    "animated GIF": (several("GIF"), "is animated or has several pages"),
    "animated PNG": (several("PNG"), "is animated"),
    "animated WebP": (several("WEBP"), "is animated"),
    "pages": (several("TIFF"), "is animated or has several pages"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused(case):
    content, message = BAD[case]
    with pytest.raises(InputError, match=rf"^photo\.x {message}"):
        check_photo("photo.x", content)


@pytest.mark.parametrize("size", [(8000, 6000), (60000, 60000)])
def test_bombs_are_not_decoded(size, monkeypatch):
    def load(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", load)
    with pytest.raises(InputError, match=r"too large|is \d+×\d+ px"):
        check_photo("bomb.png", png_header(*size))


def test_too_many_bytes(monkeypatch):
    monkeypatch.setattr(uploads, "MAX_BYTES", 2**20)
    with pytest.raises(InputError, match="more than 1 MiB"):
        check_photo("photo.x", bytes(2**21))
