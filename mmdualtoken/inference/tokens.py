"""Token maps of a DualTokenViT: attention, grids, features and contributions as arrays."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mmdualtoken.errors import InputError
from mmdualtoken.models import DualTokenViT
from mmdualtoken.models.blocks import CrossAttention, DualTokenBlock


@dataclass(frozen=True)
class BlockMaps:
    """One Dual Token block. B images, H x W image tokens, n global tokens, C channels.

    The block first adds `local` + `tokens` + `bias` to its input (Fig. 2). The output projection is
    linear, so that the sum of the two can be split.
    """

    #: From 0, as in the names of the state dict: stages.{stage}.blocks.{block}.
    stage: int
    block: int
    #: (B, heads, H, W, n): global broadcast; how much each image token reads from each global
    #: token. Sums to 1 over the last axis.
    broadcast: np.ndarray
    #: (B, heads, m, m): global aggregation among the m cells that X_local was reduced to; sums to 1
    #: over the last axis. None for the module 'normal', which has none.
    aggregation: np.ndarray | None
    #: (B, n, C): G_new, which the image tokens read.
    tokens_read: np.ndarray
    #: (B, n, C): G + G_new, the tokens of the next block.
    tokens_out: np.ndarray
    #: (B, H, W, C): Wo X_local, the contribution of the Conv Encoder, or of the normalised input in
    #: stages without one.
    local: np.ndarray
    #: (B, H, W, C): Wo X_global, the contribution of the global tokens.
    tokens: np.ndarray
    #: (C,): the bias of Wo.
    bias: np.ndarray

    @property
    def name(self) -> str:
        """As in the state dict, 'stages.2.blocks.5'."""
        return f"stages.{self.stage}.blocks.{self.block}"


@dataclass(frozen=True)
class TokenMaps:
    """Result of `inspect_tokens`."""

    #: (B, 3, H, W): the image as the backbone gets it, resized, normalised and padded.
    inputs: np.ndarray
    #: Grid (h, w) of the global tokens, h * w = n; (1, n) for 'normal' and 'msa', which have none.
    token_size: tuple[int, int]
    #: Whether the global tokens form a grid over the image.
    grid: bool
    #: All blocks, or those asked for, in order.
    blocks: tuple[BlockMaps, ...]
    #: (B, H_i, W_i, C_i) for each stage: its image tokens after its last block.
    stages: tuple[np.ndarray, ...]


@dataclass
class _Recording:
    """Inputs and outputs of a block's parts in one forward."""

    attend: dict[str, tuple] = field(default_factory=dict)
    x_local: torch.Tensor | None = None
    x_global: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    output: torch.Tensor | None = None


def find_backbone(model: nn.Module) -> DualTokenViT:
    """The DualTokenViT in a model, or the model itself.

    Raises:
        InputError: there is none, or it has no global tokens.
    """
    for module in model.modules():
        if isinstance(module, DualTokenViT):
            break
    else:
        found = type(getattr(model, "backbone", model)).__name__
        raise InputError(
            f"The model has no DualTokenViT, whose tokens could be shown, but {found}."
        )
    if module.global_tokens is None:
        raise InputError(
            f"This DualTokenViT has no global tokens (token_module {module.token_module.__name__}):"
            " there is no attention to them. Use a model with token_module 'position_aware', "
            "'normal' or 'msa'."
        )
    return module


def _hooks(block: DualTokenBlock, seen: _Recording) -> Iterator:
    """Register hooks that fill `seen` in the next forward of `block`; yields their handles."""
    module = block.token_module
    if not isinstance(getattr(module, "broadcast", None), CrossAttention):
        raise InputError(
            f"{type(module).__name__} has no `broadcast` of type CrossAttention, from which the "
            "attention is recomputed."
        )

    def keep(name):
        def hook(_, inputs, output):
            seen.attend[name] = (inputs, output)

        return hook

    def token_module(_, inputs, output):
        seen.x_local = inputs[1]
        seen.x_global, seen.tokens = output

    def whole(_, inputs, output):
        seen.output = output[0]

    yield module.broadcast.register_forward_hook(keep("broadcast"))
    if hasattr(module, "aggregate"):
        yield module.aggregate.register_forward_hook(keep("aggregate"))
    yield module.register_forward_hook(token_module)
    yield block.register_forward_hook(whole)


@contextmanager
def _recording(blocks: Sequence[DualTokenBlock]) -> Iterator[list[_Recording]]:
    """Record the blocks' forwards inside the `with`; removes its hooks afterwards."""
    seen = [_Recording() for _ in blocks]
    handles = []
    try:
        for block, record in zip(blocks, seen, strict=True):
            for handle in _hooks(block, record):
                handles.append(handle)
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode inside the `with`, then each part's mode as before."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def attention_weights(q: torch.Tensor, k: torch.Tensor, num_heads: int) -> torch.Tensor:
    """softmax(q k^T / sqrt(head_dim)) per head: (B, N, C), (B, M, C) -> (B, heads, N, M)."""
    q, k = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k))
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)


