"""Deployment: the same outputs with fewer operations."""

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmdualtoken.models.blocks import (
    BiDimAttention,
    ConvEncoder,
    SelfAttention,
    WindowAttention,
    by_positions,
    is_plain,
)
from mmdualtoken.models.tokens import NoTokens, PositionAwareTokens, TokenMixMLP, TokenMLP

#: The last Linear of each MLP on the tokens, which can take a factor.
LAST_LINEAR = {TokenMLP: "fc2", TokenMixMLP: "channel_mix"}


def has_statistics(norm: nn.Module | None) -> bool:
    """Whether it is a BatchNorm that uses running statistics in eval mode."""
    return isinstance(norm, _BatchNorm) and norm.running_mean is not None


def scale_outputs(linear: nn.Linear, factor: float | torch.Tensor, outputs=slice(None)) -> None:
    """Multiply the outputs of a Linear, or a slice of them, by a factor, in the weights."""
    factor = torch.as_tensor(factor, dtype=linear.weight.dtype, device=linear.weight.device)
    linear.bias[outputs] *= factor
    linear.weight[outputs] *= factor.reshape(-1, 1)


class ChannelAffine(nn.Module):
    """Scale and shift per channel: a BatchNorm with no convolution before it.

    Args:
        norm: the BatchNorm, with running statistics.
    """

    def __init__(self, norm: _BatchNorm):
        super().__init__()
        scale = (norm.running_var + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.detach()
        shift = -norm.running_mean * scale
        if norm.bias is not None:
            shift = shift + norm.bias.detach()
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", shift[:, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return torch.addcmul(self.shift, x, self.scale)


class Constant(nn.Module):
    """Gives out what it was given once, whatever it reads.

    Args:
        value: the tensor, (1, n, C).
    """

    def __init__(self, value: torch.Tensor):
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, n, C) -> (1, n, C)."""
        return self.value


class DeployedConvEncoder(ConvEncoder):
    """Z + PW2(GELU(PW1(LN(DWConv(Z))))), with gamma in the weights of PW2.

    Args:
        encoder: the Conv Encoder for training.
    """

    def __init__(self, encoder: ConvEncoder):
        nn.Module.__init__(self)
        self.hidden = encoder.hidden
        self.dwconv, self.norm = encoder.dwconv, encoder.norm
        self.pwconv1, self.act, self.pwconv2 = encoder.pwconv1, encoder.act, encoder.pwconv2
        scale_outputs(self.pwconv2, encoder.gamma)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        z = self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + by_positions(self.pointwise, z, self.hidden)


class DeployedBiDimAttention(BiDimAttention):
    """Bi-dimensional attention that neither repeats nor copies g for the gate per position.

    Args:
        attention: bi-dimensional attention for training; its position gate is a plain Linear.
    """

    def __init__(self, attention: BiDimAttention):
        nn.Module.__init__(self)
        self.norm, self.act = attention.norm, attention.act
        self.global_reduce, self.local_reduce = attention.global_reduce, attention.local_reduce
        self.channel_gate = attention.channel_gate
        w_loc, w_g = attention.position_gate.weight.chunk(2, dim=-1)
        self.register_buffer("w_loc", w_loc.clone())
        self.register_buffer("w_g", w_g.clone())
        self.register_buffer("bias", attention.position_gate.bias)

    def position(self, loc: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C/4), (B, 1, 1, C/4) -> (B, H, W, 1)."""
        return F.linear(loc, self.w_loc) + F.linear(g, self.w_g, self.bias)


class DeployedWindowAttention(WindowAttention):
    """Window attention whose relative position bias is looked up once.

    Args:
        attention: window attention for training.
    """

    def __init__(self, attention: WindowAttention):
        nn.Module.__init__(self)
        self.num_heads, self.window_size = attention.num_heads, attention.window_size
        self.qkv, self.proj = attention.qkv, attention.proj
        self.register_buffer("bias", attention.relative_position_bias().contiguous())

    def relative_position_bias(self) -> torch.Tensor:
        """(heads, w*w, w*w)."""
        return self.bias


