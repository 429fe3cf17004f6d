"""Deployment: the same outputs with fewer operations, for inference alone.

`switch_to_deploy` changes a whole model, `DualTokenViT.switch_to_deploy` (by `Deployable`) the
backbone. `swap_class` gives a layer the deployed class of `DEPLOYED` and calls its `fold`.
BatchNorm is folded by torch's `fuse_conv_bn_eval`. mmcv's `fuse_conv_bn` would not do: it changes
a convolution in place that heads share between levels (RTMDet's), it folds norms that stand before
their convolution or after an activation, and it fails without affine weights or statistics.
"""

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import wrappers
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmdualtoken.models.blocks import (
    BiDimAttention,
    ConvEncoder,
    SelfAttention,
    is_plain,
)
from mmdualtoken.models.tokens import PositionAwareTokens, TokenMixMLP, TokenMLP

REFUSED = (
    "DualTokenViT: after switch_to_deploy() the backbone only predicts and cannot be {}; build a "
    "new model from its config, load the checkpoint of the training, and switch that"
)
CONVS = (nn.Conv2d, wrappers.Conv2d)
TRANSPOSED_CONVS = (nn.ConvTranspose2d, wrappers.ConvTranspose2d)


def switch_to_deploy(model: nn.Module) -> nn.Module:
    """Switch a detector, segmentor or classifier, or any other module, to deployment, in place.

    Every submodule with a method `switch_to_deploy` is switched by it (DualTokenViT, RepVGG, ...),
    and the BatchNorm of mmcv's ConvModules in necks and heads is folded into their convolutions.
    The outputs stay the same up to rounding. A second call does nothing.

    Afterwards the model cannot be trained, and its state dict fits no model for training.

    Returns:
        the model, in eval mode and without gradients.
    """
    model.eval().requires_grad_(False)
    if hasattr(model, "switch_to_deploy"):
        model.switch_to_deploy()
    else:
        switch_children(model)
    fuse_conv_modules(model)
    return model


class Deployable:
    """Mixed into DualTokenViT: `switch_to_deploy`, and the refusal to train or load after it."""

    deployed = False

    @torch.no_grad()
    def switch_to_deploy(self) -> None:
        """Fold the parts that only training needs apart: same outputs, fewer operations.

        BatchNorm goes into the convolutions of the stem. Layer scale and the fusion's alpha go into
        weights. User classes with another forward stay as they are. A second call does nothing.

        Load the checkpoint first: afterwards the backbone takes none, and its state dict fits no
        backbone for training.
        """
        if self.deployed:
            return
        self.eval().requires_grad_(False)
        self.stem.convs = fuse_sequential(self.stem.convs)
        for module in list(self.stages.modules()):
            swap_class(module)
        switch_children(self)
        for module in self.stages.modules():
            if isinstance(module, nn.Conv2d):  # as their inputs in the stages are
                module.to(memory_format=torch.channels_last)
        self._register_load_state_dict_pre_hook(self._refuse_loading)
        self.deployed = True

    def _refuse_loading(self, *args) -> None:
        raise RuntimeError(REFUSED.format("loaded into"))

    def train(self, mode: bool = True) -> "Deployable":
        """Set the mode.

        Raises:
            RuntimeError: `mode` is True after `switch_to_deploy`.
        """
        if mode and self.deployed:
            raise RuntimeError(REFUSED.format("trained"))
        return super().train(mode)


def switch_children(module: nn.Module) -> None:
    """Call the outermost methods `switch_to_deploy` below a module."""
    for child in module.children():
        if hasattr(child, "switch_to_deploy"):
            child.switch_to_deploy()
        else:
            switch_children(child)


# --- layers that change their class


class Deployed:
    """Mixed into the deployed classes: `fold` turns a layer for training into one of them."""

    changes: tuple[str, ...] = ()  # names of the Linears whose weights `fold` changes

    @classmethod
    def changed_linears(cls, layer: nn.Module) -> list[nn.Module]:
        """Return what has to be plain Linears, for `fold` to keep what the layer computes."""
        return [layer.get_submodule(name) for name in cls.changes]


class DeployedConvEncoder(Deployed, ConvEncoder):
    """Z + PW2(GELU(PW1(LN(DWConv(Z))))), with gamma in the weights of PW2."""

    changes = ("pwconv2",)

    def fold(self) -> None:
        scale_outputs(self.pwconv2, self.gamma)
        del self.gamma

    def pointwise(self, z: torch.Tensor) -> torch.Tensor:
        """PW2(GELU(PW1(LN(Z)))): (..., C) -> (..., C)."""
        return self.pwconv2(self.act(self.pwconv1(self.norm(z))))