def _array(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype == torch.float64 else tensor.float()).numpy()


def _maps(block: DualTokenBlock, seen: _Recording, stage: int, index: int) -> BlockMaps:
    """The recording of a block as arrays, attention recomputed by the block's own projections."""
    module, (height, width) = block.token_module, seen.x_local.shape[1:3]
    (x, source), _ = seen.attend["broadcast"]
    keys = module.broadcast.kv(source).chunk(2, dim=-1)[0]
    weights = attention_weights(module.broadcast.q(x), keys, module.broadcast.num_heads)
    aggregation = None
    if "aggregate" in seen.attend:
        q, k, _ = module.aggregate.qkv(seen.attend["aggregate"][0][0]).chunk(3, dim=-1)
        aggregation = _array(attention_weights(q, k, module.aggregate.num_heads))
    return BlockMaps(
        stage=stage,
        block=index,
        broadcast=_array(weights.unflatten(2, (height, width))),
        aggregation=aggregation,
        tokens_read=_array(source),
        tokens_out=_array(seen.tokens),
        local=_array(F.linear(seen.x_local, block.proj.weight)),
        tokens=_array(F.linear(seen.x_global, block.proj.weight)),
        bias=_array(block.proj.bias),
    )


def network_input(model: nn.Module, image: str | np.ndarray) -> torch.Tensor:
    """The image as the model's own test pipeline and preprocessor give it to the backbone."""
    from mmengine.dataset import pseudo_collate

    from mmdualtoken.inference.predictor import Preparer

    cfg = getattr(model, "cfg", None) or getattr(model, "_config", None)
    if cfg is None:
        raise InputError(
            "An image file or array needs a model that knows its config, as load_model or the "
            "toolbox's init function gives it. To a bare backbone, give a normalised tensor "
            "(B, 3, H, W)."
        )
    preparer = Preparer(cfg)
    image = preparer.read(str(image)) if not isinstance(image, np.ndarray) else image
    data = model.data_preprocessor(pseudo_collate([preparer.prepare(image)]), False)
    return data["inputs"]


def select_block(backbone: DualTokenViT, stage: int = -1, block: int = -1) -> tuple[int, int]:
    """Stage and block from 0, given so or from the end (-1 the last).

    Raises:
        InputError: there is no such stage or block.
    """

    def check(name: str, index: int, count: int) -> int:
        if not -count <= index < count:
            raise InputError(
                f"{name} is {index}; it must be from 0 to {count - 1}, or from -{count} to -1 "
                "counted from the end."
            )
        return index % count

    stage = check("stage", stage, len(backbone.stages))
    return stage, check("block", block, len(backbone.stages[stage].blocks))


@torch.no_grad()
def inspect_tokens(
    model: nn.Module,
    image: str | np.ndarray | torch.Tensor,
    blocks: Sequence[tuple[int, int]] | None = None,
) -> TokenMaps:
    """Look into the Dual Token blocks of a model while it sees an image.

    The model computes as always: hooks keep inputs and outputs of the blocks' parts during this one
    forward and are gone after it, and the attention weights, which the fused attention never
    stores, are computed again from them. The backbone is in eval mode meanwhile; afterwards every
    module is in the mode that it was in, and no weight or statistic has changed.

    Args:
        model: detector, segmentor, classifier or DualTokenViT.
        image: a file, an array (H, W, 3) BGR uint8 (both go through the test pipeline of the
            model's config), or a normalised tensor (B, 3, H, W).
        blocks: (stage, block) to look into, each from 0, or -1 for the last; all by default.

    Returns:
        the maps, as numpy arrays of float32 (float64 for a model of float64).

    Raises:
        InputError: the model has no DualTokenViT with global tokens, there is no such block, or
            the image cannot be read.
    """
    backbone = find_backbone(model)
    if blocks is None:
        chosen = [
            (i, j) for i, stage in enumerate(backbone.stages) for j in range(len(stage.blocks))
        ]
    else:
        chosen = sorted({select_block(backbone, *pair) for pair in blocks})
    inputs = image if isinstance(image, torch.Tensor) else network_input(model, image)
    like = backbone.global_tokens
    modules = [backbone.stages[i].blocks[j] for i, j in chosen]
    last = [stage.blocks[-1] for stage in backbone.stages]
    with _eval_mode(backbone), _recording(modules) as seen, _recording(last) as ends:
        backbone(inputs.to(like))
    maps = [_maps(m, s, *pair) for m, s, pair in zip(modules, seen, chosen, strict=True)]
    return TokenMaps(
        inputs=_array(inputs),
        token_size=backbone.token_size,
        grid=backbone.token_module.grid,
        blocks=tuple(maps),
        stages=tuple(_array(end.output) for end in ends),
    )
