"""Building blocks of DualToken-ViT. Image tokens are (B, H, W, C), global tokens (B, n, C)."""

from .attention import CrossAttention, SelfAttention
from .block import DualTokenBlock, Stage
from .downsample import OneStepDownsample, StepwiseDownsample
from .ffn import FFN, BiDimAttention
from .fine_map import InvertedResidual, StemWithFineMap, fine_map
from .local_encoder import ConvEncoder, WindowAttention
from .merging import PatchMerging, TokenProjection
from .stem import Stem
from .token_mlp import TokenMixMLP, TokenMLP
from .tokens import MSATokens, NormalTokens, NoTokens, PositionAwareTokens

__all__ = [
    "FFN",
    "BiDimAttention",
    "ConvEncoder",
    "CrossAttention",
    "DualTokenBlock",
    "InvertedResidual",
    "MSATokens",
    "NoTokens",
    "NormalTokens",
    "OneStepDownsample",
    "PatchMerging",
    "PositionAwareTokens",
    "SelfAttention",
    "Stage",
    "Stem",
    "StemWithFineMap",
    "StepwiseDownsample",
    "TokenMLP",
    "TokenMixMLP",
    "TokenProjection",
    "WindowAttention",
    "fine_map",
]