class DeployedBiDimAttention(Deployed, BiDimAttention):
    """Bi-dimensional attention without a copy of g per position: ws [l, g] = w_l l + w_g g."""

    changes = ("position_gate",)

    def fold(self) -> None:
        w_l, w_g = self.position_gate.weight.chunk(2, dim=-1)
        self.register_buffer("w_l", w_l.clone())
        self.register_buffer("w_g", w_g.clone())
        self.register_buffer("bias", self.position_gate.bias.detach())
        del self.position_gate

    def position_logits(self, loc: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C/4), (B, 1, 1, C/4) -> (B, H, W, 1)."""
        return F.linear(loc, self.w_l) + F.linear(g, self.w_g, self.bias)


class DeployedTokens(Deployed, PositionAwareTokens):
    """G_new = MLP(LN(G)) + X_ga: alpha is in the MLP's weights, 1 - alpha in the aggregation's."""

    @classmethod
    def changed_linears(cls, layer: PositionAwareTokens) -> list[nn.Module]:
        """Return the last Linears of MLP and aggregation; the layer where either is a user's."""
        last = {TokenMLP: "fc2", TokenMixMLP: "channel_mix"}.get(type(layer.mlp))
        is_ours = last and type(layer.aggregate) is SelfAttention
        return [getattr(layer.mlp, last), layer.aggregate.qkv] if is_ours else [layer]

    def fold(self) -> None:
        last, qkv = self.changed_linears(self)
        scale_outputs(last, self.alpha)
        scale_outputs(qkv, 1 - self.alpha, slice(-qkv.out_features // 3, None))  # the values

    def forward(self, x: torch.Tensor, x_local: torch.Tensor, tokens: torch.Tensor) -> tuple:
        """2 x (B, H, W, C), (B, n, C) -> (B, H, W, C), (B, n, C)."""
        g_new = self.mlp(self.norm(tokens)) + self.gather(x_local)
        return self.spread(x, g_new), tokens + g_new


DEPLOYED = {kind.__bases__[1]: kind for kind in Deployed.__subclasses__()}


def swap_class(layer: nn.Module) -> None:
    """Give a layer its deployed class, in place, where there is one that computes the same.

    A user's subclass stays, for it may compute something else. So does a layer that has a user's
    MLP, or another module in place of a Linear whose weights would change.
    """
    deployed = DEPLOYED.get(type(layer))
    if deployed and all(map(is_plain, deployed.changed_linears(layer))):
        layer.__class__ = deployed
        layer.fold()


def scale_outputs(linear: nn.Linear, factor: float | torch.Tensor, outputs=slice(None)) -> None:
    """Multiply the outputs of a Linear, or a slice of them, by a factor, in its weights."""
    factor = torch.as_tensor(factor, dtype=linear.weight.dtype, device=linear.weight.device)
    linear.bias[outputs] *= factor
    linear.weight[outputs] *= factor.reshape(-1, 1)


# --- BatchNorm


def fuse(conv: nn.Module, norm: nn.Module | None) -> nn.Module | None:
    """Return a copy of the convolution with the norm after it in its weights; None if it cannot."""
    has_statistics = isinstance(norm, _BatchNorm) and norm.running_mean is not None
    if has_statistics and is_plain(conv, *CONVS, *TRANSPOSED_CONVS):
        return fuse_conv_bn_eval(conv.eval(), norm.eval(), type(conv) in TRANSPOSED_CONVS)
    return None


def fuse_sequential(layers: nn.Sequential) -> nn.Sequential:
    """Return the layers with each BatchNorm folded into the convolution before it."""
    fused = []
    for layer in layers:
        if fused and (conv := fuse(fused[-1], layer)):
            fused[-1] = conv
        else:
            fused.append(layer)
    return nn.Sequential(*fused)


def fuse_conv_modules(model: nn.Module) -> None:
    """Fold the BatchNorm of each ConvModule into its convolution, where it directly follows it."""
    for module in model.modules():
        if not isinstance(module, ConvModule) or not module.with_norm:
            continue
        follows = module.order.index("norm") == module.order.index("conv") + 1
        if follows and (conv := fuse(module.conv, module.norm)):
            module.conv = conv
            setattr(module, module.norm_name, nn.Identity())
