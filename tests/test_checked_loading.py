"""CheckedLoadImageFromFile: training stops at a broken file with its name, or goes on without."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from data_faults import (
    CLASSIFICATION_IMAGE,
    FIRST_IMAGES,
    SEGMENTATION_IMAGE,
    TASKS,
    config,
    config_file,
    write_data,
)
from helpers import log_lines
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope
from PIL import Image
from torch.utils.data import DataLoader

from mmdualtoken.data.loading import BrokenFileError, CheckedLoadImageFromFile

SEGMENTATION_MAP = "data/ade/annotations/training/ADE_train_00000001.png"
STEP = "train_dataloader.dataset.pipeline.0"


pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def train(tool):
    """Run tools/train.py in this process: train(task, option...) -> (exit status, printed)."""

    def call(task, *options):
        options = [f"{STEP}.type=CheckedLoadImageFromFile", *options]
        return tool("train", config_file(task), "--overwrite", "--cfg-options", *options)

    return call


def cut_off(file):
    content = Path(file).read_bytes()
    Path(file).write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    "task, workers",
    [
        ("classification", 2),
        ("segmentation", 0),
        pytest.param("detection", 2, marks=pytest.mark.slow),
        pytest.param("classification", 0, marks=pytest.mark.slow),
    ],
)
def test_training(task, workers, train):
    """By default it stops, with the file and the reason; or it skips, and tells so once."""
    write_data(task)
    file = FIRST_IMAGES[task]
    cut_off(file)
    options = [f"train_dataloader.num_workers={workers}"]
    if task != "classification":  # which sees each image in its one epoch
        options.append("train_cfg.max_iters=6")
    status, printed = train(task, *options)
    assert status == 2
    assert re.search(
        rf"error: {file} is cut off or damaged \(.*\)\. `python tools/check_data", printed
    )
    error = printed[printed.rindex("\nerror: ") :]
    assert error.strip().count("\n") == 0

    status, printed = train(task, *options, f"{STEP}.on_error=skip")
    assert status == 0
    lines = [line for line in printed.splitlines() if "Skipped: " in line]
    assert len(lines) == 1 and f"Skipped: {file} is cut off" in lines[0]
    assert "1 broken so far" in lines[0]
    assert list(Path("work_dirs").glob("*/*.pth"))


def loader(**settings):
    return TRANSFORMS.build(dict(type="CheckedLoadImageFromFile", **settings))


@pytest.mark.parametrize("task, workers", list(zip(TASKS, (2, 0, 2), strict=True)))
def test_every_skipped_file_is_counted_once(task, workers):
    """Also over several workers, and over epochs whose workers are new."""
    write_data(task)
    files = sorted(Path(FIRST_IMAGES[task]).parent.parent.rglob("*.jpg"))
    files = [f for f in files if "val" not in str(f)]
    good = files.pop()
    for file in files:
        file.write_bytes(b"")
    cfg = config(task)
    init_default_scope(cfg.default_scope)
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline[0] = dict(type="CheckedLoadImageFromFile", on_error="skip")
    if task == "detection":
        cfg.train_dataloader.dataset.filter_cfg = None
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    with log_lines() as lines:
        for _ in range(2):
            loaded = list(DataLoader(dataset, collate_fn=lambda batch: batch, num_workers=workers))
            paths = {Path(sample["data_samples"].img_path) for batch in loaded for sample in batch}
            assert len(loaded) == len(files) + 1 and paths == {good}
    assert dataset.pipeline.transforms[0].num_skipped == len(files)
    if not workers:  # what workers log goes to the terminal, not to the list
        assert len([line for line in lines if "is empty (0 bytes)" in line]) == len(files)


def test_too_many_broken_files_stop_it():
    transform = loader(on_error="skip", max_skipped=2)
    for name in "abab":
        assert transform(dict(img_path=f"{name}.jpg")) is None
    with pytest.raises(BrokenFileError, match=r"More than max_skipped=2 .* c.jpg does not exist"):
        transform(dict(img_path="c.jpg"))
    assert transform.num_skipped == 2


def test_nothing_left_to_load():
    """MMEngine gives up after max_refetch tries; nothing hangs."""
    write_data("classification")
    for file in Path("data/imagenet/train").glob("*/*.jpg"):
        file.write_bytes(b"")
    cfg = config("classification")
    init_default_scope(cfg.default_scope)
    cfg.train_dataloader.dataset.pipeline[0] = dict(type=CheckedLoadImageFromFile, on_error="skip")
    with pytest.raises(Exception, match="Cannot find valid image"):
        DATASETS.build(cfg.train_dataloader.dataset)[0]


def test_evaluation_does_not_skip():
    write_data("classification")
    Path("data/imagenet/val/disc/disc_00000001.jpg").write_bytes(b"")
    cfg = config("classification")
    init_default_scope(cfg.default_scope)
    cfg.val_dataloader.dataset.pipeline[0] = dict(type=CheckedLoadImageFromFile, on_error="skip")
    dataset = DATASETS.build(dict(cfg.val_dataloader.dataset, test_mode=True))
    with pytest.raises(Exception, match="Test time pipline"):
        dataset[0]


def test_the_same_image_as_mmcv():
    write_data("segmentation")
    for settings in (
        dict(),
        dict(to_float32=True, ignore_empty=True),
        dict(imdecode_backend="pillow"),
    ):
        sample = dict(img_path=SEGMENTATION_IMAGE, seg_map_path=SEGMENTATION_MAP)
        ours = loader(**settings)(dict(sample))
        theirs = LoadImageFromFile(**settings)(dict(sample))
        assert ours.keys() == theirs.keys()
        np.testing.assert_array_equal(ours.pop("img"), theirs["img"], strict=True)
        assert all(ours[key] == theirs[key] for key in ours)


@pytest.mark.parametrize(
    "content, reason",
    [(None, "does not exist"), (b"", "is empty"), (b"x", "is no image"), ("small", "is 9x9, its")],
)
def test_label_map(content, reason):
    """The label map of a sample is looked at, too."""
    write_data("segmentation")
    Path(SEGMENTATION_MAP).unlink()
    if content == "small":
        Image.new("L", (9, 9)).save(SEGMENTATION_MAP)
    elif content is not None:
        Path(SEGMENTATION_MAP).write_bytes(content)
    sample = dict(img_path=SEGMENTATION_IMAGE, seg_map_path=SEGMENTATION_MAP)
    with pytest.raises(BrokenFileError, match=f"^{SEGMENTATION_MAP} {reason}"):
        loader()(dict(sample))
    assert loader(on_error="skip")(dict(sample)) is None
    assert loader(mask_backend=None)(dict(sample))["img"].ndim == 3


def test_cut_off_jpeg_that_the_decoder_fills_up(monkeypatch):
    """As OpenCV 4.8 does: an image comes back, its missing part made up."""
    write_data("classification")
    cut_off(CLASSIFICATION_IMAGE)
    grey = np.full((64, 64, 3), 128, np.uint8)
    monkeypatch.setattr("mmcv.imfrombytes", lambda *args, **kwargs: grey)
    with pytest.raises(BrokenFileError, match="is cut off or damaged"):
        loader()(dict(img_path=CLASSIFICATION_IMAGE))


def test_message_of_a_worker():
    """A dataloader hands on a traceback as text; the message is its last part."""
    text = (
        "Caught BrokenFileError in worker 0.\nTraceback: ...\nx.BrokenFileError: a.jpg is empty\n"
    )
    assert str(BrokenFileError(text)) == "a.jpg is empty"


def test_copies_can_be_sent_to_processes():
    transform = loader(on_error="skip")
    transform(dict(img_path="a.jpg"))
    assert pickle.loads(pickle.dumps(transform)).num_skipped == 1
    assert "on_error='skip'" in repr(transform)
    assert transform._skipped.dtype == torch.int64


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(on_error="ignore"), "on_error is 'ignore'; it must be 'raise' or 'skip'"),
        (dict(max_skipped=0), "max_skipped is 0; it must be an integer from 1"),
    ],
)
def test_bad_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        CheckedLoadImageFromFile(**settings)
