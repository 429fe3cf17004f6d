"""tools/browse_dataset.py: what the pipeline feeds the model, drawn with its labels."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import set_random_seed
from PIL import Image
from tasks import TASKS

from mmdualtoken.inference.browse import Browser, build_dataset, contact_sheet, picture_of

CLASSIFIER = TASKS["classification"][0]


def test_pictures_and_contact_sheet(project, tool):
    """Samples spread over the split, each below its title; the same seed gives the same bytes."""
    sheets = []
    for out, seed in (("one", 0), ("two", 0), ("other", 1)):
        arguments = [TASKS["detection"][0], "--num", 4, "--out", out, "--seed", seed]
        status, printed = tool("browse_dataset", *arguments)
        assert status == 0 and f"4 of 8 samples of train: {out}/contact_sheet.png" in printed
        sheets.append(Path(out, "contact_sheet.png").read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]
    files = sorted(Path("one").glob("0*.png"))
    assert [int(f.name[:6]) for f in files] == [0, 2, 5, 7]
    size = Image.open(files[0]).size
    assert size[0] >= 50 and size[1] >= 50 + 20  # the image below its title
    sheet = np.asarray(Image.open("one/contact_sheet.png"))
    assert sheet.shape[0] == 240 + 20 + 16 and sheet.std() > 10


@pytest.mark.parametrize(
    "task, split",
    [(t, s) for t in ("detection", "segmentation") for s in ("train", "val")]
    + [("classification", "train")],
)
def test_labels_are_drawn_into_what_the_model_gets(task, split, project):
    """In testing, where labels are of the file's size, into the image at that size."""
    cfg = Config.fromfile(TASKS[task][0])
    browser = Browser(cfg, build_dataset(cfg, split), split)
    set_random_seed(1)
    drawn, path, title = browser.picture(0)
    set_random_seed(1)
    item = browser.dataset[0]
    sample = item["data_samples"]
    plain = item["inputs"].permute(1, 2, 0).numpy()[..., ::-1]
    height, width = plain.shape[:2]
    file = sample.ori_shape
    assert title == f"{Path(path).name}  {width}×{height} (file {file[1]}×{file[0]})"
    assert Path(path).is_file()
    if task == "classification":
        assert min(drawn.shape[:2]) == 224 and drawn.std() > 5
        return
    if split == "val":
        plain = cv2.resize(np.ascontiguousarray(plain), file[::-1])
    assert drawn.shape == plain.shape
    if task == "segmentation":
        labels = sample.gt_sem_seg.data[0].numpy()
        expected = (plain[..., 0] * 0.5 + 20.0 * labels)[labels < 5]  # red of the palette: 40 k
        near = np.abs(drawn[..., 0][labels < 5] - expected) <= 2
        assert near.mean() > 0.7  # the rest: names of the classes
    else:
        changed = np.abs(drawn.astype(int) - plain).max(-1) > 30
        inside = sample.gt_instances.masks.to_ndarray().any(0)
        assert changed[inside].mean() > 0.5 > changed[~inside].mean()


def test_picture_of_inputs():
    image = torch.arange(24, dtype=torch.uint8).reshape(3, 2, 4)
    assert (picture_of(image) == image.numpy()[::-1].transpose(1, 2, 0)).all()
    normalised = picture_of((image.float() - 12) / 6)
    assert normalised.min() == 0 and normalised.max() == 255
    assert (picture_of(image[:1])[..., 2] == image[0].numpy()).all()


def test_contact_sheet_places():
    """Pictures of one height in cells of one size; the last row may be shorter."""
    pictures = [np.full((10 * (i + 1), 20, 3), 40 * (i + 1), np.uint8) for i in range(3)]
    sheet = np.asarray(contact_sheet(pictures, ["a", "b", "c"], columns=2))
    assert sheet.shape == (8 + 2 * 268, 8 + 2 * 488, 3)
    assert (sheet[100, 100] == 40).all() and (sheet[100, 600] == 80).all()
    assert (sheet[400, 60] == 120).all() and (sheet[400, 600] == 255).all()


def test_broken_image_is_named(project, tool):
    source = (project / "data").resolve()
    (project / "data").unlink()
    shutil.copytree(source / "imagenet", project / "data" / "imagenet")
    broken = sorted((project / "data/imagenet/train").rglob("*.jpg"))[0]
    broken.write_bytes(b"no image")
    status, printed = tool("browse_dataset", CLASSIFIER, "--out", "seen")
    assert status == 1 and "not shown: sample 0: " in printed and "7 of 8 samples" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--cfg-options", "train_dataloader=None"], "no train_dataloader"),
        (["--cfg-options", "train_dataloader.dataset.indices=x"], "cannot be built (TypeError: "),
        (["--cfg-options", "train_dataloader.dataset.indices=0"], "has no image left: indices=0."),
    ],
)
def test_bad_arguments(arguments, message, project, tool):
    status, printed = tool("browse_dataset", CLASSIFIER, "--out", "seen", *arguments)
    assert status == 2 and message in printed and "Traceback" not in printed
    assert not Path("seen").exists()
