"""Carry learned tokens and token-mixing weights from one token grid to another."""

import torch
import torch.nn.functional as F


def resize_matrix(old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    """Bilinear resize from an `old` to a `new` grid as a matrix R, (new h*w, old h*w), fp64.

    Each row sums to 1, so that constants stay constant.
    """
    n = old[0] * old[1]
    basis = torch.eye(n, dtype=torch.float64).view(n, 1, *old)
    resized = F.interpolate(basis, new, mode="bilinear", align_corners=False)  # column j of R
    return resized.flatten(1).T


def resize_tokens(tokens: torch.Tensor, new: tuple[int, int]) -> torch.Tensor:
    """Resize global tokens: (1, h, w, C) -> (1, h', w', C)."""
    old = tuple(tokens.shape[1:3])
    r = resize_matrix(old, new).to(tokens.device)
    resized = r @ tokens.double().flatten(1, 2)[0]
    return resized.view(1, *new, -1).to(tokens.dtype)


def resize_token_mix(
    weight: torch.Tensor, bias: torch.Tensor, old: tuple[int, int], new: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Resize the Linear over tokens of the mix MLP: W' = R W R^T n / n', b' = R b.

    n / n' keeps the sum over a changed number of input tokens at its scale; at equal size all is
    the identity.

    Args:
        weight: (n, n) with n = h * w of the old grid.
        bias: (n,).
        old: old grid (h, w).
        new: new grid (h', w').

    Returns:
        weight (n', n') and bias (n',).
    """
    r = resize_matrix(old, new).to(weight.device)
    n_old, n_new = r.shape[1], r.shape[0]
    weight_new = r @ weight.double() @ r.T * (n_old / n_new)
    return weight_new.to(weight.dtype), (r @ bias.double()).to(bias.dtype)


def resize_state(state: dict, prefix: str, new: tuple[int, int]) -> None:
    """Bring a backbone's tokens and mix MLPs to another grid, in its state dict, in place.

    Args:
        state: tensors by name.
        prefix: what the backbone's names begin with.
        new: the grid (h, w) to bring them to.
    """
    tokens = state[f"{prefix}global_tokens"]
    old = tuple(tokens.shape[1:3])
    state[f"{prefix}global_tokens"] = resize_tokens(tokens, new)
    suffix = "mlp.token_mix.weight"
    for key in [k for k in state if k.startswith(prefix) and k.endswith(suffix)]:
        bias = key.removesuffix("weight") + "bias"
        if state[key].shape != (old[0] * old[1],) * 2:
            continue  # of another grid than its tokens: it is refused as it is
        state[key], state[bias] = resize_token_mix(state[key], state[bias], old, new)
