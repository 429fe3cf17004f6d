"""Recording a model's graph for all image sizes, and comparing a file of it with PyTorch."""

import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import nn
from torch.export import Dim, ExportedProgram

from mmdualtoken.errors import InputError
from mmdualtoken.models.deploy import switch_to_deploy
from mmdualtoken.version import __version__

TOLERANCE = 1e-4
#: Batch, height and width of the images that a graph is recorded with.
EXAMPLE = (2, 96, 128)
#: And of those at which it is checked: other sizes, none of them square, odd ones too.
CHECKED = ((1, 75, 125), (3, 160, 96), (1, 131, 218))


class IntervalPool(nn.Module):
    """nn.AdaptiveAvgPool2d as two matrix products, for sizes that are not known in advance.

    Args:
        output_size: height and width of the output.
    """

    def __init__(self, output_size: int | Sequence[int]):
        super().__init__()
        pair = (output_size,) * 2 if isinstance(output_size, int) else tuple(output_size)
        self.output_size = pair

    @staticmethod
    def weights(cells: int, size: int, like: torch.Tensor) -> torch.Tensor:
        """Cell i is the mean over floor(i size / cells) .. ceil((i + 1) size / cells) - 1."""
        place = torch.arange(size, device=like.device)
        index = torch.arange(cells, device=like.device)[:, None]
        # floor and ceil of i size / cells without a division of tensors
        inside = (place * cells > index * size - cells) & (place * cells < (index + 1) * size)
        inside = inside.to(like.dtype)
        return inside / inside.sum(1, keepdim=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, h, w)."""
        rows, columns = (
            self.weights(cells, size, x)
            for cells, size in zip(self.output_size, x.shape[2:], strict=True)
        )
        return rows @ x @ columns.T


def replace_adaptive_pooling(model: nn.Module) -> None:
    """Put IntervalPool in place of average pooling to several cells, in place."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is not nn.AdaptiveAvgPool2d or child.output_size in (1, (1, 1)):
                continue
            if isinstance(child.output_size, int) or None not in child.output_size:
                setattr(module, name, IntervalPool(child.output_size))


