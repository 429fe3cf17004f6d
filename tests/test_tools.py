"""tools/train.py and tools/test.py for the three toolboxes."""

import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from ranks import launch
from safetensors.torch import save_file
from tasks import DETECTOR, RTMDET, TASKS

from mmdualtoken.weights.checkpoints import allow_mmengine_checkpoints, load_file

ROOT = Path(__file__).resolve().parent.parent


def touch(name):
    Path(name).touch()
    return name


def metrics_of(work_dir):
    (file,) = work_dir.glob("*/*.json")
    return json.loads(file.read_text())


@pytest.mark.parametrize("task", TASKS)
def test_train_then_test(task, project, tool):
    config, metric = TASKS[task]
    status, printed = tool("train", config)
    assert status == 0
    assert "DualTokenViT starts from scratch" in printed
    norm = "LN" if task == "classification" else "BN"
    assert f"outputs normalised by {norm}, stem BatchNorm in train mode" in printed
    work_dir = project / "work_dirs" / Path(config).stem
    checkpoint = Path((work_dir / "last_checkpoint").read_text())

    pictures = ["--show-dir", "pictures", "--out", "predictions.pkl"]
    status, printed = tool("test", config, checkpoint, "--work-dir", "eval", *pictures)
    assert status == 0
    value = metrics_of(project / "eval")[metric]
    assert 0 <= value <= 100
    assert len(pickle.loads((project / "predictions.pkl").read_bytes())) == 6
    drawn = [p for p in (project / "eval").rglob("*") if p.suffix in (".png", ".jpg")]
    assert len(drawn) == 6
    (named,) = re.findall(r"Pictures: (\S+)$", printed, re.M)
    assert {p.parent for p in drawn} == {project / named}


def test_rtmdet_switches_its_pipeline(project, tool, monkeypatch):
    """One epoch of 8 images through the first pipeline, with mosaics, one through the second."""
    from mmdet.datasets.transforms import CachedMosaic

    mosaics = []
    transform = CachedMosaic.transform
    monkeypatch.setattr(
        CachedMosaic, "transform", lambda *args: mosaics.append(1) or transform(*args)
    )
    status, printed = tool("train", RTMDET, "--work-dir", "run")
    assert status == 0 and "Switch pipeline now!" in printed
    assert len(mosaics) == 8
    assert tool("test", RTMDET, "run/epoch_2.pth", "--work-dir", "eval")[0] == 0
    found = metrics_of(project / "eval")
    assert {"coco/bbox_mAP", "coco/segm_mAP"} <= set(found)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_tta(task, project, tool):
    config, metric = TASKS[task]
    assert tool("train", config, "--work-dir", "run")[0] == 0
    checkpoint = (project / "run" / "last_checkpoint").read_text()
    assert tool("test", config, checkpoint, "--work-dir", "eval", "--tta")[0] == 0
    assert 0 <= metrics_of(project / "eval")[metric] <= 100


def test_tta_of_boxes_but_not_of_masks(project, tool):
    """mmdet merges flipped boxes, but has no rule for masks."""
    status, printed = tool("test", DETECTOR, touch("there.pth"), "--tta")
    assert status == 2 and "--tta" in printed and "masks" in printed
    boxes = ["--cfg-options", "model.roi_head.mask_head=None", "test_evaluator.metric=bbox"]
    boxes += ["val_evaluator.metric=bbox"]
    assert tool("train", DETECTOR, "--work-dir", "run", *boxes)[0] == 0
    args = ["run/iter_2.pth", "--work-dir", "eval", "--tta", *boxes]
    assert tool("test", DETECTOR, *args)[0] == 0
    assert 0 <= metrics_of(project / "eval")["coco/bbox_mAP"] <= 1


def test_resume_continues(project, tool):
    assert tool("train", DETECTOR, "--work-dir", "run")[0] == 0
    options = ["--cfg-options", "train_cfg.max_iters=4"]
    status, printed = tool("train", DETECTOR, "--work-dir", "run", "--resume", *options)
    assert status == 0
    assert "resumed epoch: 0, iter: 2" in printed
    assert re.search(r"Iter\(train\) +\[4/4\]", printed)
    assert not re.search(r"Iter\(train\) +\[1/4\]", printed)
    assert (project / "run" / "iter_4.pth").exists()


