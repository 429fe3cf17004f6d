"""FSDP on two processes (gloo): mmengine's strategy trains as one process does."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from helpers import build, rand, randomise
from mmengine.model import BaseModel
from mmengine.runner import FlexibleRunner
from ranks import WORLD, launch, run_ranks
from tasks import DETECTOR
from torch.distributed.fsdp import FullyShardedDataParallel

from mmdualtoken.models.blocks import DualTokenBlock
from mmdualtoken.training.distributed import FULL_ON_CPU

pytestmark = pytest.mark.processes
STEPS, SIZE = 3, 40
FSDP = dict(
    type="ResumingFSDPStrategy",
    model_wrapper=dict(auto_wrap_policy="dualtoken_wrap_policy", device_id="cpu"),
    state_dict_cfg=FULL_ON_CPU,
)


class Regression(BaseModel):
    """Maps of the backbone against fixed targets; the mean over the images of a batch."""

    def __init__(self, **settings):
        super().__init__()
        self.backbone = randomise(build(norm_eval=True, **settings).double())

    def init_weights(self):  # they are random already
        pass

    def forward(self, inputs, targets, mode="loss"):
        maps = self.backbone(inputs)
        errors = [(m - t).square().mean() for m, t in zip(maps, targets, strict=True)]
        return dict(loss=sum(errors))


class Runner(FlexibleRunner):
    """Without the log of the environment, for which compilers are asked for seconds."""

    def _log_env(self):
        pass


def images():
    """Each image with its targets."""
    with torch.no_grad():
        maps = build().double()(rand(WORLD, 3, SIZE, SIZE))
    targets = [rand(*m.shape, seed=i) for i, m in enumerate(maps)]
    return [
        dict(inputs=rand(WORLD, 3, SIZE, SIZE)[i], targets=[t[i] for t in targets])
        for i in range(WORLD)
    ]


def train(work_dir, strategy, launcher, batch_size, **settings):
    """Train for a few steps; the runner, and its loss at each step."""
    runner = Runner(
        model=Regression(**settings),
        work_dir=work_dir,
        experiment_name=work_dir,  # by default the second it starts in, which others may share
        train_dataloader=dict(
            dataset=images() * STEPS,
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="default_collate"),
            batch_size=batch_size,
        ),
        train_cfg=dict(by_epoch=False, max_iters=STEPS),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9)),
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=1),
            checkpoint=dict(type="CheckpointHook", interval=STEPS, by_epoch=False),
        ),
        log_processor=dict(by_epoch=False),
        strategy=deepcopy(strategy),  # building it takes parts out
        launcher=launcher,
    )
    runner.train()
    history = runner.message_hub.get_scalar("train/loss").data[0]
    return runner, list(history)


VARIANTS = {
    "plain": dict(token_mlp="mix"),
    "checkpointing": dict(with_cp=True),
    "frozen": dict(frozen_stages=1),
}


def sharded(rank, folder):
    found = {}
    for name, settings in VARIANTS.items():
        runner, losses = train(f"{folder}/{name}", FSDP, "pytorch", 1, **settings)
        units = [m for m in runner.model.modules() if isinstance(m, FullyShardedDataParallel)]
        own = sum(p.numel() for p in runner.model.parameters())
        found[name] = dict(losses=losses, units=[type(u.module).__name__ for u in units], own=own)
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdp")
    return folder, run_ranks(sharded, folder, str(folder))


@pytest.mark.parametrize("name", VARIANTS)
def test_sharded_training_is_that_of_one_process(name, ranks, tmp_path):
    folder, found = ranks
    runner, losses = train(str(tmp_path), None, "none", WORLD, **VARIANTS[name])
    one, two = (found[rank][name] for rank in range(WORLD))
    means = [(a + b) / 2 for a, b in zip(one["losses"], two["losses"], strict=True)]
    assert means == pytest.approx(losses, rel=1e-6)  # the history is of float32
    blocks = sum(isinstance(m, DualTokenBlock) for m in runner.model.modules())
    assert one["units"] == two["units"] == ["Regression"] + ["DualTokenBlock"] * blocks
    # Each process holds about half of the parameters.
    total = sum(p.numel() for p in runner.model.parameters())
    assert max(one["own"], two["own"]) < 0.6 * total
    # The checkpoint is that of the whole model, by its own names.
    saved = torch.load(f"{folder}/{name}/iter_{STEPS}.pth", weights_only=False)["state_dict"]
    torch.testing.assert_close(saved, runner.model.state_dict(), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_detector_by_the_tools(project, tool):
    """The lines of docs/distributed.md train the narrow detector and go on, one tests it."""
    Path("sharded.py").write_text(
        f"_base_ = {DETECTOR!r}\n"
        "runner_type = 'FlexibleRunner'\n"
        "strategy = dict(\n"
        "    type='ResumingFSDPStrategy',\n"
        "    model_wrapper=dict(auto_wrap_policy='dualtoken_wrap_policy'),\n"
        "    state_dict_cfg='full',\n"
        ")\n"
    )
    status, printed = launch("dist_train.sh", "sharded.py", WORLD, "--work-dir", "run")
    assert status == 0, printed[-3000:]
    more = ["--resume", "--cfg-options", "train_cfg.max_iters=4"]
    status, printed = launch("dist_train.sh", "sharded.py", WORLD, "--work-dir", "run", *more)
    assert status == 0, printed[-3000:]
    assert "resumed epoch: 0, iter: 2" in printed
    state = torch.load("run/iter_4.pth", weights_only=False)
    assert not any("_fsdp_wrapped_module" in name for name in state["state_dict"])
    assert len(state["optimizer"]["state"]) == len(state["optimizer"]["param_groups"])
    status, printed = tool("test", DETECTOR, "run/iter_4.pth", "--work-dir", "eval")
    assert status == 0, printed[-3000:]
    assert "missing keys" not in printed and "unexpected key" not in printed
