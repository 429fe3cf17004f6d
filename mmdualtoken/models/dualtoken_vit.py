"""The backbone of DualToken-ViT (arXiv 2309.12424): stem, three stages, output norms."""

import re
from collections.abc import Sequence

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdualtoken.models.arguments import Checks
from mmdualtoken.models.blocks import ConvEncoder, DualTokenBlock, Stage, WindowAttention, map_norm
from mmdualtoken.models.deploy import Deployable
from mmdualtoken.models.stem import (
    OneStepDownsample,
    PatchMerging,
    Stem,
    StepwiseDownsample,
    TokenProjection,
)
from mmdualtoken.models.tokens import (
    MSATokens,
    NormalTokens,
    NoTokens,
    PositionAwareTokens,
    TokenMixMLP,
    TokenMLP,
    resize_state,
)
from mmdualtoken.weights.pretrained import use_our_pretrained

CHECK = Checks("DualTokenViT")
# The classes that an argument can name.
TOKEN_MODULES = {
    "position_aware": PositionAwareTokens,
    "none": NoTokens,
    "normal": NormalTokens,
    "msa": MSATokens,
}
TOKEN_MLPS = {"mlp": TokenMLP, "mix": TokenMixMLP}
LOCAL_ENCODERS = {"conv": ConvEncoder, "window": WindowAttention}
DOWNSAMPLES = {"stepwise": StepwiseDownsample, "onestep": OneStepDownsample}
# What the class of an argument, or its `for_block`, is called with.
CALLED_WITH = {
    "local_encoder": ("embed_dims", "num_heads", "kernel_size"),
    "downsample": ("embed_dims", "num_convs"),
    "token_mlp": ("embed_dims", "num_tokens"),
    "token_module": ("embed_dims", "num_heads", "token_size", "downsample", "mlp", "alpha"),
}

SCRATCH = (
    "starts from scratch: random weights, unless --resume or load_from replaces them; "
    "tools/train.py --pretrained tiny or FILE starts from the shipped weights or a classifier's"
)


