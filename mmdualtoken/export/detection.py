"""Detections inside a recorded graph: decoding, NMS, RoIAlign and RoI heads of mmdet.

mmdet's own code loops over images and decides by values, which no graph holds. Everything here has
a batch axis instead, and ends in as many rows as the image with most of them has.
"""

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn

from mmdualtoken.errors import InputError
from mmdualtoken.export.measure import stages_of

INT64_MAX = 2**63 - 1


@torch.library.custom_op("mmdualtoken::nms", mutates_args=())
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    """ONNX's NonMaxSuppression, which torch has for one image and one class alone.

    Args:
        boxes: (B, N, 4).
        scores: (B, C, N); each image and class on its own.
        iou_threshold: a box is dropped if its IoU with a kept one of higher score exceeds this.
        score_threshold: boxes need a higher score.

    Returns:
        (M, 3): image, class and box of those kept.
    """
    found = [boxes.new_zeros((0, 3), dtype=torch.int64)]
    for image, label in (scores > score_threshold).any(2).nonzero().tolist():
        index = (scores[image, label] > score_threshold).nonzero()[:, 0]
        kept = torchvision.ops.nms(boxes[image, index], scores[image, label, index], iou_threshold)
        where = torch.tensor([image, label]).expand(len(kept), 2)
        found.append(torch.cat([where, index[kept, None]], 1))
    return torch.cat(found)


@nms.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    return boxes.new_empty((torch.library.get_ctx().new_dynamic_size(), 3), dtype=torch.int64)


def onnx_nms(boxes: object, scores: object, iou_threshold: float, score_threshold: float) -> object:
    """`nms` as torch.onnx writes it."""
    from onnxscript import opset20

    return opset20.NonMaxSuppression(boxes, scores, INT64_MAX, iou_threshold, score_threshold)


