"""Each fault that an image may have: what the check says, and that the toolbox bears it out."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from data_faults import (
    CLASSIFICATION_IMAGE,
    check,
    config,
    expect,
    expect_clean,
    write_data,
)
from PIL import Image

from mmdualtoken.data.check import ERROR, WARNING

pytestmark = pytest.mark.usefixtures("here")


def jpeg(array, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def exif(value):
    tags = Image.Exif()
    tags[0x0112] = value
    return tags


RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (64, 80, 3), dtype=np.uint8)
WHOLE = jpeg(COLOURS)
IMAGES = {
    "half": (WHOLE[: len(WHOLE) // 2], ERROR, "is cut off or damaged", True),
    "without end": (WHOLE[:-2], ERROR, "is cut off or damaged", True),
    "header only": (WHOLE[:60], ERROR, "is cut off or damaged", True),
    "half PNG": (png(COLOURS)[:900], ERROR, "is cut off or damaged", True),
    "zero bytes": (b"", ERROR, "is empty", True),
    "web page": (b"<!DOCTYPE html>", ERROR, "is no image", True),
    "more after end": (WHOLE + b"x" * 99, None, "", False),
    "alpha": (png(np.dstack([COLOURS, COLOURS[..., :1]])), WARNING, "alpha", False),
    "16 bits": (png(COLOURS[..., 0].astype(np.uint16) << 4), WARNING, "16 bits", False),
    "grey": (jpeg(COLOURS[..., 0]), WARNING, "is grey", False),
    "1x1": (jpeg(COLOURS[:1, :1]), WARNING, "is tiny: 1x1", False),
    "long": (jpeg(np.zeros((30, 10000, 3), np.uint8)), WARNING, "extremely long", False),
    "turned": (jpeg(COLOURS, exif=exif(6)), WARNING, "turns it from 80x64 to 64x80", False),
    "upside down": (jpeg(COLOURS, exif=exif(3)), WARNING, "turns it from 80x64 to 80x64", False),
    "upright tag": (jpeg(COLOURS, exif=exif(1)), None, "", False),
}


@pytest.mark.parametrize("name", IMAGES)
def test_image(name):
    write_data("classification")
    content, severity, words, stops = IMAGES[name]
    Path(CLASSIFICATION_IMAGE).write_bytes(content)
    if severity is None:
        expect_clean(config("classification"))
    else:
        expect(config("classification"), severity, CLASSIFICATION_IMAGE, words, stops)


def test_decoder_of_the_pipeline_decides():
    """Pillow needs no IEND chunk and clips 16 bits; OpenCV the other way round."""
    write_data("classification")
    pillow = [dict(type="LoadImageFromFile", imdecode_backend="pillow"), dict(type="PackInputs")]
    Path(CLASSIFICATION_IMAGE).write_bytes(png(COLOURS)[:-12])
    expect(config("classification"), ERROR, CLASSIFICATION_IMAGE, "cannot be decoded by cv2", True)
    assert check(config("classification", pipeline=pillow)) == []
    Path(CLASSIFICATION_IMAGE).write_bytes(png(COLOURS[..., 0].astype(np.uint16) << 4))
    expect(
        config("classification", pipeline=pillow),
        ERROR,
        CLASSIFICATION_IMAGE,
        "clips all above 255",
        False,
    )


def test_exif_is_left_where_the_pipeline_leaves_it():
    write_data("classification")
    load = dict(type="LoadImageFromFile", color_type="color_ignore_orientation")
    Path(CLASSIFICATION_IMAGE).write_bytes(jpeg(COLOURS, exif=exif(6)))
    cfg = config("classification", pipeline=[load, dict(type="PackInputs")])
    expect(cfg, WARNING, CLASSIFICATION_IMAGE, "leaves it at 80x64", False)


def test_channels():
    """Loaded unchanged, an alpha channel is a fourth one, and grey has one."""
    write_data("classification")
    load = dict(type="LoadImageFromFile", color_type="unchanged")
    cfg = config("classification", pipeline=[load, dict(type="PackInputs")])
    Path(CLASSIFICATION_IMAGE).write_bytes(IMAGES["alpha"][0])
    expect(cfg, ERROR, CLASSIFICATION_IMAGE, "wrong number of channels: 4", False)
    Path(CLASSIFICATION_IMAGE).write_bytes(IMAGES["grey"][0])
    expect(cfg, ERROR, CLASSIFICATION_IMAGE, "wrong number of channels: 1", False)


def test_channels_of_the_backbone():
    """Four, without means: of four means mmdet and one of mmseg's stacks build no model."""
    cfg = config("segmentation")
    write_data("segmentation")
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.pipeline[0].color_type = "unchanged"
        loader.dataset.img_suffix = ".png"
    for file in Path("data").rglob("images/*/*.jpg"):
        four = RNG.integers(0, 256, (*np.asarray(Image.open(file)).shape[:2], 4), dtype=np.uint8)
        file.with_suffix(".png").write_bytes(png(four))
    cfg.model.backbone.in_channels = 4
    cfg.model.data_preprocessor.update(mean=None, std=None)
    assert ERROR not in [severity for severity, *_ in check(cfg)]
    cfg.model.data_preprocessor = dict(type="mmdet.DetDataPreprocessor", mean=[9] * 4, std=[9] * 4)
    (reason,) = [reason for severity, _, reason in check(cfg) if severity == ERROR]
    assert "cannot build the data_preprocessor" in reason and "4 values" in reason


def test_pipe_does_not_block():
    """A list names a pipe, which nobody writes to: opening it would wait for ever."""
    write_data("classification")
    os.mkfifo("data/imagenet/train/pipe.jpg")
    Path("data/imagenet/list.txt").write_text("pipe.jpg 0\ndisc/disc_00000001.jpg 1\n")
    cfg = config("classification", ann_file="list.txt")
    assert (ERROR, "data/imagenet/train/pipe.jpg", "is no regular file") in check(cfg)
