"""A file's results compared with those of the toolbox's own `predict`."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torchvision.ops import box_iou

from mmdualtoken.data.layout import innermost_datasets
from mmdualtoken.errors import InputError
from mmdualtoken.inference.predictor import Preparer

#: Most that boxes (pixels), scores and IoUs with a neighbour may differ, and least IoU of masks.
BOX, SCORE, IOU, MASK_IOU = 0.01, 1e-4, 1e-3, 0.999
#: A probability so close to the threshold of masks is a tie.
MARGIN = 1e-3
#: Largest share of pixels with another label, where two classes are equal but for rounding.
SHARE = 1e-3
#: Batch, height and width of the photos: sizes that the graph was not recorded with, none square.
SIZES = ((2, 203, 331), (1, 384, 250))


@dataclass
class Agreement:
    """How far a file's results are from PyTorch's.

    Attributes:
        what: what was compared.
        count: objects, pixels or scores compared.
        worst: largest difference: of matched boxes in pixels, of scores; share of labels that
            differ.
        ties: objects that differ where rounding decides: at the IoU of the NMS, or at the last
            score that is kept.
        wrong: objects that differ otherwise, or values beyond the limit.
        mask_iou: of all matched masks of an image together, without the pixels where rounding
            decides; None without masks.
    """

    what: str
    count: int = 0
    worst: float = 0.0
    worst_score: float = 0.0
    ties: int = 0
    wrong: int = 0
    mask_iou: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the file is as good as the model: 1 in 50 objects may differ unexplained.

        A tie among the proposals of an RPN moves objects that are themselves no ties.
        """
        masks_agree = self.mask_iou is None or self.mask_iou >= MASK_IOU
        return masks_agree and self.wrong <= self.count // 50

    def __str__(self) -> str:
        if self.what != "objects":
            return f"{self.count} {self.what}, largest difference {self.worst:.1e}"
        text = (
            f"{self.count} objects, boxes within {self.worst:.1e} pixels, scores within "
            f"{self.worst_score:.1e}, {self.ties} ties, {self.wrong} others that differ"
        )
        return text if self.mask_iou is None else f"{text}, IoU of masks {self.mask_iou:.5f}"


def photos(cfg: Config, given: list[str], channels: int) -> list[np.ndarray]:
    """Images (H, W) or (H, W, C) as the config reads them: those given, or of its test set.

    Where the test set is not on this machine, photos that scikit-image brings.

    Raises:
        InputError: a given file cannot be read, or has another number of channels.
    """
    read = Preparer(cfg).read
    files = list(given)
    loader = cfg.get("test_dataloader") or cfg.get("val_dataloader")
    for dataset in () if given or not loader else innermost_datasets(loader["dataset"]):
        prefix = dataset.get("data_prefix") or {}
        prefix = prefix if isinstance(prefix, str) else next(iter(prefix.values()), "")
        folder = Path(dataset.get("data_root") or "", prefix or "")
        found = (f for f in folder.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
        files += [str(file) for file in sorted(found)[:4]]
    if not files:
        import skimage

        folder = Path(skimage.__file__).parent / "data"
        images = [cv2.imread(str(folder / f"{name}.png")) for name in ("astronaut", "coffee")]
        if channels != 3:
            images = [np.stack([image.mean(-1)] * channels, -1).astype("u1") for image in images]
        return images
    images = [read(file) for file in files]
    for file, image in zip(files, images, strict=True):
        number = image.shape[2] if image.ndim == 3 else 1
        if number != channels:
            raise InputError(f"{file} has {number} channels; the model takes {channels}.")
    return images


def packed(images: list[np.ndarray], scope: str) -> dict:
    """Images of one size as a data loader gives them."""
    samples = import_module(f"{scope}.structures")
    name = dict(mmdet="DetDataSample", mmseg="SegDataSample", mmpretrain="DataSample")[scope]
    size = images[0].shape[:2]
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0))
    tensors = [torch.from_numpy(np.atleast_3d(image)).permute(2, 0, 1) for image in images]
    return dict(
        inputs=torch.stack(tensors) if scope == "mmpretrain" else tensors,
        data_samples=[getattr(samples, name)(metainfo=meta) for _ in images],
    )


