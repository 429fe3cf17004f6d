"""benchmarks/separation.py: the distance of two classes in maps, and what it refuses."""

import csv
import sys

import pytest
import separation
import torch

from mmdualtoken.errors import InputError

BOX = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])  # centres in cells 1 and 3 of 4


def maps(first, second):
    """(1, 2, 4, 4) of unit variance but for the two boxes' centres."""
    x = torch.tensor([1.0, -1.0]).repeat(8).view(1, 1, 4, 4).repeat(1, 2, 1, 1)
    x[0, :, 1, 1], x[0, :, 3, 3] = torch.tensor(first), torch.tensor(second)
    return x


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_distance_is_that_of_the_centres_in_parts_of_the_variance(scale):
    x = maps([1.0, 0.0], [1.0, 2.0]) * scale
    variance = x.flatten(2).var(2, correction=0).sum().item()
    found = separation.distance(x, [BOX], [torch.tensor([0, 1])], (0, 1))
    assert found == pytest.approx((2.0 * scale) ** 2 / variance)
    assert separation.distance(x, [BOX], [torch.tensor([1, 0])], (1, 0)) == pytest.approx(found)


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["separation.py", *map(str, args)])
    separation.main()


def test_stem_contrast_separates_real_cells(real_data, tmp_path, monkeypatch):
    rows = ["dualtoken_t", "tiny-stem_contrast"]
    out = tmp_path / "out"
    run(monkeypatch, "--rows", *rows, "--images", 8, "--seeds", 1, "--out", out)
    with (out / "separation.csv").open() as file:
        plain, ours = csv.DictReader(file)
    assert (plain["row"], ours["row"]) == tuple(rows)
    for stride in separation.STRIDES:
        assert float(ours[f"stride {stride}"]) > 2 * float(plain[f"stride {stride}"]) > 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--classes", "1", "1"], "give two that differ"),
        (["--classes", "0", "7", "--images", "2"], "no box of label 7 in 2 images"),
        (["--rows", "small-concat"], "not for bccd"),
    ],
)
def test_what_cannot_be_compared_is_refused(args, message, real_data, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=message):
        run(monkeypatch, "--rows", "dualtoken_t", *args, "--out", tmp_path / "out")