def top(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row of (B, N), or all: values and indices, in falling order."""
    return torch.topk(values, torch.sym_min(count, values.shape[1]))


def pick(values: Tensor, index: Tensor) -> Tensor:
    """Rows (B, K, D) of (B, N, D) by index (B, K)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def inside(boxes: Tensor, size: Sequence[int], coder: nn.Module) -> Tensor:
    """Boxes (..., 4) cut at the borders of an image, if their coder says so."""
    if not getattr(coder, "clip_border", True):
        return boxes
    height, width = size
    limits = (width, height, width, height)
    columns = zip(boxes.unbind(-1), limits, strict=True)
    return torch.stack([column.clamp(0, limit) for column, limit in columns], -1)


def large_enough(boxes: Tensor, cfg: dict) -> Tensor:
    """Which boxes (..., 4) have the sides that `min_bbox_size` asks for."""
    limit = cfg.get("min_bbox_size", -1)
    sides = boxes[..., 2:] - boxes[..., :2]
    return (sides > limit).all(-1) if limit >= 0 else torch.ones_like(sides[..., 0]) > 0


def suppress(boxes: Tensor, scores: Tensor, cfg: dict, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """NMS of each group of each image, and the best of all groups.

    Args:
        boxes: (B, G, N, 4), or (B, 1, N, 4) for the same boxes in all groups.
        scores: (B, G, N); 0 is no candidate.
        count: how many to keep per image.

    Returns:
        Scores in falling order, 0 where an image has fewer than the one with most; groups; indices
        of the boxes. Each is (B, K), and K at least 1.
    """
    batch, groups, number = scores.shape
    shared = boxes.shape[1] == 1
    # Four columns put together again: OpenVINO loses sight of their number in a reshape.
    boxes = torch.stack([column.reshape(-1, number) for column in boxes.unbind(-1)], -1)
    rows = scores if shared else scores.reshape(-1, 1, number)
    kept = nms(boxes, rows, cfg["iou_threshold"], 0.0)
    flat = (kept[:, 0] * rows.shape[1] + kept[:, 1]) * number + kept[:, 2]
    survives = torch.zeros(batch * groups * number).scatter(0, flat, 1.0)
    scores, index = top(scores.flatten(1) * survives.view(batch, -1), count)
    most = (scores > 0).sum(1).max().clamp(min=1).item()
    torch._check(most >= 1)
    torch._check(most <= scores.shape[1])
    index, scores = index[:, :most], scores[:, :most]
    for cut in (index, scores):
        torch._check(cut.shape[1] == most)  # for torch a new size, where it does not see the above
    # Tables, since torch.onnx writes no division by a size that is not known.
    group = torch.arange(groups)[:, None].expand(-1, number).flatten()[index]
    return scores, group, torch.arange(number).expand(groups, -1).flatten()[index]


def from_dense_head(
    head: nn.Module, outputs: Sequence, cfg: dict, size: Sequence[int], by_level: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of a head that decodes as mmdet's BaseDenseHead or GFLHead.

    Args:
        outputs: of its forward: scores, boxes and, of some heads, a factor of the scores; each a
            list by level of (B, priors x D, H, W).
        cfg: its test_cfg.
        size: height and width of the images without padding.
        by_level: an RPN's way: NMS by level instead of class, no threshold of scores.

    Returns:
        Boxes (B, N, 4) in pixels, scores (B, N) in falling order and labels (B, N); an image with
        fewer ends in boxes 0, scores 0 and labels -1.
    """
    maps = [level.shape[-2:] for level in outputs[0]]
    grids = head.prior_generator.grid_priors(maps, dtype=outputs[0][0].dtype, device="cpu")
    found = []
    for level, (values, grid) in enumerate(zip(zip(*outputs, strict=True), grids, strict=True)):
        batch, classes = values[0].shape[0], head.cls_out_channels
        logits, offsets, *factor = (v.permute(0, 2, 3, 1) for v in values)
        logits = logits.reshape(batch, -1, classes)
        scores = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(-1)[..., :-1]
        classes = scores.shape[-1]
        scores, index = top(scores.flatten(1), cfg["nms_pre"])
        place, label = index // classes, index % classes
        if not by_level:
            scores = torch.where(scores > cfg.get("score_thr", 0), scores, 0.0)
        if factor:
            scores = scores * factor[0].reshape(batch, -1).sigmoid().gather(1, place)
        priors = grid[place.flatten()]
        if hasattr(head, "integral"):  # GFLHead: a distribution over distances, in strides
            bins = head.reg_max + 1
            offsets = pick(offsets.reshape(batch, -1, 4 * bins), place).reshape(-1, 4, bins)
            distances = (offsets.softmax(-1) * head.integral.project).sum(-1)
            offsets = distances * head.prior_generator.strides[level][0]
            priors = head.anchor_center(priors)
        else:
            offsets = offsets.reshape(batch, -1, head.bbox_coder.encode_size)
            offsets = pick(offsets, place).flatten(0, 1)
        boxes = head.bbox_coder.decode(priors, offsets).view(batch, -1, 4)
        found.append((boxes, scores, label, torch.full_like(label, level)))
    boxes, scores, labels, levels = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    boxes = inside(boxes, size, head.bbox_coder)
    scores = scores * large_enough(boxes, cfg)
    groups, number = (levels, len(grids)) if by_level else (labels, classes)
    if cfg["nms"].get("class_agnostic"):
        groups, number = torch.zeros_like(groups), 1
    apart = groups[:, None] == torch.arange(number)[None, :, None]
    scores, _, index = suppress(
        boxes[:, None], scores[:, None] * apart, cfg["nms"], cfg["max_per_img"]
    )
    return finish(pick(boxes, index), scores, labels.gather(1, index))


def finish(boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes 0 and labels -1 where the score is 0."""
    there = scores > 0
    return boxes * there[..., None], scores, torch.where(there, labels, -1)


def to_rois(boxes: Tensor) -> Tensor:
    """(B, N, 4) -> (B x N, 5), the index of the image first."""
    image = torch.arange(boxes.shape[0]).to(boxes)[:, None, None].expand(-1, boxes.shape[1], 1)
    return torch.cat([image, boxes], -1).flatten(0, 1)


def pool(roi_head: nn.Module, extractor: nn.Module, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
    """RoIAlign (R, C, h, w) of rois (R, 5), each in the level of its size."""
    maps, layers = maps[: extractor.num_inputs], extractor.roi_layers
    level = extractor.map_roi_levels(rois, len(maps))
    pooled = maps[0].new_zeros(rois.shape[0], extractor.out_channels, *layers[0].output_size)
    for i, (values, layer) in enumerate(zip(maps, layers, strict=True)):
        index = (level == i).nonzero()[:, 0]
        part = torchvision.ops.roi_align(
            values,
            rois[index],
            layer.output_size,
            layer.spatial_scale,
            layer.sampling_ratio or -1,  # 0 here and -1 there: as many samples as cells
            layer.aligned,
        )
        pooled = pooled.index_put((index,), part)
    return roi_head.shared_head(pooled) if roi_head.with_shared_head else pooled


def from_roi_head(
    roi_head: nn.Module,
    maps: Sequence[Tensor],
    proposals: Tensor,
    there: Tensor,
    size: Sequence[int],
) -> tuple[Tensor, ...]:
    """Detections of mmdet's StandardRoIHead or CascadeRoIHead.

    Args:
        maps: of the neck, by level.
        proposals: (B, N, 4).
        there: (B, N), whether a row is a proposal.
        size: height and width of the images without padding.

    Returns:
        Boxes, scores and labels as `from_dense_head`, and of a head with masks their
        probabilities (B, K, h, w) within each box.
    """
    stages = stages_of(roi_head)
    batch, number = proposals.shape[:2]
    rois, total = to_rois(proposals), 0.0
    for i, (extractor, head) in enumerate(zip(*stages["bbox"], strict=True)):
        logits, offsets = head(pool(roi_head, extractor, maps, rois))
        total = total + logits
        if i < len(stages["bbox"][1]) - 1:
            label = logits[:, :-1].argmax(1)
            boxes = head.regress_by_class(rois[:, 1:], label, offsets, dict(img_shape=None))
            rois = torch.cat([rois[:, :1], inside(boxes, size, head.bbox_coder)], 1)
    cfg, classes = roi_head.test_cfg, head.num_classes
    scores = (total / len(stages["bbox"][1])).softmax(-1)[:, :-1]
    scores = torch.where(scores > cfg["score_thr"], scores, 0.0).view(batch, number, classes)
    scores = scores * there[..., None]
    boxes_of = 1 if head.reg_class_agnostic else classes
    sources = rois[:, None, 1:].expand(-1, boxes_of, -1).reshape(-1, 4)
    boxes = head.bbox_coder.decode(sources, offsets.reshape(-1, 4))
    boxes = inside(boxes, size, head.bbox_coder).view(batch, number, boxes_of, 4).transpose(1, 2)
    scores, label, place = suppress(boxes, scores.transpose(1, 2), cfg["nms"], cfg["max_per_img"])
    if not head.reg_class_agnostic:
        place = label * number + place
    boxes, scores, label = finish(pick(boxes.flatten(1, 2), place), scores, label)
    if not roi_head.with_mask:
        return boxes, scores, label
    rois, masks = to_rois(boxes), []
    for extractor, head in zip(*stages["mask"], strict=True):
        masks.append(head(pool(roi_head, extractor, maps, rois)).sigmoid())
    masks = sum(masks) / len(masks)
    side = masks.shape[-2:]
    if not head.class_agnostic:
        chosen = label.clamp(min=0).view(-1, 1, 1, 1).expand(-1, 1, *side)
        masks = masks.gather(1, chosen)
    return boxes, scores, label, masks.view(batch, -1, *side)


def detect(detector: nn.Module, images: Tensor, size: Sequence[int]) -> tuple[Tensor, ...]:
    """Normalised, padded images (B, C, H, W) to boxes, scores, labels and, of some, masks."""
    maps = detector.extract_feat(images)
    if not hasattr(detector, "roi_head"):
        head = detector.bbox_head
        return from_dense_head(head, head(maps), head.test_cfg, size)
    rpn = detector.rpn_head
    boxes, scores, _ = from_dense_head(rpn, rpn(maps), rpn.test_cfg, size, by_level=True)
    return from_roi_head(detector.roi_head, maps, boxes, scores > 0, size)


def refuse(name: str, part: object, why: str) -> None:
    """Refuse a part of a model whose outputs a file could not finish as its toolbox does."""
    raise InputError(
        f"{name} ({type(part).__name__}) {why}, so that the file cannot end in results. "
        "Write the network's own outputs with --raw-outputs, and finish outside the file."
    )


def check_methods(name: str, part: object, methods: dict[str, list[type]]) -> None:
    """Refuse a part that has methods of its own, instead of those of one of the classes."""
    for method, kinds in methods.items():
        if getattr(type(part), method, None) not in [getattr(kind, method) for kind in kinds]:
            refuse(name, part, f"has its own {method}()")


def check_detector(detector: nn.Module) -> None:
    """Check that mmdet decodes this detector's outputs as this module does.

    Raises:
        InputError: a part has a `predict` of its own kind; names it.
    """
    from mmdet.models import dense_heads as dense
    from mmdet.models import detectors, roi_heads

    def plain_nms(name: str, part: object, cfg: dict) -> None:
        nms_cfg = dict(cfg.get("nms") or {})
        unknown = set(nms_cfg) - {"type", "iou_threshold", "class_agnostic", "split_thr"}
        if nms_cfg.get("type") != "nms" or unknown:
            refuse(name, part, f"has test_cfg.nms={nms_cfg}; hard NMS alone is written")
        if name != "roi_head" and cfg.get("nms_pre", 0) < 1:
            refuse(name, part, "has no test_cfg.nms_pre")

    def own_classes(name: str, part: nn.Module) -> None:
        loss = getattr(part, "loss_cls", None)
        if getattr(loss, "custom_cls_channels", False):  # SeesawLoss, for one
            refuse(name, part, f"turns scores into classes by its {type(loss).__name__}")

    base = [detectors.SingleStageDetector, detectors.TwoStageDetector]
    check_methods("model", detector, dict(predict=base))
    kinds = [dense.base_dense_head.BaseDenseHead]
    standard = dict(predict=kinds, predict_by_feat=kinds)
    if not hasattr(detector, "roi_head"):
        head = detector.bbox_head
        single = [*kinds, dense.GFLHead]
        own = dict(standard, _bbox_post_process=kinds, _predict_by_feat_single=single)
        check_methods("bbox_head", head, own)
        plain_nms("bbox_head", head, head.test_cfg)
        own_classes("bbox_head", head)
        return
    rpn_head, roi_head = detector.rpn_head, detector.roi_head
    check_methods("rpn_head", rpn_head, dict(standard, _predict_by_feat_single=[dense.RPNHead]))
    plain_nms("rpn_head", rpn_head, rpn_head.test_cfg)
    kinds = [roi_heads.StandardRoIHead, roi_heads.CascadeRoIHead]
    methods = ("predict_bbox", "predict_mask", "_bbox_forward", "_mask_forward")
    check_methods("roi_head", roi_head, dict.fromkeys(methods, kinds))
    plain_nms("roi_head", roi_head, roi_head.test_cfg)
    for kind, (extractors, parts) in stages_of(roi_head).items():
        single = roi_heads.SingleRoIExtractor
        for extractor in extractors:
            check_methods(f"roi_head.{kind}_roi_extractor", extractor, dict(forward=[single]))
        own = roi_heads.BBoxHead if kind == "bbox" else roi_heads.FCNMaskHead
        for part in parts:
            check_methods(f"roi_head.{kind}_head", part, dict(_predict_by_feat_single=[own]))
            own_classes(f"roi_head.{kind}_head", part)
