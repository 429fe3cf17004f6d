"""Recording a model's graph for all image sizes, and comparing a file of it with PyTorch."""

import json
import statistics
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import nn
from torch.export import Dim, ExportedProgram

from mmdualtoken.errors import InputError, reason_of
from mmdualtoken.export.measure import input_channels
from mmdualtoken.export.results import Preprocessing, Results
from mmdualtoken.models.deploy import switch_to_deploy
from mmdualtoken.version import __version__

TOLERANCE = 1e-4
#: Batch, height and width of the images that a graph is recorded with.
EXAMPLE = (2, 96, 128)
#: The same for results, where the highest map of a pyramid must have more than one cell.
RESULTS_EXAMPLE = (2, 320, 416)
#: And of those at which it is checked: other sizes, none of them square, odd ones too.
CHECKED = ((1, 75, 125), (3, 160, 96), (1, 131, 218))


class IntervalPool(nn.Module):
    """nn.AdaptiveAvgPool2d as two matrix products, for sizes that are not known in advance."""

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
    """A model of a toolbox from normalised images (B, C, H, W) to its network's own outputs.

    Attributes:
        channels: C.
        dtype: of the images.
        note: what the outputs are, and what is left to do outside.
    """

    dtype = torch.float32

    def __init__(self, model: nn.Module, scope: str, backbone_only: bool = False):
        super().__init__()
        self.model, self.channels = model, input_channels(model)
        if backbone_only:
            self.run, self.note = self._backbone, "the backbone's maps"
        elif scope == "mmpretrain":
            self.run, self.note = self._classify, "class logits; softmax is left to do"
        elif scope == "mmseg":
            self.run = self._segment
            # A binary head has one map: argmax of it would be 0 everywhere.
            left = "argmax"
            if model.out_channels == 1:
                threshold = getattr(model.decode_head, "threshold", None) or 0.5
                left = f"sigmoid and the threshold {threshold:g}, above which is class 1,"
            self.note = f"class logits at the size of the image; {left} is left to do"
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

    def names(self) -> list[str]:
        """The outputs' names; runs the model once."""
        with torch.no_grad():
            return list(self.named(torch.zeros(1, self.channels, *EXAMPLE[1:])))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, C, H, W) -> the outputs in the order of `named`."""
        return tuple(self.named(images).values())


def checked_sizes(eager: RawOutputs) -> tuple[tuple[int, int, int], ...]:
    """`CHECKED`, or multiples of 32 where the model itself takes no others, as RTMDet's neck."""
    try:
        with torch.no_grad():
            eager(torch.zeros(1, eager.channels, *CHECKED[0][1:]))
    except RuntimeError:
        return tuple((b, -h // 32 * -32, -w // 32 * -32) for b, h, w in CHECKED)
    return CHECKED


def describe(
    cfg: Config,
    outputs: RawOutputs | Results,
    classes: Sequence[str] | None,
) -> dict[str, str]:
    """What a user of the file must know; all values are text, lists and numbers as JSON."""
    prep = Preprocessing.of(cfg)
    channels, pixels = outputs.channels, getattr(outputs, "pixels", False)
    rgb = prep.swap and channels == 3 and not pixels
    values = "pixels" if pixels else "(pixel - mean) / std"
    results = isinstance(outputs, Results)
    more = outputs.describe(cfg) if results else {}
    whole = results or checked_sizes(outputs) == CHECKED
    sizes = "any size" if whole else "height and width multiples of 32"
    return dict(
        mmdualtoken=__version__,
        config=Path(cfg.filename or "").name,
        input=f"images (batch, {channels}, height, width), {values}, {sizes}",
        channel_order="rgb" if rgb else "bgr",
        mean=json.dumps([] if pixels else list(prep.mean or [0.0] * channels)),
        std=json.dumps([] if pixels else list(prep.std or [1.0] * channels)),
        outputs=outputs.note,
        classes=json.dumps(list(classes or [])),
        **more,
    )


def record(
    outputs: RawOutputs | Results, deploy: bool = True, sizes: object = Dim.DYNAMIC
) -> ExportedProgram:
    """Record the graph of a copy of the model, for every batch, height and width.

    Args:
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
    batch, *sides = RESULTS_EXAMPLE if isinstance(outputs, Results) else EXAMPLE
    images = torch.zeros(batch, outputs.channels, *sides, dtype=outputs.dtype)
    axes = {0: sizes, 2: sizes, 3: sizes}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            return torch.export.export(copy, (images,), dynamic_shapes=(axes,), strict=False)
        except Exception as error:  # whatever the model's own code raises while it is traced
            raise InputError(
                f"{module_of(error, copy)} cannot be recorded for all image sizes: "
                f"{reason_of(error)}. Try --raw-outputs, or --backbone, which need less of it."
            ) from error


def module_of(error: BaseException, model: nn.Module) -> str:
    """The innermost module of a model that an error came through, with its class."""
    names = {id(module): name for name, module in model.named_modules()}
    found = "The model"
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            module = frame.f_locals.get("self")
            if names.get(id(module)):
                found = f"{names[id(module)].removeprefix('model.')} ({type(module).__name__})"
        error = error.__cause__
    return found


def deviation(eager: RawOutputs, run: Callable, size: tuple[int, int, int]) -> float:
    """Largest difference of the file's outputs from PyTorch's, relative to each output's largest.

    `eager` is the model as it is trained, not switched to deployment; random images have the
    `size` (batch, height, width).
    """
    generator = torch.Generator().manual_seed(sum(size))
    images = torch.randn(size[0], eager.channels, *size[1:], generator=generator)
    with torch.no_grad():
        expected, actual = eager(images), run(images)
    worst = 0.0
    for a, e in zip(actual, expected, strict=True):
        if a.shape != e.shape:
            return float("inf")
        worst = max(worst, ((a - e).abs().max() / e.abs().max().clamp_min(1e-30)).item())
    return worst


def speed_ratio(run: Callable, eager: Callable, rounds: int) -> float:
    """Median of time(run) / time(eager), each round both in turn."""
    ratios = []
    with torch.no_grad():
        for _ in range(rounds + 1):
            times = []
            for call in (run, eager):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
            ratios.append(times[0] / times[1])
    return statistics.median(ratios[1:])  # the first is a warm-up