def test_checkpoint_loads_with_weights_only(project, tool):
    """Histories of losses in the checkpoint need no unrestricted unpickling."""
    assert tool("train", DETECTOR, "--work-dir", "run")[0] == 0
    allow_mmengine_checkpoints()  # as importing the package does, once for a process
    checkpoint = torch.load(project / "run" / "iter_2.pth", weights_only=True)
    history = checkpoint["message_hub"]["log_scalars"]["train/loss"]
    assert len(history.data[0]) == 2 and history.current() > 0


class Hostile:
    """Pickles as a call of a shell command."""

    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("argument", ["test", "--resume", "--pretrained", "load_from"])
def test_hostile_checkpoint_is_refused(argument, project, tool):
    torch.save(dict(state_dict={}, payload=Hostile()), "hostile.pth")
    if argument == "test":
        status, printed = tool("test", DETECTOR, "hostile.pth")
    elif argument == "load_from":
        status, printed = tool("train", DETECTOR, "--cfg-options", "load_from=hostile.pth")
    else:
        status, printed = tool("train", DETECTOR, argument, "hostile.pth")
    assert status == 2
    assert "hostile.pth was refused" in printed and "Traceback" not in printed
    assert not Path("executed").exists()


def test_getattr_in_a_checkpoint_is_refused(project, tool):
    """HistoryBuffer's methods come as getattr; nothing else may come that way."""

    class Attribute:
        def __reduce__(self):
            return getattr, (torch.Tensor, "tofile")

    torch.save(dict(state_dict={}, payload=Attribute()), "attribute.pth")
    status, printed = tool("test", DETECTOR, "attribute.pth")
    assert status == 2 and "attribute.pth was refused" in printed


@pytest.mark.parametrize("task", TASKS)
def test_checkpoint_of_another_model_is_not_tested(task, project, tool):
    """MMEngine would warn, and measure random weights; tensors that are not needed do no harm."""
    config, metric = TASKS[task]
    assert tool("train", config, "--work-dir", "run")[0] == 0
    state = load_file((project / "run" / "last_checkpoint").read_text())["state_dict"]
    name = next(name for name in state if name.endswith("aggregate.qkv.weight"))
    torch.save(dict(state_dict={k: v for k, v in state.items() if k != name}), "lacks.pth")
    torch.save(dict(state_dict={f"wrong.{k}": v for k, v in state.items()}), "wrong.pth")
    torch.save(dict(state_dict={**state, "more": torch.zeros(1)}), "more.pth")
    status, printed = tool("test", config, "lacks.pth", "--work-dir", "eval")
    assert status == 2 and f"than the config's. Tensors missing (1): {name}" in printed
    status, printed = tool("test", config, "wrong.pth", "--work-dir", "eval")
    assert status == 2 and "Tensors missing (" in printed and "Traceback" not in printed
    status, printed = tool("test", config, "more.pth", "--work-dir", "eval")
    assert status == 0 and metrics_of(project / "eval").keys() >= {metric}


