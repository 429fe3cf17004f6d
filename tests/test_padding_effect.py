"""The measurement of what padding changes: what it keeps out, and that it leaves no trace."""

import sys

import padding_effect as tool
import pytest
import torch
from helpers import VARIANTS, build, rand, randomise, same


def changes(model, image, pad, parts=()):
    pairs = zip(tool.maps_of(model, image, pad, parts), tool.maps_of(model, image, 0), strict=True)
    return [(a - b).abs().max().item() for a, b in pairs]


@pytest.mark.parametrize("variant", ["mix", "none", "normal", "msa"])
def test_without_padding_nothing_changes_and_no_trace_is_left(variant):
    model = randomise(build(**VARIANTS[variant])).double().eval()
    image = rand(1, 3, 64, 96)
    expected = model(image)
    for parts in tool.PARTS.values():
        assert changes(model, image, 0, parts) == pytest.approx([0, 0, 0], abs=1e-12)
        assert min(changes(model, image, 96, parts)) > 1e-3
    for out, value in zip(model(image), expected, strict=True):
        assert torch.equal(out, value)


class Nothing(torch.nn.Module):
    """A residual branch that is not there."""

    def forward(self, x, *args):
        return torch.zeros_like(x)


@pytest.mark.parametrize("part", ["tokens", "bidim"])
def test_each_part_alone_is_kept_out_entirely(part):
    """Where nothing but the tokens, or BiDim, looks beyond a cell, keeping it out leaves nothing.

    The stem does look beyond, so it is given the same map in both cases; stage 1 alone is built.
    """
    arch = dict(build().arch, kernel_sizes=(None, None, None))
    model = randomise(build(arch=arch, out_indices=0)).double().eval()
    if part == "bidim":
        for block in model.stages[0].blocks:
            block.proj = Nothing()
    else:
        for block in model.stages[0].blocks:
            block.ffn = Nothing()
    patches = torch.nn.Conv2d(3, 16, 8, 8).double()
    model.stem.forward = lambda x: patches(x).permute(0, 2, 3, 1)
    image = rand(1, 3, 64, 96)
    other = "bidim" if part == "tokens" else "tokens"
    assert changes(model, image, 48)[0] > 1e-3
    assert changes(model, image, 48, (other,))[0] > 1e-3
    same(torch.tensor(changes(model, image, 48, (part,))[0]), torch.tensor(0.0), tol=1e-12)


def test_prints_its_table(monkeypatch, capsys):
    monkeypatch.setattr(tool, "SHARES", (0, 50))
    monkeypatch.setattr(
        sys, "argv", ["x", "--images", "2", "--train-steps", "1", "--train-padding"]
    )
    tool.main()
    head, _, *rows = capsys.readouterr().out.strip().splitlines()
    assert head.count("|") == rows[0].count("|") == 15
    assert [row.split("|")[1].strip() for row in rows] == ["0 %", "50 %"]
    assert rows[0].count(" 0.0 %") == 12
    assert rows[1].count(" 0.0 %") < 12
