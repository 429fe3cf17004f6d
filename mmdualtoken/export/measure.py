"""Parameters and multiply-accumulates of the model of a config, without data."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

IMAGE_SIZES = {"mmpretrain": (224, 224), "mmdet": (800, 1280), "mmseg": (512, 512)}
BOX_ROIS, MASK_ROIS = 1000, 100


@contextmanager
def quiet(level: int = logging.INFO) -> Iterator[None]:
    """Without remarks of toolboxes that build a model, and of quantisers."""
    logging.disable(level)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def build_model(cfg: Config) -> nn.Module:
    """The config's model in eval mode, on the CPU; pretrained weights are not loaded."""
    model = deepcopy(cfg.model)  # models write into their configs
    if cfg.get("data_preprocessor") and "data_preprocessor" not in model:
        model["data_preprocessor"] = cfg.data_preprocessor  # as MMEngine's runner does
    with quiet(), DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(model).eval()


def input_channels(model: nn.Module) -> int:
    """Channels of the images that a model takes: those of its backbone's first convolution."""
    convs = (m for m in model.backbone.modules() if isinstance(m, nn.Conv2d))
    return next((conv.in_channels for conv in convs), 3)


def stages_of(roi_head: nn.Module) -> dict[str, tuple[list, list]]:
    """Extractors and heads of boxes and masks, by stage; a cascade has several."""
    found = {}
    for kind in ("bbox", "mask")[: 1 + roi_head.with_mask]:
        parts = [getattr(roi_head, f"{kind}_{name}") for name in ("roi_extractor", "head")]
        found[kind] = [list(p) if isinstance(p, nn.ModuleList) else [p] for p in parts]
    return found


def forward_once(model: nn.Module, scope: str, size: tuple[int, int]) -> None:
    """One image through all layers that a prediction uses.

    Args:
        model: a classifier, a segmentor, or a detector. Of heads on RoIs those of boxes and masks
            run, of mmdet's one-stage segmentors with boxes the head of boxes.
        scope: 'mmpretrain', 'mmseg' or 'mmdet'.
        size: height and width of the image. RoI heads get 1000 boxes and 100 masks at any size,
            those of a cascade in each stage.
    """
    parameter = next(model.parameters())
    image = parameter.new_zeros(1, input_channels(model), *size)
    if scope != "mmdet":
        model(image, mode="tensor")  # of segmentors, without the auxiliary head
        return
    if not hasattr(model, "roi_head") and not (model.with_bbox and model.with_mask):
        from mmdet.structures import DetDataSample

        shapes = {f"{kind}_shape": size for kind in ("img", "ori", "pad", "batch_input")}
        # Transformers mask what is padded; the other heads do not read their samples.
        model(image, [DetDataSample(metainfo=shapes)], mode="tensor")
        return
    maps = model.extract_feat(image)
    if not hasattr(model, "roi_head"):
        model.bbox_head(maps)  # the head of masks needs boxes
        return
    model.rpn_head(maps)
    if getattr(model, "with_semantic_head", False):
        model.semantic_head(maps)
    rois = dict(bbox=BOX_ROIS, mask=MASK_ROIS)
    for kind, stages in stages_of(model.roi_head).items():
        for extractor, head in zip(*stages, strict=True):
            # RoIAlign itself has no multiply-accumulates that are counted; its output counts.
            side = extractor.roi_layers[0].output_size
            head(parameter.new_zeros(rois[kind], extractor.out_channels, *side))