def test_truncated_checkpoint(project, tool):
    assert tool("train", DETECTOR, "--work-dir", "run")[0] == 0
    content = (project / "run" / "iter_2.pth").read_bytes()
    Path("cut.pth").write_bytes(content[: len(content) // 2])
    status, printed = tool("test", DETECTOR, "cut.pth")
    assert status == 2 and "cut.pth cannot be read" in printed


def test_earlier_run_is_not_overwritten(project, tool):
    assert tool("train", DETECTOR, "--work-dir", "run")[0] == 0
    before = (project / "run" / "iter_2.pth").read_bytes()
    status, printed = tool("train", DETECTOR, "--work-dir", "run")
    assert status == 2
    assert "iter_2.pth" in printed and "--resume" in printed and "--overwrite" in printed
    assert (project / "run" / "iter_2.pth").read_bytes() == before
    status, printed = tool("train", DETECTOR, "--work-dir", "other", "--resume", "run/iter_2.pth")
    assert status == 0  # another work dir, with nothing in it
    (project / "run" / "last_checkpoint").unlink()
    status, printed = tool("train", DETECTOR, "--work-dir", "run", "--resume")
    assert status == 2 and "--overwrite" in printed  # it would have started from iteration 0
    assert tool("train", DETECTOR, "--work-dir", "run", "--overwrite")[0] == 0


@pytest.mark.parametrize("flag", ["--local-rank", "--local_rank"])
def test_both_spellings_of_the_local_rank(flag, project, tool):
    assert tool("train", DETECTOR, flag, "0")[0] == 0


def test_testing_leaves_the_training_folder_alone(project, tool):
    assert tool("train", DETECTOR)[0] == 0
    folder = project / "work_dirs" / "maskrcnn_narrow"
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert tool("test", DETECTOR, folder / "iter_2.pth")[0] == 0
    assert {p: p.read_bytes() for p in before} == before
    assert list((folder / "test").glob("*/*.json"))


def test_pretrained(project, tool):
    """A classifier's weights start the detector, with LayerNorm outputs and BN in eval mode."""
    classifier, _ = TASKS["classification"]
    assert tool("train", classifier, "--work-dir", "cls")[0] == 0
    mlp = ["--cfg-options", "optim_wrapper.optimizer.lr=0.0"]
    checkpoint = project / "cls" / "epoch_1.pth"
    args = ["--work-dir", "det", "--pretrained", checkpoint, *mlp]
    status, printed = tool("train", DETECTOR, *args)
    assert status == 0
    assert f"starts from {checkpoint}" in printed
    assert "outputs normalised by LN, stem BatchNorm in eval mode" in printed
    source = load_file(checkpoint)["state_dict"]
    trained = load_file(project / "det" / "iter_2.pth")["state_dict"]
    shared = [k for k in source if k.startswith("backbone.")]
    assert len(shared) > 50
    for key in shared:
        torch.testing.assert_close(trained[key], source[key])


def test_bare_weights_with_averaging(project, tool):
    """EMAHook looks for 'state_dict', which a .safetensors file has not."""
    classifier, _ = TASKS["classification"]
    assert tool("train", classifier, "--work-dir", "cls")[0] == 0
    state = load_file("cls/epoch_1.pth")["state_dict"]
    save_file({k: v.contiguous() for k, v in state.items()}, "bare.safetensors")
    cfg = Config.fromfile(classifier)
    cfg.custom_hooks = [dict(type="EMAHook")]
    cfg.dump("ema.py")
    found = []
    for file in ("cls/epoch_1.pth", "bare.safetensors"):
        status, printed = tool("test", "ema.py", file)
        assert status == 0, printed
        found.append(re.search(r"accuracy/top1: \S+", printed)[0])
    assert found[0] == found[1]
    status, printed = tool("train", "ema.py", "--work-dir", "on", "--resume", "bare.safetensors")
    assert status == 2 and "it holds no state of a training, no meta and no" in printed


def test_pretrained_of_another_variant(project, tool):
    classifier, _ = TASKS["classification"]
    mlp = ["--cfg-options", "model.backbone.token_mlp=mlp"]
    assert tool("train", classifier, "--work-dir", "cls", *mlp)[0] == 0
    status, printed = tool("train", DETECTOR, "--pretrained", "cls/epoch_1.pth")
    assert status == 2 and "does not fit" in printed and "token_module.mlp.token_mix" in printed
    state = load_file("cls/epoch_1.pth")["state_dict"]
    torch.save({k.removeprefix("backbone."): v for k, v in state.items()}, "bare.pth")
    status, printed = tool("train", DETECTOR, "--pretrained", "bare.pth")
    assert status == 2 and "no tensor is named 'backbone." in printed


def test_pretrained_needs_our_backbone(project, tool):
    options = ["--cfg-options", "model.backbone.type=ResNet"]
    status, printed = tool("train", DETECTOR, "--pretrained", touch("weights.pth"), *options)
    assert status == 2 and "'ResNet'" in printed
    status, printed = tool("train", DETECTOR, "--pretrained", "nowhere.pth")
    assert status == 2 and "nowhere.pth does not exist" in printed


def test_auto_scale_lr(project, tool):
    status, printed = tool("train", DETECTOR, "--auto-scale-lr")
    assert status == 0
    lr = re.search(r" lr: (\S+)", printed)[1]
    assert float(lr) == pytest.approx(4e-4 * 2 / 16)  # batch 2 of a recipe for 16


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a GPU")
def test_amp_without_gpu(project, tool):
    status, printed = tool("train", DETECTOR, "--amp")
    assert status == 2 and "--amp" in printed and "GPU" in printed


@pytest.mark.slow
def test_two_processes(project):
    """torchrun's launcher with gloo on the CPU."""
    status, printed = launch("dist_train.sh", DETECTOR, 2, "--work-dir", "run")
    assert status == 0, printed[-2000:]
    assert "Distributed training: True" in printed
    assert (project / "run" / "iter_2.pth").exists()


def test_resume_without_checkpoint_is_said(project, tool):
    """MMEngine would start a new run with a line that is easily missed."""
    status, printed = tool("train", DETECTOR, "--resume", "--work-dir", "elsewhere")
    assert status == 0
    assert "--resume: elsewhere has no checkpoint" in printed
