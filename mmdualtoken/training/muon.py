"""Muon for matrices with AdamW for the rest, as one optimizer that a config can name."""

from collections.abc import Iterable
from typing import Any

from mmengine.registry import OPTIMIZERS

from mmdualtoken.errors import InputError, MissingPackage

try:
    from timm.optim import Muon
except ImportError as error:
    raise MissingPackage(
        "The optimizer MuonAdamW is timm's Muon, and timm 1.0.22 or later is not installed "
        f"({error}): pip install timm"
    ) from error


@OPTIMIZERS.register_module(force=True)
class MuonAdamW(Muon):
    """timm's Muon, with AdamW's rate as a share of its own and defaults for training from scratch.

    By timm's rule, Muon updates the weights that are matrices: of linear layers, a fused qkv as
    one, and of convolutions that mix channels, (out, in * kh * kw). AdamW updates all others:
    biases, norms, depthwise convolutions, the global tokens, and matrices with fewer than 4 rows
    or columns.

    Args:
        params: parameters or groups of them, as for every optimizer of PyTorch. A group with
            use_fallback=True is left to AdamW.
        lr: Muon's rate. Its steps are as large as AdamW's at the same rate (`match_rms_adamw`).
        fallback_lr_scale: AdamW's rate as a share of `lr`; schedules change both.
        weight_decay: of both, decoupled.
        betas: AdamW's.
        nesterov: Nesterov's momentum for both; AdamW is then NAdamW.
        settings: the other arguments of `timm.optim.Muon`.

    Raises:
        InputError: timm is not installed, or no parameter is a matrix, as when FSDP has flattened
            them.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 6e-3,
        fallback_lr_scale: float = 1 / 6,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.999),
        nesterov: bool = True,
        **settings: Any,
    ):
        settings |= dict(lr=lr, fallback_lr_scale=fallback_lr_scale, weight_decay=weight_decay)
        super().__init__(params, betas=tuple(betas), nesterov=nesterov, **settings)
        if all(p.ndim < 2 for group in self.param_groups for p in group["params"]):
            raise InputError(
                "MuonAdamW got no matrix, only vectors: it cannot train a model whose weights "
                "FSDP has flattened and divided. Train with DDP (the default of --launcher "
                "pytorch), or use AdamW with FSDP."
            )
