"""tools/train.py and tools/test.py for the three toolboxes."""

import argparse
import json
import pickle
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from helpers import Runs, log_lines
from mmengine.config import Config
from safetensors.torch import save_file
from tasks import DETECTOR, ROOT, RTMDET, TASKS

from mmdualtoken.cli import number
from mmdualtoken.errors import InputError
from mmdualtoken.weights.checkpoints import load_file

CLASSIFIER = TASKS["classification"][0]


def metrics_of(work_dir):
    (file,) = Path(work_dir).glob("*/*.json")
    return json.loads(file.read_text())


@pytest.mark.parametrize("task", TASKS)
def test_train_then_test(task, project, trained, tool):
    """What training has left stays as it is."""
    config, metric = TASKS[task]
    printed = trained(task)
    assert "DualTokenViT starts from scratch" in printed
    norm = "LN" if task == "classification" else "BN"
    assert f"outputs normalised by {norm}, stem BatchNorm in train mode" in printed
    before = {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()}
    checkpoint = Path("run/last_checkpoint").read_text()

    options = ["--cfg-options", "work_dir=run"]
    pictures = ["--show-dir", "pictures", "--out", "predictions.pkl"]
    status, printed = tool("test", config, checkpoint, *pictures, *options)
    assert status == 0
    assert {p: p.read_bytes() for p in before} == before
    assert 0 <= metrics_of("run/test")[metric] <= 100
    predictions = pickle.loads(Path("predictions.pkl").read_bytes())
    assert len(predictions) == 6
    if task == "classification":  # not each with the scores of its whole batch
        scores = [p["pred_score"] for p in predictions]
        assert all(s.untyped_storage().nbytes() == s.nbytes for s in scores)
    drawn = [p for p in Path("run/test").rglob("*") if p.suffix in (".png", ".jpg")]
    assert len(drawn) == 6
    (named,) = re.findall(r"Pictures: (\S+)$", printed, re.M)
    assert {p.parent for p in drawn} == {Path(named)}


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
    assert "coco/bbox_mAP: " in printed and "coco/segm_mAP: " in printed


@pytest.mark.parametrize("task", TASKS)
def test_tta(task, trained, tool):
    """mmdet merges flipped boxes, but has no rule for masks."""
    config, metric = TASKS[task]
    trained(task)
    arguments = [config, Path("run/last_checkpoint").read_text(), "--work-dir", "eval", "--tta"]
    if task == "detection":
        status, printed = tool("test", *arguments)
        assert status == 2 and "--tta" in printed and "masks" in printed
        boxes = ["model.roi_head.mask_head=None", "test_evaluator.metric=bbox"]
        arguments += ["--cfg-options", *boxes]
    assert tool("test", *arguments)[0] == 0
    assert 0 <= metrics_of("eval")[metric] <= 100


def test_labels_of_tta_are_those_of_the_plain_view():
    """mmseg compares with the labels of the first view: mirrored ones would be wrong."""
    cfg = Config.fromfile(TASKS["segmentation"][0])
    cfg.pop("tta_pipeline", None)
    runpy.run_path(str(ROOT / "tools" / "test.py"), run_name="not_main")["set_tta"](cfg)
    views = cfg.test_dataloader.dataset.pipeline[-1]["transforms"][0]
    assert [view["prob"] for view in views] == [0.0, 1.0]


def test_tta_of_two_data_sets(trained, tool):
    """Twice the same images have the mIoU of once."""
    config, metric = TASKS["segmentation"]
    trained("segmentation")
    Path("twice.py").write_text(
        f"_base_ = {config!r}\n"
        "one = _base_.test_dataloader.dataset\n"
        "two = dict(_delete_=True, type='ConcatDataset', datasets=[one, one])\n"
        "test_dataloader = dict(dataset=two)\n"
    )
    found = []
    for file in (config, "twice.py"):
        arguments = [
            file,
            Path("run/last_checkpoint").read_text(),
            "--work-dir",
            f"eval{len(found)}",
        ]
        assert tool("test", *arguments, "--tta")[0] == 0
        found.append(metrics_of(f"eval{len(found)}"))
    assert found[0][metric] == found[1][metric] > 0


class Attribute:
    """Pickles as getattr, which HistoryBuffer's methods need; nothing else may come that way."""

    def __reduce__(self):
        return getattr, (torch.Tensor, "tofile")


@pytest.mark.parametrize(
    "payload, argument",
    [(Attribute, ["test", CLASSIFIER]), (Runs, ["train", CLASSIFIER, "--cfg-options"])],
)
def test_hostile_checkpoint_is_refused(payload, argument, project, tool):
    """test_unsafe_checkpoints.py has the other ways by which one comes."""
    torch.save(dict(state_dict={}, payload=payload()), "hostile.pth")
    status, printed = tool(*argument, "load_from=" * (payload is Runs) + "hostile.pth")
    assert status == 2
    assert "hostile.pth was refused" in printed and "Traceback" not in printed
    assert not Path("pwned").exists()


