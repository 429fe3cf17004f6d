"""SyncBatchNorm in two processes normalises as BatchNorm in one does on the joint batch.

PyTorch computes it on GPUs only: with two of them by nccl; with one, which the processes share, by
gloo.
"""

from copy import deepcopy

import pytest
import torch
from helpers import build, rand, randomise
from mmengine.model import convert_sync_batchnorm
from ranks import WORLD, run_ranks
from torch.nn.parallel import DistributedDataParallel

GPUS = torch.cuda.device_count()
STEPS, LR = 2, 0.01


def loss_of(model, images):
    return sum(feature.square().mean() for feature in model(images))


def two_steps(rank, settings):
    """The largest difference of gradients, parameters and running statistics, relative where they
    are large.
    """
    device = torch.device("cuda", rank % GPUS)
    torch.cuda.set_device(device)
    single = randomise(build(**settings).double()).to(device).train()
    synced = convert_sync_batchnorm(deepcopy(single), "torch")
    wrapped = DistributedDataParallel(synced, device_ids=[device.index])
    assert any(isinstance(m, torch.nn.SyncBatchNorm) for m in synced.modules())
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in synced.modules())
    images = rand(WORLD, 3, 64, 64).to(device)
    errors = []

    def compare(one, other):
        errors.append((one - other).abs().max().item() / max(1.0, one.abs().max().item()))

    for _ in range(STEPS):
        loss_of(single, images).backward()
        loss_of(wrapped, images[rank : rank + 1]).backward()
        for one, other in zip(single.parameters(), synced.parameters(), strict=True):
            compare(one.grad, other.grad)
            for value in (one, other):
                value.data -= LR * value.grad
                value.grad = None
    state = synced.state_dict()
    for name, value in single.state_dict().items():
        compare(value.double(), state[name].double())
    return max(errors)


@pytest.mark.skipif(GPUS == 0, reason="PyTorch computes SyncBatchNorm on GPUs only")
@pytest.mark.parametrize("norm", ["BN", "LN"])
def test_statistics_are_those_of_the_joint_batch(norm, tmp_path):
    """Of the outputs, if they have it, and the stem: statistics and gradients of two steps."""
    settings = dict(out_norm_cfg=dict(type=norm))
    backend = "nccl" if GPUS >= WORLD else "gloo"
    for error in run_ranks(two_steps, tmp_path, settings, backend=backend):
        assert error < 1e-9
