"""Where a model's parameters and multiply-accumulates are, and what the count leaves out."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

from mmdualtoken.config_files import scope_of
from mmdualtoken.data.layout import innermost_datasets
from mmdualtoken.errors import InputError
from mmdualtoken.export.measure import (
    BOX_ROIS,
    IMAGE_SIZES,
    MASK_ROIS,
    build_model,
    forward_once,
    quiet,
)

#: Modules whose children are rows of their own, and the lists of modules among these children.
OPENED = ("backbone", "roi_head")
#: Operators that compute nothing, beside views.
NO_WORK = {"_unsafe_view", "empty", "new_zeros", "arange"}


@dataclass(frozen=True)
class Part:
    """A row: a module, or a parameter that belongs to no smaller module."""

    name: str
    params: int
    macs: float


@dataclass(frozen=True)
class Breakdown:
    """What `break_down` counts, by parts.

    Attributes:
        size: height and width of the image.
        parts: disjoint; their sums are `params` and `macs`.
        uncounted: how often each operator ran that is not counted; views are left out.
        remarks: what was not run at all, or counted otherwise than one might think.
    """

    size: tuple[int, int]
    parts: tuple[Part, ...]
    uncounted: dict[str, int]
    remarks: tuple[str, ...]

    @property
    def params(self) -> int:
        """Parameters of the whole model, frozen and auxiliary ones included."""
        return sum(part.params for part in self.parts)

    @property
    def macs(self) -> float:
        """Multiply-accumulates of one image."""
        return sum(part.macs for part in self.parts)


def shape_of_config(cfg: Config) -> tuple[tuple[int, int], str]:
    """Height and width at which the config tests, and where that is from.

    Test pipelines that keep the ratio of sides have no single size: the field's usual one then.
    """
    scope = scope_of(cfg)
    dataset = (cfg.get("test_dataloader") or {}).get("dataset") or {}
    steps = next(innermost_datasets(dataset)).get("pipeline") or []
    found = None
    for step in steps:
        size = step.get("crop_size") or step.get("scale")
        pair = (size, size) if isinstance(size, int) else size
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(pair):
            continue
        if not all(isinstance(side, int) for side in pair):
            continue
        if step["type"] == "CenterCrop":
            found = tuple(pair)
        elif step["type"] in ("Resize", "mmdet.Resize") and (
            pair[0] == pair[1] or not step.get("keep_ratio", scope == "mmdet")
        ):
            found = (pair[1], pair[0])  # scales are (width, height)
    if found:
        return found, "the test pipeline's"
    crop = (cfg.model.get("data_preprocessor") or {}).get("size")
    if scope == "mmseg" and crop:
        return tuple(crop), "the crops' of the data preprocessor"
    return IMAGE_SIZES[scope], f"the usual one of {scope}; the test pipeline has no single size"


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in model.named_children():
        if name not in OPENED:
            yield name, child
            continue
        for inner, module in child.named_children():
            if isinstance(module, nn.ModuleList):
                yield from ((f"{name}.{inner}.{i}", one) for i, one in enumerate(module))
            else:
                yield f"{name}.{inner}", module


def _attention_flop(query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop(query, key, value)


def counter_of_macs() -> FlopCounterMode:
    """torch's counter, attention included; it counts two for a multiply-accumulate."""
    # torch does not list its fused CPU attention, so that it would count as nothing.
    fused = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop}
    return FlopCounterMode(display=False, custom_mapping=fused)


