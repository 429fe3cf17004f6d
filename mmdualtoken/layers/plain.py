"""Whether a layer is what it was built as: only then may a formula read its weights itself."""

from torch import nn


def is_plain(layer: nn.Module, kind: type[nn.Module] = nn.Linear) -> bool:
    """Whether calling the layer is nothing but `kind`'s formula with its weight and bias.

    Not so for layers that users put in its place (LoRA, quantised ones), for parametrised and
    sharded ones, which are classes of their own, and for layers with hooks, as pruning adds them.
    """
    hooks = layer._forward_pre_hooks or layer._forward_hooks
    return type(layer) is kind and not (hooks or layer._backward_pre_hooks or layer._backward_hooks)
