"""How far apart are two classes in the maps of backbones that have learnt nothing yet?

    python benchmarks/separation.py                          # BCCD's white cells from its red ones
    python benchmarks/separation.py --rows dualtoken_s small-stem_contrast --seeds 9

Rows and data are those of benchmarks/learn.py. For each map at stride 8, 16 and 32: the squared
distance of the mean features at the boxes' centres of the two classes, in parts of the variance of
all features of the map (what a step of gradient descent on a linear head sees of the classes
beside all else), as the median over seeds of the initialisation. BatchNorm takes its statistics of
the images, as in training.
"""

import argparse
import logging
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from learning import data, training
from learning.rows import DEFAULT, ROWS, choose
from learning.tasks import TASKS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import set_random_seed
from mmengine.utils import import_modules_from_strings
from suite.machine import describe
from suite.results import keep, new_folder, show

from mmdualtoken.cli import run_tool
from mmdualtoken.errors import InputError

STRIDES = (8, 16, 32)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="as of learn.py")
    parser.add_argument(
        "--classes", nargs=2, type=int, default=(0, 1), help="0 RBC, 1 WBC, 2 platelets (0 1)"
    )
    parser.add_argument("--images", type=int, default=32, help="of the training data (32)")
    parser.add_argument("--seeds", type=int, default=5, help="initialisations per row (5)")
    parser.add_argument("--out", help="new folder for the CSV")
    return parser.parse_args()


def distance(
    features: torch.Tensor, boxes: list[torch.Tensor], labels: list[torch.Tensor], classes: tuple
) -> float:
    """Squared distance of two classes' mean features, over the variance of all features.

    Args:
        features: a map (B, C, H, W).
        boxes: per image, (n, 4) as x1, y1, x2, y2 in parts of the image's width and height.
        labels: per image, (n,).
        classes: the two labels.
    """
    height, width = features.shape[2:]
    means = []
    for label in classes:
        found = []
        for one, own, names in zip(features, boxes, labels, strict=True):
            own = own[names == label]
            x = ((own[:, 0] + own[:, 2]) / 2 * width).long().clamp(max=width - 1)
            y = ((own[:, 1] + own[:, 3]) / 2 * height).long().clamp(max=height - 1)
            found.append(one[:, y, x].T)
        means.append(torch.cat(found).mean(0))
    variance = features.var((0, 2, 3), correction=0).sum()
    return ((means[0] - means[1]).square().sum() / variance).item()


def batch_of(cfg: Config, images: int) -> dict:
    """The first `images` training images with their boxes, as the loader's collate gives them."""
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    set_random_seed(0)  # the same flips for all
    return pseudo_collate([dataset[i] for i in range(min(images, len(dataset)))])


@torch.no_grad()
def distances(cfg: Config, batch: dict, seed: int, classes: tuple) -> list[float]:
    """`distance` in the maps at STRIDES of the config's backbone, fresh from this seed."""
    set_random_seed(seed)
    model = MODELS.build(cfg.model)
    logging.disable(logging.WARNING)  # it names each parameter
    try:
        model.init_weights()
    finally:
        logging.disable(logging.NOTSET)
    batch = model.train().data_preprocessor(batch, False)
    inputs = batch["inputs"]
    size = torch.tensor([inputs.shape[3], inputs.shape[2]] * 2)
    truths = [sample.gt_instances for sample in batch["data_samples"]]
    boxes = [t.bboxes / size for t in truths]
    labels = [t.labels for t in truths]
    for label in classes:
        if not any((own == label).any() for own in labels):
            raise InputError(
                f"--classes {classes[0]} {classes[1]}: no box of label {label} in {len(labels)} "
                "images; give more --images, or another label."
            )
    maps = {round(inputs.shape[2] / m.shape[2]): m for m in model.backbone(inputs)}
    return [distance(maps[stride], boxes, labels, classes) for stride in STRIDES]


def main() -> None:
    """Command line."""
    args = parse_args()
    task = TASKS["bccd"]
    if len(set(args.classes)) == 1:
        raise InputError(f"--classes {args.classes[0]} {args.classes[1]}: give two that differ.")
    rows = choose(args.rows or [*DEFAULT, "small-stem_contrast", "tiny-stem_contrast"])
    if unfit := [row.name for row in rows if not row.fits(task)]:
        raise InputError(f"--rows {' '.join(unfit)}: not for {task.name}; of {', '.join(ROWS)}")
    folder = new_folder("separation", args.out)
    lines = []
    with TemporaryDirectory() as prepared:
        data.prepare(task.data, Path(prepared))
        for row in rows:
            cfg = training.config_of(training.Training(task, row, "cpu", 1e-3, 0), Path(prepared))
            init_default_scope(cfg.default_scope)
            import_modules_from_strings(**cfg.custom_imports)
            batch = batch_of(cfg, args.images)
            found = [distances(cfg, batch, s, tuple(args.classes)) for s in range(args.seeds)]
            values = {
                f"stride {stride}": median(column)
                for stride, column in zip(STRIDES, zip(*found, strict=True), strict=True)
            }
            lines.append({"row": row.name, **values})
    machine = describe(torch.device("cpu"))
    keep(folder, "separation", lines, machine)
    show(
        f"Squared distance of classes {args.classes[0]} and {args.classes[1]} of {task.name}, in "
        "parts of all variance, before training",
        lines,
        [f"{key}: {value}" for key, value in machine.items()],
    )


if __name__ == "__main__":
    run_tool(main)
