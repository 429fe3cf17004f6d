"""lab/grow_weights.py: small from tiny's weights."""

import torch
from helpers import distance, rand, randomise

from lab.grow_weights import Growth, grow_classifier
from mmdualtoken.models import DualTokenViT


def backbone(arch):
    model = DualTokenViT(arch, token_size=3, token_mlp="mix", out_norm_cfg=None)
    return randomise(model.double().eval())


def test_small_computes_what_tiny_does(monkeypatch):
    """With norms that do not divide: each channel of small repeats one of tiny's, to rounding."""
    monkeypatch.setattr(torch.nn.LayerNorm, "forward", lambda norm, x: x * norm.weight + norm.bias)
    tiny, small, growth = backbone("tiny"), backbone("small"), Growth()
    state = {f"backbone.{name}": tensor for name, tensor in tiny.state_dict().items()}
    state["neck.fc.weight"] = rand(1280, 192)
    grown = grow_classifier(state, growth)
    neck = grown.pop("neck.fc.weight")
    small.load_state_dict({name.removeprefix("backbone."): v for name, v in grown.items()})
    images = rand(2, 3, 64, 96)
    with torch.no_grad():
        maps, expected = small(images), tiny(images)
    pairs = [(m, e[:, s]) for m, e, s in zip(maps, expected, growth.stages, strict=True)]
    before, after = (outs[-1].mean((2, 3)) for outs in (expected, maps))
    pairs.append((after @ neck.T, before @ state["neck.fc.weight"].T))
    assert distance(*zip(*pairs, strict=True)) < 1e-4


def test_copies_are_not_the_same():
    """They would learn the same for ever: what reads them differs."""
    tiny, growth = backbone("tiny"), Growth()
    state = {f"backbone.{name}": tensor for name, tensor in tiny.state_dict().items()}
    grown = grow_classifier(state, growth)["backbone.stages.2.blocks.0.proj.weight"]
    source = growth.stages[2]
    first, second = (source == source[-1]).nonzero().flatten()
    assert (grown[:, first] - grown[:, second]).abs().max() > 1e-3
