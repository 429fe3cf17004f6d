"""Token maps of a DualTokenViT: attention, grids, features and contributions as arrays."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dataset import pseudo_collate
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


@contextmanager
def _recording(backbone: DualTokenViT, modules: Iterable[nn.Module]) -> Iterator[dict]:
    """Run the backbone in eval mode inside the `with`; records (inputs, output) by module.

    Afterwards the hooks are gone, and every part is in the mode that it was in.
    """
    seen: dict[nn.Module, tuple] = {}
    modes = {part: part.training for part in backbone.modules()}
    hooks = [
        m.register_forward_hook(lambda *call: seen.update({call[0]: call[1:]})) for m in modules
    ]
    try:
        backbone.eval()
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
        for part, mode in modes.items():
            part.training = mode


def _token_parts(block: DualTokenBlock) -> list[nn.Module]:
    """The parts of a block whose inputs and outputs make its maps.

    Raises:
        InputError: a user's token module has no `broadcast` to recompute the attention from.
    """
    module = block.token_module
    if not isinstance(getattr(module, "broadcast", None), CrossAttention):
        raise InputError(
            f"{type(module).__name__} has no `broadcast` of type CrossAttention, from which the "
            "attention is recomputed."
        )
    return [module, module.broadcast, *([module.aggregate] if hasattr(module, "aggregate") else [])]


def attention_weights(q: torch.Tensor, k: torch.Tensor, num_heads: int) -> torch.Tensor:
    """softmax(q k^T / sqrt(head_dim)) per head: (B, N, C), (B, M, C) -> (B, heads, N, M)."""
    q, k = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k))
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)


def _array(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype == torch.float64 else tensor.float()).numpy()


def _maps(block: DualTokenBlock, seen: dict, stage: int, index: int) -> BlockMaps:
    """The recording of a block as arrays, attention recomputed by the block's own projections."""
    module = block.token_module
    (x, source), _ = seen[module.broadcast]
    (_, x_local, _), (x_global, tokens_out) = seen[module]
    keys = module.broadcast.kv(source).chunk(2, dim=-1)[0]
    weights = attention_weights(module.broadcast.q(x), keys, module.broadcast.num_heads)
    aggregation = None
    if hasattr(module, "aggregate"):
        (cells,), _ = seen[module.aggregate]
        q, k, _ = module.aggregate.qkv(cells).chunk(3, dim=-1)
        aggregation = _array(attention_weights(q, k, module.aggregate.num_heads))
    return BlockMaps(
        stage=stage,
        block=index,
        broadcast=_array(weights.unflatten(2, x_local.shape[1:3])),
        aggregation=aggregation,
        tokens_read=_array(source),
        tokens_out=_array(tokens_out),
        local=_array(F.linear(x_local, block.proj.weight)),
        tokens=_array(F.linear(x_global, block.proj.weight)),
        bias=_array(block.proj.bias),
    )


def network_input(model: nn.Module, image: str | np.ndarray) -> torch.Tensor:
    """The image as the model's own test pipeline and preprocessor give it to the backbone."""
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


def blocks_of(backbone: DualTokenViT) -> list[tuple[int, int]]:
    """(stage, block) of all blocks, from 0."""
    return [(i, j) for i, stage in enumerate(backbone.stages) for j in range(len(stage.blocks))]


def select_block(backbone: DualTokenViT, stage: int = -1, block: int = -1) -> tuple[int, int]:
    """Stage and block from 0, given so or from the end (-1 the last).

    Raises:
        InputError: there is no such stage or block.
    """

    def from_zero(name: str, index: int, count: int) -> int:
        if not -count <= index < count:
            raise InputError(
                f"{name} is {index}; it must be from 0 to {count - 1}, or from -{count} to -1 "
                "counted from the end."
            )
        return index % count

    stage = from_zero("stage", stage, len(backbone.stages))
    return stage, from_zero("block", block, len(backbone.stages[stage].blocks))


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
    places = blocks_of(backbone) if blocks is None else {select_block(backbone, *b) for b in blocks}
    chosen = {place: backbone.stages[place[0]].blocks[place[1]] for place in sorted(places)}
    inputs = image if isinstance(image, torch.Tensor) else network_input(model, image)
    last = [stage.blocks[-1] for stage in backbone.stages]
    parts = [part for block in chosen.values() for part in _token_parts(block)]
    with _recording(backbone, [*last, *parts]) as seen:
        backbone(inputs.to(backbone.global_tokens))
    return TokenMaps(
        inputs=_array(inputs),
        token_size=backbone.token_size,
        grid=backbone.token_module.grid,
        blocks=tuple(_maps(block, seen, *place) for place, block in chosen.items()),
        stages=tuple(_array(seen[block][1][0]) for block in last),
    )
