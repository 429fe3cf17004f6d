"""A NaN loss ends training with its circumstances; no checkpoint of broken weights is written."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from mmengine.structures import BaseDataElement
from tasks import TASKS
from toy_training import ToyModel, run, toy_config
from training_runs import last, state_of

from mmdualtoken.errors import InputError
from mmdualtoken.training.nan_loss import NanLossHook, broken_weights, image_files
from mmdualtoken.weights.checkpoints import load_file

NAN, INF = float("nan"), float("inf")


@MODELS.register_module()
class SpoiltModel(ToyModel):
    """ToyModel whose loss, or whose gradients alone, are multiplied by a number in one iteration.

    Args:
        at: the iteration, counted from 1.
        loss: for the loss.
        gradient: for the gradients.
    """

    def __init__(self, at, loss=1.0, gradient=1.0):
        super().__init__()
        self.at, self.loss, self.gradient = at, loss, gradient
        self.done = 0

    def forward(self, inputs, mode="tensor", img_path=None, ballast=None):
        """With the images' names in the batch."""
        found = super().forward(inputs, mode)
        if mode != "loss":
            return found
        self.done += 1
        if self.done == self.at:
            found["loss"] = found["loss"] * self.loss
            found["loss"].register_hook(lambda gradient: gradient * self.gradient)
        return found


@HOOKS.register_module()
class NameImages(Hook):
    """Gives each batch names, by iteration."""

    priority = "VERY_HIGH"

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """As a data set of images does."""
        data_batch["img_path"] = [f"{'ab'[i]}{runner.iter + 1}.jpg" for i in range(2)]


def config(at=4, length=6, **spoilt):
    cfg = toy_config(length=length)
    cfg.model = dict(type="SpoiltModel", at=at, **spoilt)
    cfg.custom_hooks.append(dict(type="NameImages"))
    return cfg


def with_nan_hook(cfg, **arguments):
    cfg.custom_hooks.append(dict(type="NanLossHook", **arguments))
    return cfg


pytestmark = pytest.mark.usefixtures("here")


def checkpoints():
    return sorted(p.name for p in Path("run").glob("*.pth"))


@HOOKS.register_module()
class Norms(Hook):
    """Notes the norms of the gradients that the optimizer gets."""

    found = {}

    def before_train(self, runner):
        def note(optimizer, *args):
            params = optimizer.param_groups[0]["params"]
            self.found[runner.iter + 1] = [float(p.grad.norm()) for p in params]

        runner.optim_wrapper.optimizer.register_step_pre_hook(note)


@pytest.mark.parametrize("kept", [-1, 1])
def test_nan_loss_stops(kept):
    """With the largest gradients first; the last checkpoint stays, also if it is the only one."""
    cfg = config(loss=NAN)
    cfg.default_hooks.checkpoint.max_keep_ckpts = kept
    cfg.custom_hooks.append(dict(type="Norms"))
    with pytest.raises(InputError) as stop:
        run(cfg, "run")
    text = str(stop.value)
    assert "A loss is NaN. Iteration 4, epoch 1: loss nan" in text
    assert "Files of the batch: a4.jpg, b4.jpg." in text
    assert "last update: not finite in any of 2 parameters." in text
    norms = zip(Norms.found[3], ("layer.weight", "layer.bias"), strict=True)
    expected = ", ".join(f"{name} {norm:.3g}" for norm, name in sorted(norms, reverse=True))
    assert f"previous update: {expected}. The last" in text
    assert "last good checkpoint is" in text and "iter_3.pth; --resume" in text
    assert last("run") == "run/iter_3.pth"
    assert checkpoints() == ([f"iter_{i}.pth" for i in (1, 2, 3)] if kept < 0 else ["iter_3.pth"])
    assert all(v.isfinite().all() for v in state_of("run/iter_3.pth")["state_dict"].values())


def test_weights_that_break_while_the_loss_is_finite():
    """A NaN gradient at the iteration of a checkpoint, whose loss was computed before."""
    with pytest.raises(InputError, match=r"NaN or infinity in \d weights .*layer.weight") as stop:
        run(config(gradient=NAN), "run")
    assert "Iteration 4" in str(stop.value) and "a4.jpg" in str(stop.value)
    assert last("run") == "run/iter_3.pth" and "iter_4.pth" not in checkpoints()


def test_infinite_weights_are_broken_and_infinite_buffers_are_not():
    model = torch.nn.Linear(2, 1)
    model.register_buffer("mask", torch.tensor([0.0, -INF]))
    runner = SimpleNamespace(model=model)
    assert broken_weights(runner, dict(state_dict=model.state_dict())) == []
    model.mask[0] = NAN
    model.bias.data[0] = INF
    assert broken_weights(runner, dict(state_dict=model.state_dict())) == ["mask", "bias"]


def test_infinite_loss_is_logged():
    """Its gradients may be finite."""
    records = []
    logger = SimpleNamespace(warning=records.append)
    runner = SimpleNamespace(iter=3, epoch=0, hooks=(), logger=logger)
    batch = dict(img_path=["a.jpg"])
    NanLossHook().after_train_iter(runner, 0, batch, dict(loss=torch.tensor(INF)))
    (text,) = records
    assert text.startswith("A loss is infinite. Iteration 4, epoch 1: loss inf.")


