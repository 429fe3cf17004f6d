"""DDP on two processes (gloo): gradients are those of one process on the joint batch."""

from copy import deepcopy
from itertools import combinations

import pytest
from helpers import VARIANTS, build, rand, randomise
from ranks import WORLD, outcome, run_ranks
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

SUBSETS = [c for n in (1, 2, 3) for c in combinations(range(3), n)]
SIZE = 40  # maps of 5, 3 and 2 cells
LR = 0.01


def every_case():
    """Settings of DualTokenViT by name: every way to switch parts off, and every variant."""
    found = {}
    for i, out in enumerate(SUBSETS):
        for frozen in range(-1, 4):
            cp = bool((i + frozen) % 2)
            name = f"out{''.join(map(str, out))}-frozen{frozen}{'-cp' * cp}"
            found[name] = dict(out_indices=out, frozen_stages=frozen, with_cp=cp)
    narrow = {k: v for k, v in VARIANTS.items() if v.get("arch") not in ("tiny", "small")}
    found |= {name: dict(v, with_cp=bool(i % 2)) for i, (name, v) in enumerate(narrow.items())}
    return {**found, "alpha-0": dict(alpha=0.0), "alpha-1": dict(alpha=1.0)}


CASES = every_case()
#: A weight of exactly 0 in the fusion: the other side's parameters get gradients of zero.
ZERO = {"alpha-0": "token_module.mlp", "alpha-1": "token_module.aggregate"}


def loss_of(model, images, rank=None):
    """Mean over the images, each with targets of its own; only image `rank` if that is given."""
    batch = slice(None) if rank is None else slice(rank, rank + 1)
    maps = model(images[batch])
    targets = [rand(WORLD, *m.shape[1:], seed=i)[batch] for i, m in enumerate(maps)]
    return sum((m - t).square().mean() for m, t in zip(maps, targets, strict=True))


def two_steps(rank, settings):
    """The largest difference of gradients, relative where they are large, and of parameters.

    BatchNorm is in eval mode: in training each process would normalise by its own image, and no
    SyncBatchNorm computes on the CPU. All else treats each image by itself, so that in float64
    the gradients differ by the order of sums alone.
    """
    single = randomise(build(**settings).double()).train()
    for module in single.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    wrapped = DistributedDataParallel(deepcopy(single), find_unused_parameters=False)
    pairs = list(zip(single.named_parameters(), wrapped.module.parameters(), strict=True))
    images, errors, unused, zero = rand(WORLD, 3, SIZE, SIZE), [], set(), set()
    for _ in range(2):
        loss_of(single, images).backward()
        loss_of(wrapped, images, rank).backward()
        for (name, one), other in pairs:
            if not one.requires_grad:
                assert other.grad is None, name
                continue
            if one.grad is None or other.grad is None:
                unused.add(name)
                continue
            if not other.grad.any():
                zero.add(name)
            scale = max(1.0, one.grad.abs().max().item())
            errors.append((one.grad - other.grad).abs().max().item() / scale)
            for value in (one, other):
                value.data -= LR * value.grad
                value.grad = None
    errors += [(one - other).abs().max().item() for (_, one), other in pairs]
    return dict(error=max(errors), unused=sorted(unused), zero=sorted(zero))


def all_cases(rank):
    return {name: outcome(two_steps, rank, settings) for name, settings in CASES.items()}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each rank has found, by the names of the cases."""
    return run_ranks(all_cases, tmp_path_factory.mktemp("ranks"))


@pytest.mark.processes
@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_those_of_the_joint_batch(name, found):
    for result in (rank[name] for rank in found):
        assert isinstance(result, dict), result
        assert result["unused"] == []
        if name in ZERO:
            assert any(ZERO[name] in parameter for parameter in result["zero"])
        else:
            assert result["zero"] == []
        assert result["error"] < 1e-12
