"""The backbones that are compared: ours, and what users would pick instead (timm)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from mmengine.registry import DefaultScope
from mmpretrain.models import ImageClassifier, LinearClsHead
from torch import nn

from mmdualtoken.errors import InputError
from mmdualtoken.models import DualTokenClsNeck, DualTokenViT

NUM_CLASSES = 1000


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


def _ours(arch: str, token_mlp: str) -> nn.Module:
    backbone = dict(arch=arch, token_mlp=token_mlp, out_indices=(2,))
    width = DualTokenViT.arch_settings[arch]["embed_dims"][-1]
    with DefaultScope.overwrite_default_scope("mmpretrain"):  # the classifier builds by name
        return ImageClassifier(
            backbone=dict(type=DualTokenViT, **backbone),
            neck=dict(type=DualTokenClsNeck, in_channels=width),
            head=dict(type=LinearClsHead, num_classes=NUM_CLASSES, in_channels=1280),
        )


def _timm(name: str, **options) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise InputError(f"{name} is timm's, and timm is not installed: pip install timm") from None
    return timm.create_model(name, **options)


def _our_peer(name: str, arch: str, token_mlp: str, accuracy: float) -> Peer:
    return Peer(
        name=name,
        accuracy=accuracy,
        image_size=224,
        source="arXiv 2309.12424",
        classifier=partial(_ours, arch, token_mlp),
        dense=partial(DualTokenViT, arch, token_mlp=token_mlp),
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
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        _our_peer("dualtoken_s", "small", "mix", 79.4),
        _our_peer("dualtoken_t", "tiny", "mix", 75.4),
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
