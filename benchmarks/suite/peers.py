"""The backbones that are compared: ours, and what users would pick instead (timm)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from mmengine.registry import MODELS
from torch import nn

from mmdualtoken.cli import find_config, read_config
from mmdualtoken.errors import InputError
from mmdualtoken.export.measure import build_model


@dataclass(frozen=True)
class Peer:
    """A backbone with its classifier.

    Attributes:
        name: as timm or this project names it.
        accuracy: published top-1 on ImageNet-1k in %; never measured here.
        image_size: side in pixels of the images that the accuracy is for.
        source: where the accuracy is published.
        classifier: builds the model for 1000 classes.
        dense: builds the backbone whose forward gives a list of maps.
    """

    name: str
    accuracy: float
    image_size: int
    source: str
    classifier: Callable[[], nn.Module]
    dense: Callable[[], nn.Module]


def _model(config: str, dense: bool = False) -> nn.Module:
    """The classifier of a config of this project, or its backbone with all maps."""
    cfg = read_config(find_config(config))
    backbone = cfg.model.backbone
    backbone.drop_path_rate = 0.0  # as timm's have it
    return MODELS.build(dict(backbone, out_indices=(0, 1, 2))) if dense else build_model(cfg)


def _timm(name: str, **options) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise InputError(f"{name} is timm's, and timm is not installed: pip install timm") from None
    return timm.create_model(name, **options)


def _config_peer(name: str, accuracy: float, source: str, config: str) -> Peer:
    return Peer(
        name=name,
        accuracy=accuracy,
        image_size=224,
        source=source,
        classifier=partial(_model, config),
        dense=partial(_model, config, dense=True),
    )


def _timm_peer(name: str, accuracy: float, image_size: int, source: str) -> Peer:
    return Peer(
        name=name,
        accuracy=accuracy,
        image_size=image_size,
        source=source,
        classifier=partial(_timm, name),
        dense=partial(_timm, name, features_only=True),
    )


_TIMM = "timm results-imagenet.csv"
_PAPER = "arXiv 2309.12424"
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        _config_peer("dualtoken_s", 79.4, _PAPER, "mmpretrain/dualtoken_s_mix_in1k.py"),
        _config_peer("dualtoken_t", 75.4, _PAPER, "mmpretrain/dualtoken_t_mix_in1k.py"),
        _config_peer("lightvit_t", 78.7, "arXiv 2207.05557", "mmpretrain/lightvit_t_in1k.py"),
        _timm_peer("mobilevit_s", 78.3, 256, _TIMM),
        _timm_peer("mobilevitv2_100", 78.1, 256, _TIMM),
        _timm_peer("edgenext_small", 79.4, 256, "arXiv 2206.10589"),
        _timm_peer("pvt_v2_b0", 70.7, 224, _TIMM),
        _timm_peer("pvt_v2_b1", 78.7, 224, _TIMM),
        _timm_peer("efficientformer_l1", 79.2, 224, "arXiv 2206.01191, distilled"),
        _timm_peer("mobilenetv2_140", 76.5, 224, _TIMM),
        _timm_peer("mobilenetv4_conv_medium", 79.9, 256, "arXiv 2404.10518"),
        _timm_peer("repvit_m1_0", 80.0, 224, "arXiv 2307.09283, distilled"),
        _timm_peer("efficientvit_b1", 79.4, 224, "arXiv 2205.14756"),
        _timm_peer("convnextv2_atto", 76.7, 224, "arXiv 2301.00808"),
        _timm_peer("resnet18", 69.8, 224, "torchvision"),
        _timm_peer("resnet50", 76.1, 224, "torchvision"),
    )
}


def choose(names: list[str] | None) -> list[Peer]:
    """The peers of these names in this order, all of them for None.

    Raises:
        InputError: a name is not known.
    """
    unknown = [name for name in names or () if name not in PEERS]
    if unknown:
        raise InputError(f"--models {' '.join(unknown)}: unknown; allowed: {', '.join(PEERS)}")
    return [PEERS[name] for name in names or PEERS]


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics as of a trained model: no gate at 0, no norm that is the identity.

    Speed depends on values only where they are denormal or infinite; fresh layer scales of 1e-6
    and zero-initialised norms would let parts of a network work on almost nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if not value.is_floating_point():
                continue
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("running_mean"):
                value.uniform_(-0.1, 0.1, generator=generator)
            elif value.dim() < 2 or (value.count_nonzero() == 0):
                value.add_(0.5 * (1 + torch.rand(value.shape, generator=generator)))
    return model