class DeployedTokens(NoTokens):
    """G_new = MLP(LN(G)) + X_ga: alpha is in the MLP's weights, 1 - alpha in the aggregation's.

    Args:
        module: the position-aware token module for training; its MLP is one of `LAST_LINEAR`.
    """

    uses_tokens = True

    def __init__(self, module: PositionAwareTokens):
        nn.Module.__init__(self)
        self.token_size, self.downsample = module.token_size, module.downsample
        self.aggregate, self.broadcast = module.aggregate, module.broadcast
        self.mix = nn.Sequential(module.norm, module.mlp)
        last = getattr(module.mlp, LAST_LINEAR[type(module.mlp)])
        scale_outputs(last, module.alpha)
        qkv = self.aggregate.qkv
        scale_outputs(qkv, 1 - module.alpha, slice(-qkv.out_features // 3, None))

    def precompute(self, tokens: torch.Tensor) -> None:
        """In the first block, which reads the learned tokens (1, n, C): run the MLP once."""
        self.mix = Constant(self.mix(tokens))

    def forward(self, x: torch.Tensor, x_local: torch.Tensor, tokens: torch.Tensor) -> tuple:
        """2 x (B, H, W, C), (B, n, C) -> (B, H, W, C), (B, n, C)."""
        new = self.mix(tokens) + self.gather(x_local)
        return self.spread(x, new), tokens + new


def fuse_sequential(layers: nn.Sequential) -> nn.Sequential:
    """Fold each BatchNorm into the convolution before it; all in eval mode."""
    fused = []
    for layer in layers:
        if has_statistics(layer) and is_plain(fused[-1], nn.Conv2d):
            fused[-1] = fuse_conv_bn_eval(fused[-1], layer)
        else:
            fused.append(layer)
    return nn.Sequential(*fused)


def deployed(module: nn.Module) -> nn.Module:
    """The layer to put in the place of a layer; the same if there is no other.

    A subclass of the user's own stays: it may compute something else. So does a layer with an MLP
    of the user's own, or with something else in the place of a Linear that takes a factor.
    """
    if type(module) is ConvEncoder and is_plain(module.pwconv2):
        return DeployedConvEncoder(module)
    if type(module) is BiDimAttention and is_plain(module.position_gate):
        return DeployedBiDimAttention(module)
    if type(module) is WindowAttention:
        return DeployedWindowAttention(module)
    if type(module) is PositionAwareTokens and type(module.mlp) in LAST_LINEAR:
        last = getattr(module.mlp, LAST_LINEAR[type(module.mlp)])
        if type(module.aggregate) is SelfAttention and all(
            map(is_plain, (last, module.aggregate.qkv))
        ):
            return DeployedTokens(module)
    return module


#: Convolutions whose weights may be scaled; other classes may do more than convolve.
PLAIN_CONVS = ("Conv2d", "ConvTranspose2d")
REFUSED = (
    "DualTokenViT: after switch_to_deploy() the backbone only predicts and cannot be {}; build the "
    "model anew from its config, load the checkpoint of the training, and switch that"
)


def fuse_conv_module(module: ConvModule) -> None:
    """Fold the BatchNorm of a ConvModule into its convolution, where it follows it directly."""
    order = module.order
    if not (module.with_norm and order.index("norm") == order.index("conv") + 1):
        return
    plain = type(module.conv).__name__ in PLAIN_CONVS and not module.with_spectral_norm
    if plain and has_statistics(module.norm):
        transposed = isinstance(module.conv, nn.ConvTranspose2d)
        module.conv = fuse_conv_bn_eval(module.conv.eval(), module.norm.eval(), transposed)
        setattr(module, module.norm_name, nn.Identity())


def switch_children(module: nn.Module) -> None:
    """Call every `switch_to_deploy` below a module, but for those inside one already switched."""
    for child in module.children():
        if hasattr(child, "switch_to_deploy"):
            child.switch_to_deploy()
        else:
            switch_children(child)


class Deployable:
    """Mixed into DualTokenViT: `switch_to_deploy`, and what is refused after it."""

    deployed = False

    @torch.no_grad()
    def switch_to_deploy(self) -> None:
        """Fold what only training needs apart: same outputs, fewer operators, inference alone.

        BatchNorm goes into the convolutions of the stem, at the outputs it becomes a scale and a
        shift; layer scale and the fusion's alpha go into weights; what depends on weights alone
        is computed once: the first block's MLP of the learned tokens, window attention's bias.
        A second call does nothing. Modules of the user's own with another forward stay as they are.

        The state dict afterwards does not load into a backbone for training, nor a checkpoint into
        this one: load first, then switch.
        """
        if self.deployed:
            return
        self.eval().requires_grad_(False)
        self.stem.convs = fuse_sequential(self.stem.convs)
        for module in list(self.stages.modules()):
            for name, child in module.named_children():
                setattr(module, name, deployed(child))
        switch_children(self)
        for i in self.out_indices:
            if has_statistics(norm := getattr(self, f"norm{i}")):
                setattr(self, f"norm{i}", ChannelAffine(norm))
        first = self.stages[0].blocks[0].token_module
        if isinstance(first, DeployedTokens):
            first.precompute(self.global_tokens.flatten(1, 2))
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


def switch_to_deploy(model: nn.Module) -> nn.Module:
    """Switch a detector, segmentor or classifier, or any other module, to deployment, in place.

    Every submodule with a `switch_to_deploy` of its own is switched (DualTokenViT, RepVGG, ...),
    and the BatchNorm of mmcv's ConvModules in necks and heads is folded into their convolutions.
    What the model gives out stays the same up to rounding. A second call does nothing.

    The state dict does not load into a model for training any more, nor can the model be trained.

    Returns:
        the model, in eval mode and without gradients.
    """
    model.eval().requires_grad_(False)
    if hasattr(model, "switch_to_deploy"):
        model.switch_to_deploy()
    else:
        switch_children(model)
    for module in model.modules():
        if isinstance(module, ConvModule):
            fuse_conv_module(module)
    return model
