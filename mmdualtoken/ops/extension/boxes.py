"""Non-maximum suppression of boxes (N, 4): x1, y1, x2, y2 in pixels."""

import struct

import torch
import torchvision
from torch import Tensor

from .precision import computable


def single(value: float) -> float:
    """``value`` rounded to float32: mmcv compares IoUs with thresholds of that precision."""
    return struct.unpack("f", struct.pack("f", value))[0]


def ious_with(box: Tensor, boxes: Tensor, offset: int) -> Tensor:
    """IoU (N,) of one box (4,) with boxes (N, 4). ``offset`` 1 counts the far corner's pixel."""
    size = (torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])) + offset
    inter = size.clamp(min=0).prod(1)
    area = (box[2:] - box[:2] + offset).prod()
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(1)
    return inter / (area + areas - inter)


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
        boxes: (N, 4).
        scores: (N,).
        dets: (N, 5), receives boxes and new scores of those that stay in its first M rows.
        iou_threshold: from which IoU on methods 0 and 1 act.
        sigma: of method 2.
        min_score: a box whose score falls below is dropped.
        method: 0 naive (weight 0), 1 linear (1 - IoU), 2 gaussian (exp(-IoU² / sigma)).
        offset: as in ``nms``.
    """
    boxes, scores = boxes.float(), scores.float().clone()
    order = torch.arange(len(boxes), device=boxes.device)
    threshold, minimum = single(iou_threshold), single(min_score)
    first = 0
    while first < len(order):
        best = first + int(scores[order[first:]].argmax())
        order[[first, best]] = order[[best, first]]
        rest = order[first + 1 :]
        ious = ious_with(boxes[order[first]], boxes[rest], offset)
        if method == 2:
            weights = torch.exp(-(ious * ious) / sigma)
        else:
            weights = torch.where(ious >= threshold, 1 - ious if method else 0 * ious, 1.0)
        scores[rest] *= weights
        order = torch.cat([order[: first + 1], drop(rest, scores[rest] < minimum)])
        first += 1
    dets[: len(order)] = torch.cat([boxes[order], scores[order, None]], 1)
    return order


def drop(items: Tensor, dropped: Tensor) -> Tensor:
    """``items`` without those ``dropped``, each gap filled with the last item that stays.

    Boxes of equal score are taken in the order that this leaves, which is mmcv's.
    """
    count = int((~dropped).sum())
    kept = items[:count].clone()
    kept[dropped[:count]] = items[count:][~dropped[count:]].flip(0)
    return kept


def nms_match(dets: Tensor, iou_threshold: float) -> list:
    """Groups of indices: a kept box, then those it suppresses, each by falling score.

    Args:
        dets: (N, 5), boxes and scores.
        iou_threshold: a box with this IoU or a higher one belongs to the group.
    """
    boxes, scores = dets[:, :4].float(), dets[:, 4]
    remaining = scores.sort(descending=True, stable=True)[1]
    threshold, groups = single(iou_threshold), []
    while len(remaining):
        kept, others = remaining[0], remaining[1:]
        matched = ious_with(boxes[kept], boxes[others], 0) >= threshold
        groups.append([int(kept), *others[matched].tolist()])
        remaining = others[~matched]
    return groups
