"""Does training work at all? Checks on real photos that need no rival."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from learning import data, training
from learning.rows import ROWS
from learning.tasks import TASKS
from narrow import ARCH, WIDTHS
from torch import nn

from mmdualtoken.models import DualTokenViT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
#: Narrow necks and heads, by task.
HEADS = dict(
    cifar10=dict(neck=dict(in_channels=WIDTHS[2], out_channels=64), head=dict(in_channels=64)),
    bccd=dict(
        neck=dict(in_channels=list(WIDTHS), out_channels=32),
        bbox_head=dict(in_channels=32, feat_channels=32),
    ),
    nuclei=dict(
        neck=dict(in_channels=list(WIDTHS), out_channels=32),
        rpn_head=dict(in_channels=32, feat_channels=32),
        roi_head=dict(
            bbox_roi_extractor=dict(out_channels=32),
            mask_roi_extractor=dict(out_channels=32),
            bbox_head=dict(in_channels=32, fc_out_channels=64),
            mask_head=dict(in_channels=32, conv_out_channels=32),
        ),
    ),
    deeplabv3=dict(
        decode_head=dict(in_channels=WIDTHS[2], channels=32),
        auxiliary_head=dict(in_channels=WIDTHS[1], channels=32),
    ),
    pspnet=dict(
        decode_head=dict(in_channels=WIDTHS[2], channels=32),
        auxiliary_head=dict(in_channels=WIDTHS[1], channels=32),
    ),
)


def narrow_training(task, iters, lr, batch):
    """A training of a narrow DualTokenViT with the task's config."""
    task = TASKS[task]
    budget = replace(task.budgets["cpu"], iters=iters, batch=batch, model=HEADS[task.name])
    task = replace(task, budgets=dict(cpu=budget))
    options = dict(arch=dict(ARCH))
    return training.Training(task, replace(ROWS["dualtoken_s"], options=options), "cpu", lr, 0)


@pytest.fixture
def losses_of(tool, tmp_path):
    """Train a config through tools/train.py; returns (losses, validations)."""

    def call(cfg):
        cfg.dump(tmp_path / "config.py")
        work_dir = tmp_path / "work"
        status, printed = tool(
            "train", tmp_path / "config.py", "--work-dir", work_dir, "--no-watch", "--overwrite"
        )
        assert status == 0, printed[-3000:]
        train, validations = training.curves(work_dir)
        return [loss for _, loss, *_ in train], validations

    return call


#: Iterations, learning rate, batch, and the loss that 16 images must come down to. The floor of the
#: classifier is the entropy of its smoothed labels, 0.50; detectors sample anchors and RoIs anew.
OVERFIT = dict(
    cifar10=(150, 2e-3, 16, 0.55),
    bccd=(400, 2e-3, 4, 0.35),
    nuclei=(800, 2e-3, 4, 0.8),
    deeplabv3=(400, 2e-3, 4, 0.4),
    pspnet=(400, 2e-3, 4, 0.4),
)
RANDOM = ("RandomCrop", "RandomFlip", "RandomResize", "PhotoMetricDistortion")


def without_augmentation(cfg, size):
    """Sixteen images that look the same each time, segmentors' of `size` (h, w), and no dropout."""
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.indices = 16
    dataset = cfg.train_dataloader.dataset
    if cfg.default_scope == "mmseg":
        height, width = size
        dataset.pipeline = [
            dict(type="Resize", scale=(width, height)) if t.type == "RandomResize" else t
            for t in dataset.pipeline
        ]
        cfg.model.data_preprocessor.size = (height, width)
        for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
            head.dropout_ratio = 0.0
    dataset.pipeline = [t for t in dataset.pipeline if t["type"] not in RANDOM]


@pytest.mark.parametrize("task", OVERFIT)
def test_sixteen_images_are_learnt_by_heart(task, real_data, losses_of, tmp_path):
    iters, lr, batch, floor = OVERFIT[task]
    one = narrow_training(task, iters, lr, batch)
    data.prepare(one.task.data, tmp_path / "data")
    cfg = training.config_of(one, tmp_path / "data")
    without_augmentation(cfg, one.task.size)
    # The first sixteen of a list sorted by class would be of one class.
    if task == "cifar10":
        listing = tmp_path / "data" / "cifar10" / "train.txt"
        lines = listing.read_text().splitlines()
        listing.write_text("\n".join(lines[::60]) + "\n")
    losses, _ = losses_of(cfg)
    assert losses[0] > 2 * floor
    assert sum(losses[-2:]) / 2 < floor, losses