class RawOutputs(nn.Module):
    """A model of a toolbox from normalised images (B, 3, H, W) to plain tensors.

    Args:
        model: classifier, segmentor, or detector with one or two stages.
        scope: 'mmpretrain', 'mmseg' or 'mmdet'.
        backbone_only: stop at the backbone's maps.

    Attributes:
        note: what the outputs are, and what is left to do outside.
    """

    def __init__(self, model: nn.Module, scope: str, backbone_only: bool = False):
        super().__init__()
        self.model = model
        if backbone_only:
            self.run, self.note = self._backbone, "the backbone's maps"
        elif scope == "mmpretrain":
            self.run, self.note = self._classify, "class logits; softmax is left to do"
        elif scope == "mmseg":
            self.run = self._segment
            self.note = "class logits at the size of the image; argmax is left to do"
        elif hasattr(model, "roi_head"):
            self.run = self._propose
            self.note = (
                "the neck's maps and the RPN's raw outputs by level; decoding, NMS, RoIAlign and "
                "the RoI heads are not in the file"
            )
        else:
            self.run = self._detect
            self.note = "the head's raw outputs by level; decoding and NMS are left to do"

    def _backbone(self, images: torch.Tensor) -> dict:
        return {"map": self.model.backbone(images)}

    def _classify(self, images: torch.Tensor) -> dict:
        return {"logits": self.model(images, mode="tensor")}

    def _segment(self, images: torch.Tensor) -> dict:
        logits = self.model(images, mode="tensor")
        align = self.model.align_corners
        size = images.shape[2:]
        return {"logits": F.interpolate(logits, size, mode="bilinear", align_corners=align)}

    def _propose(self, images: torch.Tensor) -> dict:
        maps = self.model.extract_feat(images)
        scores, boxes = self.model.rpn_head(maps)
        return {"map": maps, "rpn_cls": scores, "rpn_bbox": boxes}

    def _detect(self, images: torch.Tensor) -> dict:
        outputs = self.model.bbox_head(self.model.extract_feat(images))
        names = ["cls_score", "bbox_pred", *(f"extra{i}" for i in range(len(outputs) - 2))]
        return dict(zip(names, outputs, strict=True))

    def named(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The outputs by name; those of several levels are numbered."""
        found = {}
        for name, value in self.run(images).items():
            if torch.is_tensor(value):
                found[name] = value
            else:
                found.update({f"{name}_{i}": level for i, level in enumerate(value)})
        return found

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, 3, H, W) -> the outputs in the order of `named`."""
        return tuple(self.named(images).values())


def checked_sizes(eager: RawOutputs) -> tuple[tuple[int, int, int], ...]:
    """`CHECKED`, or multiples of 32 where the model itself takes no others, as RTMDet's neck."""
    try:
        with torch.no_grad():
            eager(torch.zeros(1, 3, *CHECKED[0][1:]))
    except RuntimeError:
        return tuple((b, -h // 32 * -32, -w // 32 * -32) for b, h, w in CHECKED)
    return CHECKED


def describe(
    cfg: Config, outputs: RawOutputs, classes: Sequence[str] | None, any_size: bool = True
) -> dict[str, str]:
    """What a user of the file must know; all values are text, lists and numbers as JSON."""
    sizes = "any size" if any_size else "height and width multiples of 32"
    prep = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
    rgb = prep.get("bgr_to_rgb") or prep.get("to_rgb") or False
    return dict(
        mmdualtoken=__version__,
        config=Path(cfg.filename or "").name,
        input=f"images (batch, 3, height, width), (pixel - mean) / std, {sizes}",
        channel_order="rgb" if rgb else "bgr",
        mean=json.dumps(list(prep.get("mean") or [0.0] * 3)),
        std=json.dumps(list(prep.get("std") or [1.0] * 3)),
        outputs=outputs.note,
        classes=json.dumps(list(classes or [])),
    )


def record(
    outputs: RawOutputs, deploy: bool = True, sizes: object = Dim.DYNAMIC
) -> ExportedProgram:
    """Record the graph of a copy of the model, for every batch, height and width.

    Args:
        outputs: the model.
        deploy: switch the copy to deployment first.
        sizes: Dim.DYNAMIC for no condition on sizes; Dim.AUTO keeps those that the model's own
            code asks about, such as a map of more than one pixel.

    Raises:
        InputError: the model's code cannot be recorded.
    """
    copy = deepcopy(outputs)
    copy.run = getattr(copy, outputs.run.__name__)  # of the copy's model, not of the given one
    copy.eval().requires_grad_(False)
    if deploy:
        switch_to_deploy(copy.model)
    replace_adaptive_pooling(copy)
    batch, height, width = EXAMPLE
    images = torch.zeros(batch, 3, height, width)
    axes = {0: sizes, 2: sizes, 3: sizes}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            return torch.export.export(copy, (images,), dynamic_shapes=(axes,), strict=False)
        except Exception as error:  # whatever the model's own code raises while it is traced
            raise InputError(
                f"The model cannot be recorded for all image sizes: {reason_of(error)}"
            ) from error


def reason_of(error: BaseException) -> str:
    """What went wrong at first, in one line: exporters wrap it in advice to their developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {line}"


def deviation(eager: RawOutputs, run: Callable, size: tuple[int, int, int]) -> float:
    """Largest difference of the file's outputs from PyTorch's, relative to each output's largest.

    Args:
        eager: the model as it is trained, not switched to deployment.
        run: the exported one.
        size: batch, height and width of random images.
    """
    generator = torch.Generator().manual_seed(sum(size))
    images = torch.randn(size[0], 3, *size[1:], generator=generator)
    with torch.no_grad():
        expected, actual = eager(images), run(images)
    worst = 0.0
    for a, e in zip(actual, expected, strict=True):
        if a.shape != e.shape:
            return float("inf")
        worst = max(worst, ((a - e).abs().max() / e.abs().max().clamp_min(1e-30)).item())
    return worst


def speed_ratio(eager: RawOutputs, run: Callable, size: tuple[int, int], rounds: int) -> float:
    """Median of time(exported) / time(PyTorch), one image, each round both in turn."""
    images = torch.randn(1, 3, *size)
    ratios = []
    with torch.no_grad():
        for _ in range(rounds + 1):
            times = []
            for call in (run, eager):
                start = time.perf_counter()
                call(images)
                times.append(time.perf_counter() - start)
            ratios.append(times[0] / times[1])
    return statistics.median(ratios[1:])  # the first is a warm-up
