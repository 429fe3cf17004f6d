"""Backward passes by autograd, for operators that are written in PyTorch."""

import torch


def gradients(function, tensors, grad_output):
    """Gradients of ``function(*tensors)`` by each of the tensors, given that by its result.

    The forward pass runs again: mmcv's own backward passes get the inputs, not a graph.
    """
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in tensors]
        return torch.autograd.grad(function(*inputs), inputs, grad_output)