def test_checkpoint_of_another_model_is_not_tested(trained, tool):
    """MMEngine would warn, and measure random weights; tensors that are not needed do no harm."""
    trained("classification")
    content = Path("run/epoch_2.pth").read_bytes()
    Path("cut.pth").write_bytes(content[: len(content) // 2])
    state = load_file("run/epoch_2.pth")["state_dict"]
    name = next(name for name in state if name.endswith("aggregate.qkv.weight"))
    torch.save(dict(state_dict={k: v for k, v in state.items() if k != name}), "lacks.pth")
    torch.save(dict(state_dict={f"wrong.{k}": v for k, v in state.items()}), "wrong.pth")
    torch.save(dict(state_dict={**state, "more": torch.zeros(1)}), "more.pth")
    for file, said in (
        ("cut.pth", "cut.pth cannot be read"),
        ("lacks.pth", f"than the config's. Tensors missing (1): {name}"),
        ("wrong.pth", "Tensors missing ("),
    ):
        status, printed = tool("test", CLASSIFIER, file, "--work-dir", "eval")
        assert status == 2 and said in printed and "Traceback" not in printed
    status, printed = tool("test", CLASSIFIER, "more.pth", "--work-dir", "eval")
    assert status == 0 and "accuracy/top1" in metrics_of("eval")


def test_earlier_run_is_not_overwritten(trained, tool):
    def train(*arguments, work_dir="run"):
        return tool("train", CLASSIFIER, "--work-dir", work_dir, *arguments)

    trained("classification")
    before = Path("run/epoch_1.pth").read_bytes()
    status, printed = train()
    assert status == 2
    assert "epoch_1.pth" in printed and "--resume" in printed and "--overwrite" in printed
    Path("run/last_checkpoint").unlink()
    status, printed = train("--resume")
    assert status == 2 and "--overwrite" in printed  # it would have started from iteration 0
    assert "no last_checkpoint" in printed and "--resume FILE" in printed
    assert Path("run/epoch_1.pth").read_bytes() == before
    # Another work dir, with nothing in it.
    status, printed = train("--resume", "run/epoch_1.pth", work_dir="other")
    assert status == 0 and "the run is finished" in printed
    assert train("--overwrite")[0] == 0
    assert Path("run/epoch_1.pth").read_bytes() != before


@pytest.mark.parametrize("flag", ["--local-rank", "--local_rank"])
def test_both_spellings_of_the_local_rank(flag, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.setattr(sys, "argv", ["train.py", DETECTOR, flag, "3"])
    from train import parse_args

    assert parse_args().local_rank == 3


@pytest.mark.parametrize("text", ["0", "6", "x"])
def test_numbers_out_of_range(text, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=number(int, 1, 5))
    assert parser.parse_args(["--number", "5"]).number == 5
    with pytest.raises(SystemExit):
        parser.parse_args(["--number", text])
    assert "argument --number: " in capsys.readouterr().err


def test_pretrained(trained, tool):
    """A classifier's weights start the detector, with LayerNorm outputs and BN in eval mode."""
    trained("classification")
    checkpoint = "run/epoch_2.pth"
    args = ["--work-dir", "det", "--pretrained", checkpoint]
    args += ["--cfg-options", "optim_wrapper.optimizer.lr=0.0"]
    status, printed = tool("train", DETECTOR, *args)
    assert status == 0
    assert f"starts from {checkpoint}" in printed
    assert "outputs normalised by LN, stem BatchNorm in eval mode" in printed
    source = load_file(checkpoint)["state_dict"]
    begun = load_file("det/iter_2.pth")["state_dict"]
    shared = [k for k in source if k.startswith("backbone.")]
    assert len(shared) > 50
    for key in shared:
        torch.testing.assert_close(begun[key], source[key])


def test_bare_weights_with_averaging(trained, tool):
    """EMAHook looks for 'state_dict', which a .safetensors file has not."""
    trained("classification")
    state = load_file("run/epoch_1.pth")["state_dict"]
    save_file({k: v.contiguous() for k, v in state.items()}, "bare.safetensors")
    cfg = Config.fromfile(CLASSIFIER)
    cfg.custom_hooks = [dict(type="EMAHook")]
    cfg.dump("ema.py")
    found = []
    for file in ("run/epoch_1.pth", "bare.safetensors"):
        status, printed = tool("test", "ema.py", file)
        assert status == 0, printed
        found.append(re.search(r"accuracy/top1: \S+", printed)[0])
    assert found[0] == found[1]
    status, printed = tool("train", "ema.py", "--work-dir", "on", "--resume", "bare.safetensors")
    assert status == 2 and "it holds no state of a training, no meta and no" in printed


def test_pretrained_that_does_not_fit(trained, tool):
    trained("classification")
    state = load_file("run/epoch_1.pth")["state_dict"]
    other = {k: v for k, v in state.items() if "token_module.mlp.token_mix" not in k}
    torch.save(other, "mlp.pth")
    resnet = ["--cfg-options", "model.backbone.type=ResNet"]
    for arguments, said in (
        (["mlp.pth"], "token_module.mlp.token_mix"),
        (["nowhere.pth"], "nowhere.pth does not exist"),
        (["mlp.pth", *resnet], "'ResNet'"),
    ):
        status, printed = tool("train", CLASSIFIER, "--pretrained", *arguments)
        assert status == 2 and said in printed


def test_flags_of_a_new_run(project, tool):
    """The rate of batch 2 by a recipe for 16. MMEngine says nothing of a checkpoint that lacks."""
    args = ["--auto-scale-lr", "--resume", "--work-dir", "elsewhere"]
    status, printed = tool("train", DETECTOR, *args)
    assert status == 0
    assert "--resume: elsewhere has no checkpoint" in printed
    assert float(re.search(r" lr: (\S+)", printed)[1]) == pytest.approx(4e-4 * 2 / 16)


@pytest.fixture
def merged(monkeypatch):
    """The config that tools/train.py makes of arguments, and its other functions."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import train

    def merge(cfg, *given):
        monkeypatch.setattr(sys, "argv", ["train.py", "config.py", *map(str, given)])
        args = train.parse_args()
        train.merge_args(cfg, args)
        train.protect_work_dir(cfg, args)
        return cfg

    return merge


def test_resume_in_a_config(merged, here):
    """A resumed run leaves it in its work dir: who takes that config has to say what is meant."""
    cfg = Config.fromfile(CLASSIFIER)
    cfg.update(resume=True, load_from="old.pth", work_dir="new")
    with pytest.raises(InputError, match="resume=True.*resume=False load_from=None"):
        merged(cfg)
    assert merged(cfg, "--cfg-options", "resume=True").load_from == "old.pth"
    Path("mine.pth").touch()
    assert merged(cfg, "--resume", "mine.pth").load_from == "mine.pth"


def test_warns_of_bfloat16_before_roi_heads(merged, here):
    cfg = Config.fromfile(DETECTOR)
    cfg.work_dir = "new"
    warning = "dtype=bfloat16: mmdet rounds the corners of proposals"
    for dtype, expected in (("bfloat16", True), ("torch.bfloat16", True), ("float16", False)):
        cfg.optim_wrapper.update(type="AmpOptimWrapper", dtype=dtype)
        with log_lines() as lines:
            merged(cfg)
        assert any(warning in line for line in lines) == expected


def test_pretrained_replaces_load_from(merged, here):
    """As the recipe for class folders has it: it would be loaded over the given weights."""
    Path("mine.pth").touch()
    cfg = Config.fromfile(CLASSIFIER)
    cfg.update(load_from="mmdualtoken://tiny", work_dir="new")
    merged(cfg, "--pretrained", "mine.pth")
    assert cfg.load_from is None and cfg.model.backbone.init_cfg.checkpoint == "mine.pth"


def test_checkpoints_in_out_dir_are_protected(merged, here):
    cfg = Config.fromfile(CLASSIFIER)
    cfg.work_dir, cfg.default_hooks.checkpoint.out_dir = "runs/mine", "big"
    for folder in ("big/mine", "runs", "elsewhere"):
        Path(folder).mkdir(parents=True)
    Path("runs/mine").symlink_to(Path("elsewhere").resolve())
    Path("big/mine/iter_1.pth").touch()
    with pytest.raises(InputError, match=r"earlier run \(iter_1\.pth\)"):
        merged(cfg)
    merged(cfg, "--overwrite")
    merged(cfg, "--resume", "big/mine/iter_1.pth")


def test_overwritten_run_is_not_resumed(trained, tool):
    """A run that ends before its first checkpoint leaves none of the earlier run's to --resume."""
    trained("classification")
    Path("run/last_checkpoint").write_text(str(Path("run/iter_1.pth").resolve()))
    loss = dict(type="CrossEntropyLoss", loss_weight=1e99)
    more = ["--cfg-options", *(f"model.head.loss.{k}={v}" for k, v in loss.items())]
    status, printed = tool("train", CLASSIFIER, "--work-dir", "run", "--overwrite", *more)
    assert status == 2 and "iter_1.pth" not in printed, printed
    assert not Path("run/last_checkpoint").exists()