def count_macs(function: Callable, *args: Any) -> float:
    """Multiply-accumulates of `function(*args)`: convolutions, matrix products and attention.

    Norms, activations, pooling and interpolation are not counted, as in the papers of this field,
    which call the figure FLOPs. Attention counts the same on fused and plain paths.
    """
    with counter_of_macs() as counter:
        function(*args)
    return counter.get_total_flops() / 2


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, frozen ones included."""
    return sum(p.numel() for p in module.parameters())


class _Operators(TorchDispatchMode):
    """Counts the operators that run and are not in `counted`, views left out."""

    def __init__(self, counted):
        super().__init__()
        self.counted, self.met = counted, Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        views = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        name = func._schema.name.removeprefix("aten::")
        if func._overloadpacket not in self.counted and not views and name not in NO_WORK:
            self.met[name] += 1
        return func(*args, **(kwargs or {}))


def _count(model: nn.Module, scope: str, size: tuple[int, int]) -> tuple[dict, float, dict]:
    """Per part and in all: multiply-accumulates; and the operators that are not counted.

    The model keeps the hooks.
    """
    macs, foreign, depth, before = Counter(), Counter(), 0, 0
    counter = counter_of_macs()
    operators = _Operators(counter.flop_registry)

    # Hooks on every module, of which the outermost counts: the toolboxes call some heads'
    # `forward` directly, past the head's own hooks.
    def enter():
        nonlocal depth, before
        if not depth:
            before = counter.get_total_flops()
        depth += 1

    def leave(name):
        nonlocal depth
        depth -= 1
        if not depth:
            macs[name] += (counter.get_total_flops() - before) / 2

    def meet(name):
        foreign[name] += 1

    for name, part in _parts(model):
        for module in part.modules():
            module.register_forward_pre_hook(lambda *_: enter())
            module.register_forward_hook(lambda *_, n=name: leave(n))
    for module in model.modules():
        kind = type(module)
        if kind.__module__.startswith("mmcv.ops"):  # compiled: no operator of torch's is seen
            module.register_forward_hook(lambda *_, n=f"mmcv {kind.__name__}": meet(n))
    # The operators' mode first: it then sees what the counter runs, not what it takes apart.
    with operators, counter:
        forward_once(model, scope, size)
    return macs, counter.get_total_flops() / 2, dict((operators.met + foreign).most_common())


def _remarks(model: nn.Module, macs: Mapping) -> tuple[str, ...]:
    remarks = []
    if hasattr(model, "roi_head"):
        masks = f" and {MASK_ROIS} masks" if model.roi_head.with_mask else ""
        remarks.append(
            f"RoIAlign and NMS are not run; the RoI heads get {BOX_ROIS} boxes{masks} at any size"
        )
    elif hasattr(model, "bbox_head"):
        remarks.append("decoding of boxes and NMS are not run")
    idle = [
        name
        for name, part in _parts(model)
        if not macs[name] and any(isinstance(m, (nn.Conv2d, nn.Linear)) for m in part.modules())
    ]
    if idle:
        remarks.append(f"parameters count, but not run: {', '.join(idle)}")
    return tuple(remarks)


def break_down(cfg: Config, size: tuple[int, int] | None = None) -> Breakdown:
    """Count parameters, frozen and auxiliary ones included, and multiply-accumulates, by parts.

    Shapes are all that counting needs, hence the meta device; models with operators that it lacks
    run on the CPU instead. Height and width of the image are by default 224x224 (mmpretrain),
    800x1280 (mmdet) or 512x512 (mmseg).

    Raises:
        InputError: the config is of another toolbox, or the model cannot take images of that size.
    """
    scope = scope_of(cfg)
    size = size or IMAGE_SIZES[scope]
    model = build_model(cfg)
    with quiet():
        try:
            macs, total, uncounted = _count(model.to("meta"), scope, size)
        except (NotImplementedError, RuntimeError):  # an operator that the meta device lacks
            model = build_model(cfg)
            try:
                macs, total, uncounted = _count(model, scope, size)
            except NotImplementedError as error:  # has no forward, as the RPN of Sparse R-CNN
                raise InputError(f"The model cannot be counted: {error}.") from error
            except (RuntimeError, ValueError) as error:
                raise InputError(
                    f"The model does not take images of {size[0]}x{size[1]} "
                    f"({str(error).splitlines()[0]}). Give another --shape."
                ) from error
    owned = {id(p): name for name, part in _parts(model) for p in part.parameters()}
    parts = [Part(n, count_parameters(part), macs[n]) for n, part in _parts(model)]
    parts += [Part(n, p.numel(), 0.0) for n, p in model.named_parameters() if id(p) not in owned]
    parts = [part for part in parts if part.params or part.macs]
    if rest := total - sum(macs.values()):
        parts.append(Part("(between the parts)", 0, rest))
    return Breakdown(size, tuple(parts), uncounted, _remarks(model, macs))
