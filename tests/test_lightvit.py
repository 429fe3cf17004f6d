"""LightViT, the rival in lab/: its attention against plain loops, its size, its reach."""

import sys
from pathlib import Path

import pytest
import reference
import torch
from helpers import exact, rand, same
from mmengine.config import Config
from narrow import ROOT

from lab.lightvit import LightViTAttention, LightViTBlock
from mmdualtoken.cli import find_config, read_config
from mmdualtoken.export.breakdown import break_down


def plain_attention(p, tokens, x, num_heads):
    """Windows one by one, without a projection; tokens attend to the whole map, then it to them."""
    b, height, width, c = x.shape
    unprojected = {"proj.weight": torch.eye(c).double(), "proj.bias": torch.zeros(c).double()}
    local = reference.window_attention({**p, **unprojected}, x, num_heads)

    def qkv(z):
        return reference.linear(reference.sub(p, "qkv"), z).split(c, -1)

    image = qkv(x.reshape(b, height * width, c))
    gathered = reference.attention(qkv(tokens)[0], image[1], image[2], num_heads)
    k, v = reference.linear(reference.sub(p, "kv_global"), gathered).split(c, -1)
    broadcast = reference.attention(image[0], k, v, num_heads)
    out = torch.cat([gathered, local.flatten(1, 2) + broadcast], 1)
    return reference.linear(reference.sub(p, "proj"), out)


@pytest.mark.parametrize("size", [(7, 7), (14, 7), (9, 5)])
def test_attention(size):
    layer, p = exact(LightViTAttention(12, 3))
    tokens, x = rand(2, 4, 12), rand(2, *size, 12, seed=1)
    z = torch.cat([tokens, x.flatten(1, 2)], 1)
    same(layer(z, size), plain_attention(p, tokens, x, 3))


def test_block():
    block, p = exact(LightViTBlock(12, 3, ffn_ratio=2))
    tokens, x = rand(2, 4, 12), rand(2, 8, 5, 12, seed=1)

    def norm(name, z):
        return reference.layer_norm(reference.sub(p, name), z, reference.NORM_EPS)

    z = torch.cat([tokens, x.flatten(1, 2)], 1)
    image = norm("norm1", x)
    z = z + plain_attention(reference.sub(p, "attention"), norm("norm1", tokens), image, 3)
    ffn = reference.ffn(reference.sub(p, "ffn"), norm("norm2", z))
    z = z + reference.bidim(reference.sub(p, "bidim"), ffn[:, None])[:, 0]
    new_x, new_tokens = block(x, tokens)
    same(new_tokens, z[:, :4])
    same(new_x.flatten(1, 2), z[:, 4:])


@pytest.mark.parametrize(
    "config, params, macs",
    [
        ("mmpretrain/lightvit_t_in1k.py", 9.38e6, 0.77e9),  # stated in LightViT's paper
        ("mmdet/maskrcnn_lightvit_t_1x.py", None, 187e9),  # stated in its repository
    ],
)
def test_size(config, params, macs):
    counted = break_down(Config.fromfile(find_config(config)))
    assert params is None or counted.params == pytest.approx(params, rel=0.001)
    assert counted.macs == pytest.approx(macs, rel=0.001)


def test_tools_can_import_it(monkeypatch, tmp_path):
    """Tools start with tools/ on the path instead of the clone, and copy configs to a work dir."""
    before = [p for p in sys.path if Path(p).resolve() != ROOT]
    monkeypatch.setattr(sys, "path", [*before])
    for name in [name for name in sys.modules if name.split(".")[0] == "lab"]:
        monkeypatch.delitem(sys.modules, name)
    file = tmp_path / "copy.py"
    file.write_text("custom_imports = dict(imports=['lab.scenes'], allow_failed_imports=False)")
    with pytest.raises(ImportError):
        Config.fromfile(file)
    read_config(file)
    assert sys.path == before
