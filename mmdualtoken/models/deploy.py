"""Switching modules to deployment: inference alone, with fewer and faster operators."""

import torch
from mmcv.cnn import ConvModule
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..layers.deployed import (
    ChannelAffine,
    DeployedTokens,
    deployed,
    fuse_sequential,
    has_statistics,
)

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
