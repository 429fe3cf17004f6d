"""Learning rates that fall layer by layer towards the image, in any toolbox."""

from numbers import Real

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from mmdualtoken.errors import InputError
from mmdualtoken.weights.pretrained import PREFIX


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(force=True)
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's default constructor, with a layer-wise decayed learning rate in the backbone.

    A backbone parameter of depth d out of n layers, by the backbone's `get_layer_depth`, learns at
    layer_decay_rate ** (n - 1 - d) of the rate it would have otherwise; everything outside the
    backbone keeps its rate. mmpretrain's constructor gives the same to a classifier; those of mmdet
    and mmseg know certain backbones only. All options of the default constructor work as well.

    Args:
        optim_wrapper_cfg: config of the optimizer wrapper, with `optimizer` and its `lr`.
        paramwise_cfg: with `layer_decay_rate`, above 0 and at most 1, and MMEngine's options.

    Raises:
        InputError: the rate is missing or out of range, the optimizer has no `lr`, or the model's
            backbone has no `get_layer_depth(param_name, prefix)`.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        rate = self.paramwise_cfg.get("layer_decay_rate")
        if not isinstance(rate, Real) or isinstance(rate, bool) or not 0 < rate <= 1:
            raise InputError(
                f"LayerDecayOptimWrapperConstructor: paramwise_cfg.layer_decay_rate={rate!r}; a "
                "number above 0 and at most 1 is needed, for instance "
                "paramwise_cfg=dict(layer_decay_rate=0.8)."
            )
        if self.base_lr is None:
            raise InputError(
                "LayerDecayOptimWrapperConstructor: the optimizer's config has no lr; set "
                "optim_wrapper.optimizer.lr."
            )

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", **kwargs) -> None:
        """Add the parameter groups of `module` and, once all are there, scale the backbone's."""
        super().add_params(params, module, prefix=prefix, **kwargs)
        if not prefix:
            self._scale(params, module)

    def _scale(self, params: list[dict], model: nn.Module) -> None:
        backbone = getattr(model, "backbone", None)
        if not hasattr(backbone, "get_layer_depth"):
            raise InputError(
                f"LayerDecayOptimWrapperConstructor: the backbone of {type(model).__name__} is of "
                f"type {type(backbone).__name__}, which has no get_layer_depth(param_name, prefix) "
                "and so cannot be trained with layer decay. Use DualTokenViT, or leave "
                "optim_wrapper.constructor and layer_decay_rate out."
            )
        rate = self.paramwise_cfg["layer_decay_rate"]
        names = {id(param): name for name, param in model.named_parameters()}
        scales = {}
        for group in params:
            (param,) = group["params"]  # the default constructor makes a group for each
            if names[id(param)].startswith(PREFIX):
                depth, num_layers = backbone.get_layer_depth(names[id(param)], PREFIX)
                scales[depth] = rate ** (num_layers - 1 - depth)
                group["lr"] = group.get("lr", self.base_lr) * scales[depth]
        ends = f", from {min(scales.values()):.3g} to {max(scales.values()):.3g}" if scales else ""
        print_log(
            f"layer decay {rate}: learning rates of {type(backbone).__name__} multiplied by depth"
            f"{ends}, on top of the options above; all others as they are",
            logger="current",
        )