@MODELS.register_module()
class DualTokenViT(Deployable, BaseModule):
    """DualToken-ViT with three stages at strides 8, 16 and 32 (paper: Sec. 2.3, Table 1).

    Any input size works; the maps are ceil(H / stride) x ceil(W / stride). The local features of
    any size are interpolated to the grid of global tokens (Sec. 2.2).

    A class of the user's may stand for the name of a part, as itself, by its name in the registry
    MODELS or by its import path. It, or its classmethod `for_block` if it has one, is
    called with (embed_dims, num_heads, kernel_size) as `local_encoder`, (embed_dims, num_convs) as
    `downsample`, (embed_dims, num_tokens) as `token_mlp`, and as `token_module` with the arguments
    of `PositionAwareTokens`, of which it also has the attributes `uses_tokens` and `grid`.

    Args:
        arch: 'tiny', 'small', or a dict of `embed_dims`, `depths`, `num_heads`, `ffn_ratios` (three
            values each) and optionally `kernel_sizes` (Conv Encoder; None: no encoder, no
            downsampling) and `down_convs` (M of the stepwise downsampling).
        in_channels: channels of the image.
        token_size: grid (h, w) of the global tokens, or n for (n, n); for `token_module` 'normal'
            and 'msa', whose tokens form no grid, their number; the paper has 8, the default is 49.
        token_mlp: MLP on the tokens, 'mlp' (default) or 'mix' (Sec. 2.2), or a class.
        token_module: 'position_aware' (default), or the ablations 'none', 'normal', 'msa'
            (Tables 6 and 7), or a class.
        local_encoder: 'conv' (default) or 'window' (Table 8), or a class.
        downsample: 'stepwise' (default) or 'onestep' (Table 9), or a class.
        alpha: weight of the global tokens in the fusion, 0.1 in the paper.
        out_indices: stages whose maps are returned. Stages after the last are not built.
        out_norm_cfg: norm of each returned map; LayerNorm over channels by default. Training a
            detector from scratch needs BatchNorm: dict(type='BN') or dict(type='SyncBN').
        drop_path_rate: rate of the last block; it rises linearly from 0 over all blocks.
        norm_eval: keep the stem's BatchNorm in eval mode during training, for fine-tuning a
            pretrained backbone with few images per GPU. The output norms are not affected.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem, the tokens and stages 1..k.
        with_cp: recompute blocks in the backward pass: less memory, more time.
        init_cfg: MMEngine initialisation config, for instance
            dict(type='Pretrained', checkpoint=FILE, prefix='backbone.'), or for few images from
            scratch dict(type='StemContrast').

    Raises:
        WrongValue: an argument is out of range or unknown; the message says what is allowed.
    """

    arch_settings = {
        "tiny": dict(
            embed_dims=(48, 96, 192), depths=(2, 6, 4), num_heads=(2, 4, 8), ffn_ratios=(8, 4, 4)
        ),
        "small": dict(
            embed_dims=(64, 128, 256), depths=(2, 6, 6), num_heads=(2, 4, 8), ffn_ratios=(8, 4, 4)
        ),
    }
    arch_defaults = dict(kernel_sizes=(5, 7, None), down_convs=(1, 0, 0))
    stem_class = Stem

    def __init__(
        self,
        arch: str | dict = "small",
        in_channels: int = 3,
        token_size: tuple[int, int] | int = (7, 7),
        token_mlp: str | type = "mlp",
        token_module: str | type = "position_aware",
        local_encoder: str | type = "conv",
        downsample: str | type = "stepwise",
        alpha: float = 0.1,
        out_indices: Sequence[int] = (0, 1, 2),
        out_norm_cfg: dict | None = dict(type="LN", eps=1e-6),  # noqa: B006 read, never changed
        drop_path_rate: float = 0.0,
        norm_eval: bool = False,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ):
        super().__init__(CHECK.init_cfg(init_cfg))
        self.arch = CHECK.arch(arch, self.arch_settings, self.arch_defaults)
        self.token_module = CHECK.layer("token_module", token_module, TOKEN_MODULES)
        CHECK.attributes("token_module", self.token_module, ("uses_tokens", "grid"))
        self.token_mlp = CHECK.layer("token_mlp", token_mlp, TOKEN_MLPS)
        self.local_encoder = CHECK.layer("local_encoder", local_encoder, LOCAL_ENCODERS)
        self.downsample = CHECK.layer("downsample", downsample, DOWNSAMPLES)
        self.token_size = CHECK.token_size(token_size, self.token_module.grid)
        self.out_indices = CHECK.out_indices(out_indices)
        self.alpha = CHECK.rate("alpha", alpha)
        self.out_norm_cfg = CHECK.norm_cfg("out_norm_cfg", out_norm_cfg)
        self.norm_eval = norm_eval
        self.frozen_stages = CHECK.integer("frozen_stages", frozen_stages, -1, 3)
        self.with_cp = with_cp
        drop_path_rate = CHECK.rate("drop_path_rate", drop_path_rate, below_one=True)

        dims, depths = self.arch["embed_dims"], self.arch["depths"]
        self.stem = self.stem_class(CHECK.integer("in_channels", in_channels, 1), dims[0])
        if self.token_module.uses_tokens:
            self.global_tokens = nn.Parameter(torch.empty(1, *self.token_size, dims[0]))
        else:
            self.register_parameter("global_tokens", None)
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        self.stages = nn.ModuleList(
            self._make_stage(i, rates[sum(depths[:i]) : sum(depths[: i + 1])])
            for i in range(self.out_indices[-1] + 1)
        )
        for i in self.out_indices:
            norm = self.out_norm_cfg and map_norm(self.out_norm_cfg, dims[i])
            self.add_module(f"norm{i}", norm or nn.Identity())

        self._register_load_state_dict_pre_hook(self.resize_loaded_tokens)
        self._reset_parameters()
        self._freeze()

    def _make_stage(self, i: int, drop_path_rates: Sequence[float]) -> Stage:
        before, dim = self.arch["embed_dims"][max(i - 1, 0)], self.arch["embed_dims"][i]
        merging = token_proj = nn.Identity()
        if i > 0:
            merging = PatchMerging(before, dim)
        if i > 0 and self.token_module.uses_tokens:
            token_proj = TokenProjection(before, dim)
        blocks = [self._make_block(i, rate) for rate in drop_path_rates]
        return Stage(merging, token_proj, blocks, self.with_cp)

    def _make_block(self, i: int, drop_path_rate: float) -> DualTokenBlock:
        dim, heads, kernel_size, num_convs, ffn_ratio = (
            self.arch[key][i]
            for key in ("embed_dims", "num_heads", "kernel_sizes", "down_convs", "ffn_ratios")
        )
        build = {
            name: CHECK.factory(name, getattr(self, name), arguments)
            for name, arguments in CALLED_WITH.items()
        }
        local_encoder = downsample = nn.Identity()
        if kernel_size is not None:
            local_encoder = build["local_encoder"](dim, heads, kernel_size)
            downsample = build["downsample"](dim, num_convs)
        token_module = build["token_module"](
            dim, heads, self.token_size, downsample, build["token_mlp"], self.alpha
        )
        return DualTokenBlock(dim, local_encoder, token_module, ffn_ratio, drop_path_rate)

    def _reset_parameters(self) -> None:
        """Start Linears and tokens by trunc-normal 0.02, biases by 0; the rest as in torch."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.global_tokens is not None:
            nn.init.trunc_normal_(self.global_tokens, std=0.02)

    def init_weights(self) -> None:
        """Apply `init_cfg` (checkpoints by `load_backbone`), and log how the backbone starts."""
        given = self.init_cfg
        self.init_cfg, checkpoint = use_our_pretrained(given)
        start = f"starts from {checkpoint}" if checkpoint else SCRATCH
        if not checkpoint and self.init_cfg:
            kinds = (getattr(cfg["type"], "__name__", cfg["type"]) for cfg in self.init_cfg)
            start += f"; initialised by {', '.join(kinds)}"
        outputs = self.out_norm_cfg["type"] if self.out_norm_cfg else "no norm"
        stem = "eval" if self.norm_eval else "train"
        print_log(
            f"DualTokenViT {start}; outputs normalised by {outputs}, stem BatchNorm in {stem} mode",
            logger="current",
        )
        try:
            super().init_weights()
        finally:
            self.init_cfg = given

    def resize_loaded_tokens(self, state_dict: dict, prefix: str, *args) -> None:
        """Before loading, resize a checkpoint's token grid to this model's, in `state_dict`."""
        tokens = state_dict.get(f"{prefix}global_tokens")
        if tokens is None or self.global_tokens is None or not self.token_module.grid:
            return
        old, new = tuple(tokens.shape[1:3]), self.token_size
        if old == new or tokens.dim() != 4:
            return
        resize_state(state_dict, prefix, new)
        print_log(
            f"DualTokenViT: checkpoint's token grid {old[0]}x{old[1]} resized to {new[0]}x{new[1]}",
            logger="current",
        )

    def get_layer_depth(self, param_name: str, prefix: str = "backbone.") -> tuple[int, int]:
        """Return a parameter's depth, for learning rates that fall towards the image.

        Depth 0 is the stem with the global tokens, 1 to sum(depths) are the blocks. Merging and
        token projection belong to the block after them, the output norms to the last layer.

        Args:
            param_name: name in the whole model.
            prefix: prefix of the backbone's names there; all other names are of the last layer.

        Returns:
            the depth, and the number of layers, sum(depths) + 2.
        """
        depths = [len(stage.blocks) for stage in self.stages]
        last = sum(depths) + 1
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix) or re.match(r"norm\d\.", name):
            return last, last + 1
        if place := re.match(r"stages\.(\d+)\.(?:blocks\.(\d+)\.)?", name):
            return sum(depths[: int(place[1])]) + int(place[2] or 0) + 1, last + 1
        return 0, last + 1

    def _frozen(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.stem, *self.stages[: self.frozen_stages]]

    def _freeze(self) -> None:
        for module in self._frozen():
            module.requires_grad_(False)
        if self.frozen_stages > 0 and self.global_tokens is not None:
            self.global_tokens.requires_grad_(False)

    def train(self, mode: bool = True) -> "DualTokenViT":
        """Set the mode; frozen parts, and with `norm_eval` the stem's BatchNorm, stay in eval."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        if self.norm_eval:
            for module in self.stem.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, 3, H, W) -> maps (B, C_i, ceil(H / s_i), ceil(W / s_i)) of `out_indices`."""
        return self.forward_stages(self.stem(x))

    def forward_stages(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Output of the stem (B, ceil(H/8), ceil(W/8), C_1) -> the maps of `out_indices`."""
        tokens = self.global_tokens
        if tokens is not None:
            tokens = tokens.flatten(1, 2).expand(x.shape[0], -1, -1)
        outs = []
        for i, stage in enumerate(self.stages):
            x, tokens = stage(x, tokens)
            if i in self.out_indices:
                out = getattr(self, f"norm{i}")(x.permute(0, 3, 1, 2))  # (B, C, H, W)
                # mmcv's RoIAlign reads memory as (B, C, H, W) without looking: channels-last maps
                # would silently give it other values.
                outs.append(out.contiguous())
        return tuple(outs)
