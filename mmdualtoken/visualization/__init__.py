"""Looking into a model. Plots, which need matplotlib, are in `token_figures`."""

from .tokens import BlockMaps, TokenMaps, inspect_tokens

__all__ = ["BlockMaps", "TokenMaps", "inspect_tokens"]
