"""Pictures of the samples that a data set's pipeline feeds the model, with their labels."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.font_manager import findfont
from mmengine.config import Config
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torchvision.utils import make_grid

from mmdualtoken.config_files import type_name
from mmdualtoken.data.check import check_data
from mmdualtoken.data.layout import innermost_datasets
from mmdualtoken.errors import InputError
from mmdualtoken.inference.canvas import Canvas, as_rgb
from mmdualtoken.inference.model import complete_meta, registry

FONT_SIZE = 13  # px
BAR = 20  # px of the bar with the title
CELL = 240  # height in px of a picture on the contact sheet


def build_dataset(cfg: Config, split: str) -> Any:
    """The data set of a split ('train', 'val' or 'test') with its pipeline.

    Raises:
        InputError: the config has no such split, or its data is missing or broken.
    """
    name = f"{split}_dataloader"
    if not cfg.get(name):
        raise InputError(f"The config has no {name}: nothing to show.")
    datasets = registry(cfg, "DATASETS")
    check_data(cfg, name)
    try:
        return datasets.build(cfg[name]["dataset"])
    except Exception as error:  # of many kinds, by data set
        raise InputError(
            f"The data set of {name} cannot be built ({type(error).__name__}: {error}). "
            "`python tools/check_data.py CONFIG` checks all of its files."
        ) from error


def picture_of(inputs: torch.Tensor) -> np.ndarray:
    """An image as the pipeline packs it, (C, H, W) BGR or grey, as (H, W, 3) RGB uint8.

    One that the pipeline has normalised is stretched to the range from 0 to 255.
    """
    image = inputs.float().permute(1, 2, 0).numpy()
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 255 or (high <= 1 and inputs.is_floating_point()):
        image = (image - low) / max(high - low, 1e-12) * 255
    image = image.round().astype(np.uint8)
    return as_rgb(image[..., 0] if image.shape[2] == 1 else np.ascontiguousarray(image[..., :3]))


class Browser:
    """Pictures of a data set's samples, as the model gets them.

    Where the pipeline loads the labels after it has resized the image, as in most pipelines of
    testing, they are of the file's size, and the image is brought back to it.
    """

    def __init__(self, cfg: Config, dataset: Any, split: str = "train"):
        self.dataset = dataset
        inner = next(innermost_datasets(cfg[f"{split}_dataloader"]["dataset"]))
        steps = [type_name(step) for step in inner.get("pipeline") or ()]
        loaded = [
            i for i, name in enumerate(steps) if name.startswith("Load") and "Annotations" in name
        ]
        self.labels_of_file = any("Resize" in name for name in steps[: max(loaded, default=0)])
        self.canvas = Canvas(cfg, complete_meta(dict(dataset.metainfo)))

    def picture(self, index: int) -> tuple[np.ndarray, str, str]:
        """The picture (H, W, 3) RGB of a sample with its labels, its file's path, and a title."""
        item = self.dataset[index]
        sample = item["data_samples"]
        image = picture_of(item["inputs"])
        for name in ("gt_instances", "ignored_instances"):
            boxes = getattr(sample, name, {}).get("bboxes")
            if hasattr(boxes, "tensor"):  # the visualizer takes plain tensors only
                getattr(sample, name).bboxes = boxes.tensor
        path = str(sample.get("img_path") or f"sample {index}")
        height, width = image.shape[:2]
        title = f"{path.rpartition('/')[2]}  {width}×{height}"
        file = tuple(sample.get("ori_shape") or (height, width))[:2]
        if file != (height, width):
            title += f" (file {file[1]}×{file[0]})"
        if self.labels_of_file:
            image = cv2.resize(image, file[::-1])
        return self.canvas.draw(image, sample, labels=True), path, title


def titled(picture: np.ndarray, title: str) -> Image.Image:
    """A picture (H, W, 3) RGB below its title."""
    font = ImageFont.truetype(findfont("DejaVu Sans"), FONT_SIZE)  # matplotlib brings it
    right = max(0, round(font.getlength(title)) + 6 - picture.shape[1])
    sheet = ImageOps.expand(Image.fromarray(picture), (0, BAR, right, 0), "white")
    ImageDraw.Draw(sheet).text((3, 2), title, fill="black", font=font)
    return sheet


def contact_sheet(
    pictures: Sequence[np.ndarray], titles: Sequence[str], columns: int = 4
) -> Image.Image:
    """All pictures in rows, each below its title in a cell of the same size."""
    cells = []
    for picture, title in zip(pictures, titles, strict=True):
        width = max(1, round(picture.shape[1] * CELL / picture.shape[0]))
        cells.append(titled(np.asarray(Image.fromarray(picture).resize((width, CELL))), title))
    size = max(cell.width for cell in cells), CELL + BAR
    cells = [np.asarray(ImageOps.pad(c, size, color="white", centering=(0, 0))) for c in cells]
    tiles = torch.from_numpy(np.stack(cells)).permute(0, 3, 1, 2)
    sheet = make_grid(tiles, nrow=columns, padding=8, pad_value=255)
    return Image.fromarray(sheet.permute(1, 2, 0).numpy())
