"""Comparison of a detector's anchors with its objects, and of their strides with the neck's."""

import copy
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from mmengine.config import Config, ConfigDict

from mmdualtoken.config_files import type_name
from mmdualtoken.data.check.findings import ERROR

#: In the names of transforms that change how large objects are.
GEOMETRY = ("Resize", "Crop", "Affine", "Mosaic", "Expand")
#: Share of objects without an anchor from which on there is a warning.
MANY = 0.1


def scales_of(pipeline: Iterable[dict]) -> list[tuple[int, int]] | None:
    """Return the sizes (long side, short side) within which the pipeline fits images.

    None unless one Resize that keeps the ratio of sides, or RandomChoiceResize, decides alone.
    """
    steps = [step for step in pipeline if any(word in str(step) for word in GEOMETRY)]
    if len(steps) != 1:
        return None
    (step,) = steps
    kind = str(step["type"]).removeprefix("mmdet.")
    scales = [step.get("scale")] if kind == "Resize" else step.get("scales")
    if kind not in ("Resize", "RandomChoiceResize") or not step.get("keep_ratio"):
        return None
    pairs = all(isinstance(scale, (list, tuple)) and len(scale) == 2 for scale in scales or [None])
    return [(max(scale), min(scale)) for scale in scales] if pairs else None


#: mmdet's necks whose levels begin at the map of `start_level`.
STARTING_NECKS = ("FPN", "PAFPN", "NASFPN", "FPN_CARAFE")


def stride_rules(model: ConfigDict) -> Iterator[tuple[str, str, str, str]]:
    """Compare the stride of the first level of an FPN on our backbone with that of the head.

    mmdet does not: with other strides than the anchors', a training runs, and learns little.
    """
    backbone, neck = model.get("backbone") or {}, model.get("neck") or {}
    first = dict(DualTokenViT=8, DualTokenViTStride4=4).get(type_name(backbone))
    if not first:
        return
    if isinstance(neck, (list, tuple)):  # Libra R-CNN, DyHead: what follows the FPN keeps strides
        neck = neck[0] if neck else {}
    head = model.get("rpn_head") or model.get("bbox_head") or {}
    strides = (head.get("anchor_generator") or head).get("strides")
    extractor = (model.get("roi_head") or {}).get("bbox_roi_extractor")
    if not strides and isinstance(extractor, dict):  # Sparse R-CNN: proposals without anchors
        strides = extractor.get("featmap_strides")
    name = type_name(neck)
    if not strides or name not in ("DualTokenFPN", *STARTING_NECKS):
        return
    if name == "DualTokenFPN":
        first = 4
    elif first == 8:
        indices = backbone.get("out_indices", (0, 1, 2))
        first <<= min([indices] if isinstance(indices, int) else indices)
    if name != "DualTokenFPN":
        first <<= neck.get("start_level", 0)
    wanted = strides[0][0] if isinstance(strides[0], (list, tuple)) else strides[0]
    if first != round(wanted):  # YOLACT has 550 / 69
        kind = f"the levels of the neck begin at stride {first}, those of the head at {wanted}"
        remedy = "for levels from stride 8 on take type='FPN' with start_level=0, for levels from "
        yield ERROR, kind, "", remedy + "stride 4 on type='DualTokenFPN' (configs/mmdet/README.md)"


def anchors_of(model: ConfigDict) -> tuple[np.ndarray, float] | None:
    """Return the sizes (n, 2) of the anchors that see the whole image, and the overlap needed.

    None where the head has no anchors, or matches them otherwise than by MaxIoUAssigner.
    """
    from mmdet.registry import TASK_UTILS  # without mmdet there is no detector to check

    head = model.get("rpn_head") or model.get("bbox_head") or {}
    train = model.get("train_cfg") or {}
    assigner = (train.get("rpn") or train).get("assigner") or {}
    generator = head.get("anchor_generator") or {}
    if generator.get("type") != "AnchorGenerator" or assigner.get("type") != "MaxIoUAssigner":
        return None
    levels = TASK_UTILS.build(copy.deepcopy(generator)).base_anchors
    boxes = np.concatenate([level.numpy() for level in levels])
    needed = assigner["pos_iou_thr"]
    if assigner.get("match_low_quality", True):
        needed = min(needed, assigner.get("min_pos_iou", 0.0))
    return boxes[:, 2:] - boxes[:, :2], needed


def best_overlaps(sizes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Return the largest IoU of each box of `sizes` (m, 2) with `anchors` (n, 2) around it."""
    from mmdet.structures.bbox import bbox_overlaps

    first, second = (torch.from_numpy(np.hstack([-s, s]) / 2) for s in (sizes, anchors))
    return bbox_overlaps(first, second).amax(1).numpy()


def unmatched(
    cfg: Config, pipeline: Iterable[dict], images: np.ndarray, boxes: np.ndarray
) -> tuple[str, str] | None:
    """Return detail and remedy of a warning if many objects have no anchor; None otherwise.

    Two boxes overlap most around one centre, so an object counted here has no anchor wherever it
    lies. Where an image is resized in several ways, the best of them counts. `images` and `boxes`,
    (m, 2), are width and height of each object's image and of the object.
    """
    scales = scales_of(pipeline)
    found = anchors_of(cfg.get("model") or {}) if scales and len(boxes) else None
    if found is None:
        return None
    anchors, needed = found
    overlaps, seen = np.zeros(len(boxes)), boxes
    for long, short in scales:
        factors = np.minimum(long / images.max(1), short / images.min(1))
        sizes = boxes * factors[:, None]
        here = best_overlaps(sizes, anchors)
        seen = np.where((here > overlaps)[:, None], sizes, seen)
        overlaps = np.maximum(overlaps, here)
    lost = overlaps < needed
    if lost.mean() < MANY:
        return None
    width, height = np.median(seen[lost], axis=0)
    areas = anchors.prod(-1) ** 0.5
    detail = (
        f"{lost.sum()} of {len(boxes)}, {width:.0f}x{height:.0f} px in the median as the model "
        f"sees them; anchors have {areas.min():.0f} to {areas.max():.0f} px, and an overlap of "
        f"{needed:g} is needed"
    )
    remedy = (
        "the model hardly learns these: set scales of the head's anchor_generator (a level's "
        "smallest anchor is scale x stride), or scale of Resize in the pipelines"
    )
    return detail, remedy