@pytest.mark.parametrize("shuffled", [False, True])
def test_shuffled_labels_do_not_generalise(shuffled, real_data, losses_of, tmp_path):
    """The right labels are learnt and carry over; shuffled ones leave validation at chance."""
    one = narrow_training("cifar10", 240, 2e-3, 32)
    target = data.prepare("cifar10", tmp_path / "data")
    if shuffled:
        lines = [line.rsplit(" ", 1) for line in (target / "train.txt").read_text().splitlines()]
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(lines), generator=generator).tolist()
        mixed = [f"{name} {lines[i][1]}" for (name, _), i in zip(lines, order, strict=True)]
        (target / "train.txt").write_text("\n".join(mixed) + "\n")
    _, validations = losses_of(training.config_of(one, tmp_path / "data"))
    accuracy = validations[-1]["accuracy/top1"]
    assert 6 < accuracy < 14 if shuffled else accuracy > 25


def test_responding_tokens_move_with_the_object(real_data, tmp_path):
    """A photo pasted on a grey canvas: the tokens that tell it from the canvas are at its place.

    The model is a narrow one, trained to tell frogs from ships at random places.
    """
    target = data.prepare("cifar10", tmp_path / "data")
    images, labels = photos(target, ("frog", "ship"), 300)
    torch.manual_seed(0)
    backbone = DualTokenViT(arch=ARCH, token_mlp="mix", out_indices=(2,))
    head = nn.Linear(WIDTHS[2], 2)
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
    for _ in range(200):
        chosen = torch.randint(500, (16,))
        places = torch.randint(0, CANVAS - 32, (16, 2)).tolist()
        batch = torch.stack([paste(images[i], p) for i, p in zip(chosen, places, strict=True)])
        loss = F.cross_entropy(head(backbone(batch)[0].mean((2, 3))), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    backbone.eval()

    def accuracy(place):
        batch = torch.stack([paste(images[i], place) for i in range(500, 600)])
        return (head(backbone(batch)[0].mean((2, 3))).argmax(1) == labels[500:]).float().mean()

    tokens = []
    module = backbone.stages[1].blocks[-1].token_module
    module.register_forward_hook(
        lambda m, args, out: tokens.append(out[1].view(-1, 7, 7, WIDTHS[1]))
    )

    def centres(place):
        """(row, column), in shares of the grid, of the change by the photo: tokens, last map."""
        tokens.clear()
        with torch.no_grad():
            (seen,) = backbone(torch.stack([paste(images[i], place) for i in range(500, 520)]))
            (empty,) = backbone(paste(None, place)[None])
        return centre_of(tokens[0] - tokens[1]), centre_of((seen - empty).permute(0, 2, 3, 1))

    with torch.no_grad():
        assert accuracy((32, 32)) > 0.7  # it is trained
    low, high = 0, CANVAS - 32
    places = [(y, x) for y in (low, high) for x in (low, high)]
    for corners in zip(*map(centres, places), strict=True):  # of the tokens, of the map
        top_left, top_right, bottom_left, bottom_right = corners
        for left, right in ((top_left, top_right), (bottom_left, bottom_right)):
            assert right[1] - left[1] > max(0.2, 2 * abs(right[0] - left[0]))
        for top, bottom in ((top_left, bottom_left), (top_right, bottom_right)):
            assert bottom[0] - top[0] > max(0.2, 2 * abs(bottom[1] - top[1]))


def centre_of(change):
    """Centre of a change (B, H, W, C), weighted by its square: (row, column) in shares of H, W.

    Every cell has read the whole image: the part of the change that all share is taken off first.
    """
    weight = (change - change.mean((1, 2), keepdim=True)).square().sum((0, 3))
    weight = weight / weight.sum()
    return tuple(
        (weight.sum(1 - axis) @ torch.linspace(0, 1, weight.shape[axis])).item() for axis in (0, 1)
    )


CANVAS = 96  # px


def photos(folder, classes, count):
    """`count` photos of each class as tensors of zero mean, in turn, and their labels."""
    import cv2

    images = [
        torch.from_numpy(cv2.imread(str(folder / "train" / name / f"{i:04}.jpg"))).permute(2, 0, 1)
        for i in range(count)
        for name in classes
    ]
    labels = torch.tensor([label for _ in range(count) for label in range(len(classes))])
    return (torch.stack(images).float() - 120) / 60, labels


def paste(photo, place):
    """A canvas (3, CANVAS, CANVAS) of zeros with the photo at `place` (y, x); without for None."""
    canvas = torch.zeros(3, CANVAS, CANVAS)
    if photo is not None:
        y, x = place
        canvas[:, y : y + 32, x : x + 32] = photo
    return canvas
