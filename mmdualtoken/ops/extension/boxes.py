"""Non-maximum suppression of boxes (N, 4): x1, y1, x2, y2 in pixels."""

import struct

import numpy as np
import torch
import torchvision
from torch import Tensor

from .precision import computable

__all__ = ["nms", "nms_match", "softnms"]


def single(value: float) -> float:
    """``value`` rounded to float32: mmcv compares IoUs with thresholds of that precision."""
    return struct.unpack("f", struct.pack("f", value))[0]


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes kept, by falling score.

    A box is dropped if its IoU with a kept box of higher score exceeds ``iou_threshold``.

    Args:
        boxes: (N, 4); half precision is computed in float32.
        scores: (N,).
        offset: 1 counts the far corner's pixel: widths are x2 - x1 + 1.
    """
    boxes, scores = computable(boxes, scores)
    if offset:  # the same overlaps and areas as widths one larger
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return torchvision.ops.nms(boxes, scores, single(iou_threshold))


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lowers scores of overlapping boxes; returns the indices (M,) of those that stay.

    Args:
        boxes: (N, 4), on the CPU, where mmcv.ops brings them.
        scores: (N,).
        dets: (N, 5), receives boxes and new scores of those that stay in its first M rows.
        iou_threshold: from which IoU on methods 0 and 1 act.
        sigma: of method 2.
        min_score: a box whose score falls below is dropped.
        method: 0 naive (weight 0), 1 linear (1 - IoU), 2 gaussian (exp(-IoU² / sigma)).
        offset: as in ``nms``.
    """
    # NumPy, since each step is a few operations on short arrays.
    corners, scores = boxes.float().numpy(), scores.float().numpy().copy()
    areas = np.prod(corners[:, 2:] - corners[:, :2] + offset, 1)
    order = np.arange(len(corners))
    threshold, minimum = np.float32(iou_threshold), np.float32(min_score)
    first = 0
    while first < len(order):
        best = first + scores[order[first:]].argmax()
        order[first], order[best] = order[best], order[first]
        box, rest = corners[order[first]], order[first + 1 :]
        size = np.minimum(box[2:], corners[rest, 2:]) - np.maximum(box[:2], corners[rest, :2])
        inter = np.prod(np.maximum(size + offset, 0), 1)
        with np.errstate(invalid="ignore"):  # two boxes without extent: NaN, which is no overlap
            ious = inter / (areas[order[first]] + areas[rest] - inter)
        if method == 2:
            scores[rest] *= np.exp(-(ious * ious) / np.float32(sigma))
        else:
            scores[rest] *= np.where(ious >= threshold, (1 - ious) * method, np.float32(1))
        order = np.concatenate([order[: first + 1], drop(rest, scores[rest] < minimum)])
        first += 1
    dets[: len(order), :4] = torch.from_numpy(corners[order])
    dets[: len(order), 4] = torch.from_numpy(scores[order])
    return torch.from_numpy(order)


def drop(items: np.ndarray, dropped: np.ndarray) -> np.ndarray:
    """``items`` without those ``dropped``, each gap filled with the last item that stays.

    Boxes of equal score are taken in the order that this leaves, which is mmcv's.
    """
    count = np.count_nonzero(~dropped)
    kept = items[:count].copy()
    kept[dropped[:count]] = items[count:][~dropped[count:]][::-1]
    return kept


def nms_match(dets: Tensor, iou_threshold: float) -> list:
    """Groups of indices: a kept box, then those it suppresses, each by falling score.

    ``dets`` (N, 5) are boxes and scores. A box with the threshold's IoU or a higher one belongs to
    the group.
    """
    boxes, scores = dets[:, :4].float(), dets[:, 4]
    remaining = scores.sort(descending=True, stable=True)[1]
    threshold, groups = single(iou_threshold), []
    while len(remaining):
        kept, others = remaining[0], remaining[1:]
        matched = torchvision.ops.box_iou(boxes[kept][None], boxes[others])[0] >= threshold
        groups.append([int(kept), *others[matched].tolist()])
        remaining = others[~matched]
    return groups
