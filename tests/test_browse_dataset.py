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


@pytest.mark.parametrize("split, count", [("train", 8), ("val", 6)])
@pytest.mark.parametrize("task", TASKS)
def test_pictures_and_contact_sheet(task, split, count, project, tool):
    arguments = [TASKS[task][0], "--out", "seen", "--split", split, "--num", "4"]
    status, printed = tool("browse_dataset", *arguments)
    assert status == 0 and f"4 of {count} samples of {split}: seen/contact_sheet.png" in printed
    files = sorted(Path("seen").glob("0*.png"))
    assert [int(f.name[:6]) for f in files] == {8: [0, 2, 5, 7], 6: [0, 2, 3, 5]}[count]
    size = Image.open(files[0]).size
    assert size[0] >= 50 and size[1] >= 50 + 20  # the image below its title
    sheet = np.asarray(Image.open("seen/contact_sheet.png"))
    assert sheet.shape[0] == 240 + 20 + 16 and sheet.std() > 10


def check_drawn(task, drawn, plain, sample):
    """Labels lie where the sample has them."""
    assert drawn.shape == plain.shape
    if task == "segmentation":
        labels = sample.gt_sem_seg.data[0].numpy()
        expected = (plain[..., 0] * 0.5 + 20.0 * labels)[labels < 5]  # red of the palette: 40 k
        near = np.abs(drawn[..., 0][labels < 5] - expected) <= 2
        assert near.mean() > 0.7  # the rest: names of the classes
        return
    changed = np.abs(drawn.astype(int) - plain).max(-1) > 30
    inside = sample.gt_instances.masks.to_ndarray().any(0)
    assert changed[inside].mean() > 0.5 > changed[~inside].mean()


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("task", TASKS)
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
    check_drawn(task, drawn, plain, sample)


def test_augmentation_is_repeatable(project, tool):
    config = [TASKS["segmentation"][0], "--num", "2"]
    flip = ["--cfg-options", "train_dataloader.dataset.pipeline.2.scale=(96,96)"]
    for out in ("one", "two"):
        assert tool("browse_dataset", *config, "--out", out, *flip)[0] == 0
    one, two = (Path(o, "contact_sheet.png").read_bytes() for o in ("one", "two"))
    assert one == two


def test_picture_of_inputs():
    image = torch.arange(24, dtype=torch.uint8).reshape(3, 2, 4)
    assert (picture_of(image) == image.numpy()[::-1].transpose(1, 2, 0)).all()
    normalised = (image.float() - 12) / 6
    found = picture_of(normalised)
    assert found.min() == 0 and found.max() == 255
    assert (picture_of(image[:1])[..., 2] == image[0].numpy()).all()


def test_contact_sheet_places():
    pictures = [np.full((10 * (i + 1), 20, 3), 40 * (i + 1), np.uint8) for i in range(3)]
    sheet = np.asarray(contact_sheet(pictures, ["a", "b", "c"], columns=2))
    assert sheet.shape == (8 + 2 * 268, 3 * 8 + 480 + 240, 3)
    assert (sheet[100, 100] == 40).all() and (sheet[100, 600] == 80).all()
    assert (sheet[400, 60] == 120).all() and (sheet[400, 600] == 255).all()


def test_broken_image_is_named(project, tool):
    source = (project / "data").resolve()
    (project / "data").unlink()
    shutil.copytree(source / "imagenet", project / "data" / "imagenet")
    broken = sorted((project / "data/imagenet/train").rglob("*.jpg"))[0]
    broken.write_bytes(b"no image")
    status, printed = tool("browse_dataset", TASKS["classification"][0], "--out", "seen")
    assert status == 1 and "not shown: sample 0: " in printed and "7 of 8 samples" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--out", "data"], "--out data has files in it"),
        (["--out", "seen", "--num", "0"], "--num: received 0"),
        (["--out", "seen", "--cfg-options", "train_dataloader=None"], "no train_dataloader"),
        (
            ["--out", "seen", "--cfg-options", "train_dataloader.dataset.data_root=nowhere/"],
            "nowhere/train does not exist",
        ),
        (
            ["--out", "seen", "--cfg-options", "train_dataloader.dataset.classes=['a','b']"],
            "data/imagenet/train has another number of folders than of classes: 4 folders, 2 cl",
        ),
        (
            ["--out", "seen", "--cfg-options", "train_dataloader.dataset.indices=x"],
            "train_dataloader cannot be built (TypeError: ",
        ),
        (
            ["--out", "seen", "--cfg-options", "train_dataloader.dataset.indices=0"],
            "CustomDataset data/imagenet/train has no image left: indices=0. Change these",
        ),
    ],
)
def test_bad_arguments(arguments, message, project, tool):
    status, printed = tool("browse_dataset", TASKS["classification"][0], *arguments)
    assert status == 2 and message in printed and "Traceback" not in printed
    assert not Path("seen").exists()