def test_only_warn(capfd):
    """Each time, up to a limit; weights that are NaN are kept out of checkpoints all the same."""
    cfg = with_nan_hook(config(loss=NAN, length=30), action="warn", limit=3)
    cfg.default_hooks.checkpoint.interval = 20
    cfg.train_cfg.val_interval = 100
    with pytest.raises(InputError, match="NaN or infinity in .* Iteration 20,"):
        run(cfg, "run")
    printed = capfd.readouterr().out
    assert printed.count("A loss is NaN. Iteration") == 3
    assert printed.count("No more of these warnings follow") == 1
    assert checkpoints() == []


def test_ignore():
    run(with_nan_hook(config(loss=NAN), action="ignore"), "run")
    assert load_file("run/iter_6.pth")["state_dict"]["layer.weight"].isnan().all()


def test_unknown_action():
    with pytest.raises(ValueError, match="received 'halt'; allowed: stop, warn, ignore"):
        NanLossHook(action="halt")


@pytest.fixture
def scaling_on_the_cpu(monkeypatch):
    """AmpOptimWrapper wants a GPU and its scaler; here it gets the CPU's."""
    from mmengine.optim.optimizer import amp_optimizer_wrapper as amp

    if not hasattr(torch.amp, "GradScaler"):
        pytest.skip("torch.amp.GradScaler, which works on the CPU, came with 2.3")
    monkeypatch.setattr(amp, "is_cuda_available", lambda: True)
    monkeypatch.setattr(amp, "GradScaler", lambda **kw: torch.amp.GradScaler("cpu", **kw))


def amp_config(**spoilt):
    cfg = config(**spoilt)
    cfg.optim_wrapper.update(type="AmpOptimWrapper", dtype="bfloat16", loss_scale="dynamic")
    return cfg


@pytest.mark.parametrize("gradient", [NAN, INF])
def test_skipped_step_of_loss_scaling_is_normal(gradient, scaling_on_the_cpu):
    run(amp_config(gradient=gradient), "run")
    state = load_file("run/iter_6.pth")
    assert state["optimizer"]["loss_scaler"]["scale"] == 2.0**15  # halved once
    assert all(v.isfinite().all() for v in state["state_dict"].values())


def test_nan_loss_with_loss_scaling_stops(scaling_on_the_cpu):
    """Although its step was skipped; the gradients are those of the last update that was made."""
    with pytest.raises(InputError, match="A loss is NaN. Iteration 4.*layer.weight") as stop:
        run(amp_config(loss=NAN), "run")
    assert last("run") == "run/iter_3.pth"
    assert "not finite" not in str(stop.value)


def test_hook_changes_no_bit_and_leaves_nothing_on_the_optimizer():
    runners = []

    @HOOKS.register_module(force=True)
    class Keep(Hook):
        def before_train(self, runner):
            runners.append(runner)

    for name, action in (("with", "stop"), ("without", "ignore")):
        cfg = with_nan_hook(toy_config(), action=action)
        cfg.custom_hooks.append(dict(type="Keep"))
        run(cfg, name)
    a, b = (load_file(f"{name}/iter_6.pth")["state_dict"] for name in ("with", "without"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not runners[0].optim_wrapper.optimizer._optimizer_step_pre_hooks


def test_image_files():
    sample = BaseDataElement(metainfo=dict(img_path="a.jpg"))
    branches = dict(sup=[sample], unsup=[BaseDataElement(metainfo=dict(img_path="b.jpg"))])
    batch = dict(inputs=[torch.zeros(1)], data_samples=branches)
    assert list(image_files(batch)) == ["a.jpg", "b.jpg"]
    assert list(image_files([dict(img_path="c.jpg"), dict(img_path=["d.jpg"])])) == [
        "c.jpg",
        "d.jpg",
    ]
    assert list(image_files(dict(inputs="text", data_samples=[BaseDataElement()]))) == []
    assert list(image_files(None)) == []


@pytest.mark.parametrize("task", TASKS)
def test_real_batches_are_named(task, project, tool):
    """A learning rate that cannot be: one paragraph, status 2, images that exist."""
    options = ["optim_wrapper.optimizer.lr=1e30", "param_scheduler=[]"]
    options.append("train_dataloader.batch_size=2")
    args = [TASKS[task][0], "--work-dir", "run", "--cfg-options", *options]
    status, printed = tool("train", *args)
    assert status == 2, printed
    error = printed[printed.index("error: Training stopped: A loss is NaN") :]
    assert "Traceback" not in printed and "No checkpoint has been written yet" in error
    files = error.split("Files of the batch: ")[1].split(". Largest")[0].split(", ")
    assert len(files) == 2 and all(Path(name).is_file() for name in files)
    assert "nan" not in error.partition("Largest gradient")[2].partition(" No checkpoint")[0]
    if task == "classification":
        status, printed = tool("train", "--on-nan-loss", "warn", *args)
        assert status == 2 and "WARNING - A loss is NaN" in printed
        assert "error: Training stopped: NaN or infinity in" in printed
