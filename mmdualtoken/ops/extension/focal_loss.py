"""Focal losses of logits or probabilities (N, C) for labels (N,), and their gradients.

A label outside 0 to C - 1 is background: no class is right. Logarithms are computed from logits,
which stays exact where mmcv's kernels clamp.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softmax_focal_loss_backward",
    "softmax_focal_loss_forward",
]


def class_weights(target: Tensor, weight: Tensor, classes: int) -> Tensor:
    """The weight (N,) of each label's class; 1 for background and without weights."""
    if weight.numel() == 0:
        return weight.new_ones(len(target))
    known = (target >= 0) & (target < classes)
    return torch.where(known, weight[target.clamp(0, classes - 1)], weight.new_ones(()))


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """-alpha (1-p)^gamma log(p) for the right class, -(1-alpha) p^gamma log(1-p) for the others.

    Args:
        input: logits (N, C); p is their sigmoid.
        target: (N,), int64.
        weight: (C,), a factor for each label's class, or empty.
        output: (N, C), receives the losses.
    """
    right = target[:, None] == torch.arange(input.shape[1], device=input.device)
    p = input.sigmoid()
    of_right = -alpha * (1 - p) ** gamma * F.logsigmoid(input)
    of_wrong = -(1 - alpha) * p**gamma * F.logsigmoid(-input)
    factors = class_weights(target, weight, input.shape[1])[:, None]
    output.copy_(torch.where(right, of_right, of_wrong) * factors)


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Gradient of each loss by its logit, into ``grad_input`` (N, C)."""
    right = target[:, None] == torch.arange(input.shape[1], device=input.device)
    p = input.sigmoid()
    of_right = -alpha * (1 - p) ** gamma * (1 - p - gamma * p * F.logsigmoid(input))
    of_wrong = (1 - alpha) * p**gamma * (p - gamma * (1 - p) * F.logsigmoid(-input))
    factors = class_weights(target, weight, input.shape[1])[:, None]
    grad_input.copy_(torch.where(right, of_right, of_wrong) * factors)


def probability_of_label(softmax: Tensor, target: Tensor) -> tuple:
    """The probability (N,) of each label, and which labels are classes."""
    known = (target >= 0) & (target < softmax.shape[1])
    labels = target.clamp(0, softmax.shape[1] - 1)
    return softmax.gather(1, labels[:, None])[:, 0], known


def softmax_focal_loss_forward(
    softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """-alpha (1-p)^gamma log(p), p being the label's probability, into ``output`` (N,).

    Args:
        softmax: probabilities (N, C).
        target: (N,), int64; background has a loss of 0.
        weight: (C,), a factor for each label's class, or empty.
    """
    p, known = probability_of_label(softmax, target)
    loss = -alpha * (1 - p) ** gamma * p.clamp(min=torch.finfo(p.dtype).tiny).log()
    output.copy_(torch.where(known, loss * class_weights(target, weight, softmax.shape[1]), 0))


def softmax_focal_loss_backward(
    softmax: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Gradient of each loss by the logits, into ``grad_input`` (N, C).

    Args:
        buff: (N,), receives the gradient by log(p).
    """
    p, known = probability_of_label(softmax, target)
    log_p = p.clamp(min=torch.finfo(p.dtype).tiny).log()
    slope = alpha * (gamma * (1 - p) ** (gamma - 1) * p * log_p - (1 - p) ** gamma)
    slope = torch.where(p < 1, slope, -alpha * (1 - p) ** gamma)  # (gamma - 1) may be negative
    buff.copy_(torch.where(known, slope * class_weights(target, weight, softmax.shape[1]), 0))
    right = target[:, None] == torch.arange(softmax.shape[1], device=softmax.device)
    grad_input.copy_(buff[:, None] * (right.to(softmax) - softmax))