def compare(model: nn.Module, deployed: nn.Module, cfg: Config, images: list) -> Agreement:
    """Compare predictions on photos at `SIZES`."""
    head = getattr(model, "roi_head", None) or getattr(model, "bbox_head", None)
    total = None
    for batch, height, width in SIZES:
        chosen = [cv2.resize(images[i % len(images)], (width, height)) for i in range(batch)]
        with torch.no_grad():
            expected, actual = (
                m.test_step(packed(chosen, cfg.default_scope)) for m in (model, deployed)
            )
        for pair in zip(expected, actual, strict=True):
            found = compare_samples(*pair, getattr(head, "test_cfg", None) or {})
            total = found if total is None else merge(total, found)
    return total


def merge(a: Agreement, b: Agreement) -> Agreement:
    """Both together."""
    return Agreement(
        a.what,
        a.count + b.count,
        max(a.worst, b.worst),
        max(a.worst_score, b.worst_score),
        a.ties + b.ties,
        a.wrong + b.wrong,
        min((v for v in (a.mask_iou, b.mask_iou) if v is not None), default=None),
    )


def compare_samples(expected: BaseDataElement, actual: BaseDataElement, cfg: dict) -> Agreement:
    """Compare two predictions on one image; `cfg` is where a detector cuts, its head's test_cfg."""
    if "pred_score" in expected:
        worst = float((expected.pred_score - actual.pred_score).abs().max())
        count = len(expected.pred_score)
        wrong = 0 if worst <= SCORE else count  # no score is a tie; NaN is wrong
        return Agreement("scores", count, worst, wrong=wrong)
    if "pred_sem_seg" in expected:
        a, b = expected.pred_sem_seg.data.long(), actual.pred_sem_seg.data.long()
        share = float((a != b).double().mean())
        wrong = a.numel() * (share > SHARE)
        return Agreement("pixels, share of other labels", a.numel(), share, wrong=wrong)
    return compare_objects(expected.pred_instances, actual.pred_instances, cfg)


def compare_objects(expected: BaseDataElement, actual: BaseDataElement, cfg: dict) -> Agreement:
    """Match the objects of two predictions one to one, the closest first.

    Pixels that `actual.near` marks are not compared.
    """
    a, b = expected, actual
    gap = (a.bboxes[:, None] - b.bboxes[None]).abs().amax(-1)
    score_gap = (a.scores[:, None] - b.scores[None]).abs()
    same = (a.labels[:, None] == b.labels[None]) & (gap <= BOX) & (score_gap <= SCORE)
    pairs, left = [], same.clone()
    for i in range(len(a.bboxes)):
        if left[i].any():
            j = int(torch.where(left[i], gap[i], torch.inf).argmin())
            pairs.append((i, j))
            left[:, j] = False
    result = Agreement("objects", len(a.bboxes))
    for i, j in pairs:
        result.worst = max(result.worst, float(gap[i, j]))
        result.worst_score = max(result.worst_score, float(score_gap[i, j]))
    for one, other, matched in ((a, b, {i for i, _ in pairs}), (b, a, {j for _, j in pairs})):
        for i in set(range(len(one.bboxes))) - matched:
            tie = is_tie(one, i, one, cfg) or is_tie(one, i, other, cfg)
            result.ties, result.wrong = result.ties + tie, result.wrong + (not tie)
    if "masks" in a and pairs:
        rows, columns = (list(k) for k in zip(*pairs, strict=True))
        first, second = a.masks[rows], b.masks[columns]
        differs, union = first ^ second, (first | second).sum()
        if "near" in b:
            differs = differs & ~b.near[columns]
        result.mask_iou = 1 - float(differs.sum() / union.clamp(min=1))
    return result


def is_tie(one: BaseDataElement, index: int, among: BaseDataElement, cfg: dict) -> bool:
    """Whether rounding decides that the object `index` of `one` is kept.

    Those of `among` may suppress it; `cfg` has `nms`, `score_thr` and `max_per_img`.
    """
    score, box = one.scores[index], one.bboxes[index]
    full = len(among.scores) >= cfg["max_per_img"]
    limits = [cfg.get("score_thr", 0.0)] + ([float(among.scores.min())] if full else [])
    if min(abs(float(score) - limit) for limit in limits) <= SCORE:
        return True
    better = among.scores > score - SCORE
    if not cfg["nms"].get("class_agnostic"):
        better = better & (among.labels == one.labels[index])
    ious: Tensor = box_iou(box[None], among.bboxes[better])
    return bool(((ious - cfg["nms"]["iou_threshold"]).abs() <= IOU).any())
