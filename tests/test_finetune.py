"""A trained model to other classes: what is kept, what is dropped, what is refused."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import build, log_lines, params, randomise
from mmdet.models import RetinaHead, Shared2FCBBoxHead
from mmengine.config import Config
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner import EpochBasedTrainLoop, get_priority
from mmseg.models import FCNHead
from tasks import DETECTOR, TASKS
from torch import nn

from mmdualtoken.engine import InputError, load_file
from mmdualtoken.engine.finetune import DropClassLayersHook, fine_tune, fit_classes
from mmdualtoken.engine.pretrained import load_backbone, start_from_checkpoint

ROOT = Path(__file__).resolve().parent.parent

# Per task: the toolbox, a config's changes to other classes, and the class layers by name.
OTHER_CLASSES = {
    "detection": (
        "mmdet",
        "two = dict(num_classes=2)\nmodel = dict(roi_head=dict(bbox_head=two, mask_head=two))\n"
        "data = dict(dataset=dict(metainfo=dict(classes=('disc', 'square'))))\n"
        "train_dataloader = test_dataloader = data\n",
        {
            "roi_head.bbox_head.fc_cls": (5, 3),
            "roi_head.bbox_head.fc_reg": (16, 8),
            "roi_head.mask_head.conv_logits": (4, 2),
        },
    ),
    "segmentation": (
        "mmseg",
        "model = dict(decode_head=dict(num_classes=7))\n",
        {"decode_head.conv_seg": (5, 7)},
    ),
    "classification": (
        "mmpretrain",
        "model = dict(head=dict(num_classes=6), data_preprocessor=dict(num_classes=6))\n"
        "train_dataloader = test_dataloader = dict(persistent_workers=False)\n",
        {"head.fc": (4, 6)},
    ),
}


@HOOKS.register_module()
class SaveStartHook(Hook):
    """Saves the weights that training starts with to start.pth."""

    def before_train(self, runner):
        torch.save(runner.model.state_dict(), "start.pth")


def config(task, changes="", hooks="dict(type='SaveStartHook')"):
    """A config file that inherits the task's narrow one, without validation."""
    path = Path("fine.py")
    path.write_text(
        f"_base_ = {TASKS[task][0]!r}\n{changes}custom_hooks = [{hooks}]\n"
        "val_dataloader = val_cfg = val_evaluator = None\n"
    )
    return str(path)


def save_narrow(task):
    """A checkpoint of the task's narrow model."""
    cfg = Config.fromfile(TASKS[task][0])
    init_default_scope(cfg.default_scope)
    state = params(randomise(MODELS.build(cfg.model), seed=4))
    torch.save(dict(meta={}, state_dict=state), f"{task}.pth")
    return f"{task}.pth"


def checkpoint_of(work_dir):
    return (Path(work_dir) / "last_checkpoint").read_text()


def check_start(checkpoint, layers, printed):
    """The first weights are the checkpoint's but for the class layers, which a line names."""
    source, begun = load_file(checkpoint)["state_dict"], load_file("start.pth")
    dropped = [name for name in begun if name.rpartition(".")[0] in layers]
    assert len(dropped) == 2 * len(layers)  # weight and bias
    for name, value in begun.items():
        if name in dropped:
            there, here = layers[name.rpartition(".")[0]]
            assert (len(source[name]), len(value)) == (there, here)
        else:
            assert torch.equal(value, source[name]), name
    parts = {name.split(".")[0] for name in begun if name not in dropped}
    assert "backbone" in parts
    named = ", ".join(f"{k} ({old} outputs, now {new})" for k, (old, new) in layers.items())
    kept = f"kept {len(begun) - len(dropped)} of {len(begun)} tensors of {checkpoint}; "
    assert printed.count(f"{kept}class layers that start anew: {named}\n") == 1
    assert "do not match" not in printed
    return parts


@pytest.mark.parametrize("task", OTHER_CLASSES)
def test_to_other_classes(task, project, tool):
    """A model that was trained before, by tools/train.py."""
    _, changes, layers = OTHER_CLASSES[task]
    assert tool("train", config(task), "--work-dir", "first")[0] == 0
    checkpoint = checkpoint_of("first")

    path = config(task, changes)
    status, printed = tool("train", path, "--work-dir", "ours", "--load-from", checkpoint)
    assert status == 0
    parts = check_start(checkpoint, layers, printed)
    if task == "detection":
        assert parts == {"backbone", "neck", "rpn_head", "roi_head"}
    trained = load_file(checkpoint_of("ours"))["state_dict"]
    assert all(len(trained[f"{layer}.weight"]) == new for layer, (_, new) in layers.items())


@pytest.mark.parametrize("task", OTHER_CLASSES)
def test_to_other_classes_by_the_stock_tools(task, project, tool, stock):
    """By the toolbox's own train.py, with the hook in the config."""
    toolbox, changes, layers = OTHER_CLASSES[task]
    checkpoint = save_narrow(task)
    hooks = "dict(type='DropClassLayersHook'), dict(type='SaveStartHook')"
    path = config(task, f"{changes}load_from = {checkpoint!r}\n", hooks)
    printed = stock(toolbox, path, "--work-dir", "theirs")
    check_start(checkpoint, layers, printed)

    # The config's hook must not make a tested model of the old classes look like one of the new.
    status, printed = tool("test", path, checkpoint, "--work-dir", "eval")
    assert status == 0 and "class layers that start anew" not in printed
    assert "size mismatch for" in printed


@pytest.mark.parametrize("task", OTHER_CLASSES)
def test_pretrained_by_the_stock_tools(task, project, stock):
    """init_cfg in a config, a classifier's checkpoint, the toolbox's own train.py."""
    checkpoint = save_narrow("classification")
    init_cfg = f"_delete_=True, type='Pretrained', checkpoint={checkpoint!r}, prefix='backbone.'"
    changes = (
        f"model = dict(backbone=dict(token_mlp='mix', init_cfg=dict({init_cfg})))\n"
        "train_dataloader = test_dataloader = dict(persistent_workers=False)\n"
    )
    printed = stock(OTHER_CLASSES[task][0], config(task, changes), "--work-dir", "run")
    source, begun = load_file(checkpoint)["state_dict"], load_file("start.pth")
    backbone = [name for name in begun if name.startswith("backbone.")]
    for name in backbone:
        if not name.startswith("backbone.norm"):
            assert torch.equal(begun[name], source[name]), name
    (line,) = re.findall(r"loaded \d+ of \d+ backbone tensors from .*", printed)
    taken = [n for n in backbone if task == "classification" or "backbone.norm" not in n]
    expected = f"loaded {len(taken)} of {len(backbone)} backbone tensors from {checkpoint}"
    if task != "classification":
        expected += "; started anew, not in the file: norm0, norm1"
        expected += "; started anew, of another type in the file: norm2"
    assert line == expected


def test_resuming_goes_on_with_the_same_classes(project, tool):
    path = config("segmentation", hooks="dict(type='DropClassLayersHook')")
    assert tool("train", path, "--work-dir", "run")[0] == 0
    changed = config("segmentation", OTHER_CLASSES["segmentation"][1])
    status, printed = tool("train", changed, "--work-dir", "run", "--resume")
    assert status == 2
    assert "decode_head.conv_seg.weight is (5, 16, 1, 1) in the file, (7, 16, 1, 1) by" in printed
    assert "--load-from" in printed and "Traceback" not in printed
    path = config("segmentation", hooks="dict(type='DropClassLayersHook')")
    options = ["--cfg-options", "train_cfg.max_iters=4"]
    status, printed = tool("train", path, "--work-dir", "run", "--resume", *options)
    assert status == 0
    assert "resumed epoch: 0, iter: 2" in printed
    assert not re.search(r"kept \d+ of", printed)


def test_misfits_by_the_tool(project, tool):
    """A classifier is no segmentor; one of the three ways to start at a time; the file is there."""
    file, segmentor = save_narrow("classification"), TASKS["segmentation"][0]
    status, printed = tool("train", segmentor, "--load-from", file)
    assert status == 2
    assert f"load_from {file} does not fit" in printed
    assert "missing" in printed and "not known" in printed and "--pretrained" in printed
    status, printed = tool("train", segmentor, "--load-from", "nowhere.pth")
    assert status == 2 and "nowhere.pth" in printed and "does not exist" in printed
    for other in (["--resume"], ["--pretrained", file]):
        status, printed = tool("train", segmentor, "--load-from", file, *other)
        assert status == 2 and "one of the three" in printed


@pytest.mark.slow
def test_one_line_in_two_processes(project):
    """torchrun's launcher with gloo on the CPU: the first process speaks."""
    file = save_narrow("classification")
    command = [ROOT / "tools" / "dist_train.sh", config("detection"), "2", "--pretrained", file]
    mix = ["--cfg-options", "model.backbone.token_mlp=mix"]
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    Path("fine.py").write_text(Path("fine.py").read_text().replace("custom_hooks", "unused"))
    done = subprocess.run([*command, *mix], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    printed = done.stdout + done.stderr
    assert "Distributed training: True" in printed
    assert printed.count(f"backbone tensors from {file}") == 1


# ---------------------------------------------------------------- rules


def detector(classes=4):
    """The model of the narrow detector."""
    cfg = Config.fromfile(DETECTOR)
    init_default_scope("mmdet")
    for head in (cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head):
        head.num_classes = classes
    return MODELS.build(cfg.model)


@pytest.fixture(scope="module")
def four():
    return params(randomise(detector(), seed=3))


CLASS_LAYERS = ["bbox_head.fc_cls", "bbox_head.fc_reg", "mask_head.conv_logits"]


def test_class_layers_get_the_models_own_tensors(four):
    model = detector(2)
    own = params(model)
    fitted, dropped = fit_classes(model, four, "four.pth")
    names = {f"roi_head.{layer}.{part}" for layer in CLASS_LAYERS for part in ("weight", "bias")}
    assert set(dropped) == names
    assert fitted.keys() == own.keys()
    for name, value in fitted.items():
        assert torch.equal(value, own[name] if name in names else four[name]), name


def test_the_same_classes_drop_nothing(four):
    fitted, dropped = fit_classes(detector(), four, "four.pth")
    assert dropped == {}
    assert all(torch.equal(value, four[name]) for name, value in fitted.items())


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_wrapped_and_averaged_models(prefix, four):
    state = {f"{prefix}{name}": value for name, value in four.items()}
    if prefix:
        state["steps"] = torch.tensor(3)
    fitted, dropped = fit_classes(detector(), state, "four.pth")
    assert dropped == {}
    assert fitted.keys() == four.keys()
    assert all(torch.equal(value, four[name]) for name, value in fitted.items())
    assert fit_classes(detector(2), state, "four.pth")[1]["roi_head.bbox_head.fc_cls.bias"] == 5


def test_counters_and_another_grid():
    """What loading allows elsewhere: files without counters, another token grid."""
    model = nn.Module()
    model.backbone = build(token_size=(9, 9), token_mlp="mix")
    source = nn.Module()
    source.backbone = build(token_mlp="mix")
    state = {k: v for k, v in params(source).items() if "num_batches_tracked" not in k}
    fitted, dropped = fit_classes(model, state, "file.pth")
    assert dropped == {}
    assert fitted["backbone.global_tokens"].shape == (1, 9, 9, 16)
    assert fitted.keys() == model.state_dict().keys()


def with_heads(classes):
    """Heads as they lie in RetinaNet, Cascade R-CNN and a segmentor with two auxiliary heads."""
    anchors = dict(type="AnchorGenerator", scales=[8], ratios=[1.0], strides=[8])
    coder = dict(type="DeltaXYWHBBoxCoder")
    box = dict(in_channels=8, roi_feat_size=1, fc_out_channels=8, num_classes=classes)
    seg = dict(in_channels=8, channels=8, num_convs=1, num_classes=classes)
    model = nn.Module()
    model.num_classes = classes  # as mmseg's models have it, for all their parts
    model.backbone, model.neck, model.roi_head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Module()
    model.bbox_head = RetinaHead(
        num_classes=classes,
        in_channels=8,
        feat_channels=8,
        stacked_convs=1,
        anchor_generator=anchors,
        bbox_coder=coder,
    )
    model.roi_head.bbox_head = nn.ModuleList(
        Shared2FCBBoxHead(**box, reg_class_agnostic=True, bbox_coder=coder) for _ in range(2)
    )
    model.auxiliary_head = nn.ModuleList(FCNHead(**seg) for _ in range(2))
    return model


def test_heads_of_other_architectures():
    """What counts classes is dropped; boxes without classes and all inner layers are kept."""
    init_default_scope("mmdet")
    state = params(randomise(with_heads(4)))
    fitted, dropped = fit_classes(with_heads(3), state, "file.pth")
    layers = ["bbox_head.retina_cls"]
    layers += [f"roi_head.bbox_head.{i}.fc_cls" for i in range(2)]
    layers += [f"auxiliary_head.{i}.conv_seg" for i in range(2)]
    assert {name.rpartition(".")[0] for name in dropped} == set(layers)
    assert len(dropped) == 2 * len(layers)
    assert torch.equal(fitted["bbox_head.retina_reg.weight"], state["bbox_head.retina_reg.weight"])


def test_neck_of_another_width_is_no_class_layer():
    model, state = with_heads(3), params(with_heads(3))
    state["neck.bias"] = torch.ones(9)
    with pytest.raises(InputError, match=r"of another shape \(1\): neck.bias"):
        fit_classes(model, state, "file.pth")


WRONG = {
    "backbone": (lambda s: s.update({"backbone.stem.norm.bias": torch.ones(3)}), "stem.norm.bias"),
    "RPN": (lambda s: s.update({"rpn_head.rpn_cls.bias": torch.ones(5)}), "rpn_head.rpn_cls.bias"),
    "inputs of a class layer": (
        lambda s: s.update({"roi_head.bbox_head.fc_cls.weight": torch.ones(5, 7)}),
        "is (5, 7) in the file, (3, 32) by the config",
    ),
    "missing": (
        lambda s: s.pop("roi_head.bbox_head.fc_cls.bias"),
        "Tensors missing (1): roi_head.bbox_head.fc_cls.bias.",
    ),
    "not known": (
        lambda s: s.update({"roi_head.extra.weight": torch.ones(1)}),
        "Tensors not known (1): roi_head.extra.weight.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_differences_are_refused(case, four):
    change, text = WRONG[case]
    state = dict(four)
    change(state)
    with pytest.raises(InputError) as caught:
        fit_classes(detector(2), state, "four.pth")
    assert "load_from four.pth does not fit" in str(caught.value)
    assert text in str(caught.value)


def load(model, checkpoint, classes, resume=False, training=True):
    """The checkpoint after a runner with such a data set has called the hook, and its lines."""
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)  # without a runner and data
    loop.dataloader = SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=classes)))
    runner = SimpleNamespace(
        model=model,
        _resume=resume,
        _load_from="four.pth",
        _train_loop=loop if training else dict(type="EpochBasedTrainLoop"),
    )
    with log_lines() as lines:
        DropClassLayersHook().after_load_checkpoint(runner, checkpoint)
    return checkpoint, lines


@pytest.mark.parametrize("classes", [("a", "b", "c", "d"), ("star", "triangle", "square", "disc")])
def test_as_many_other_classes(classes, four):
    """Nothing is dropped then; that the classes are others, or in another order, is said."""
    meta = dict(dataset_meta=dict(classes=("disc", "square", "triangle", "star")))
    _, (line,) = load(detector(), dict(meta=meta, state_dict=four), classes)
    assert line.startswith(f"kept {len(four)} of {len(four)} tensors of four.pth; its classes [")
    assert f"{list(classes)}, but as many" in line
    classes = ["disc", "square", "triangle", "star"]
    _, (line,) = load(detector(), dict(meta=meta, state_dict=four), classes)
    assert line == f"kept {len(four)} of {len(four)} tensors of four.pth"


@pytest.mark.parametrize(
    "classes, settings",
    [(4, dict(resume=True)), (4, dict(training=False)), (2, dict(training=False))],
)
def test_neither_when_resuming_nor_when_testing(classes, settings, four):
    found, lines = load(detector(classes), dict(state_dict=four), ("a", "b"), **settings)
    assert lines == []
    assert found["state_dict"] is four


@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_forms_of_checkpoints(key, four):
    """MMEngine loads what is under 'state_dict'."""
    given = {key: dict(four)} if key else dict(four)
    found, (line,) = load(detector(2), given, ("a", "b"))
    assert "class layers that start anew: roi_head.bbox_head.fc_cls (5 outputs, now 3)" in line
    name = "neck.lateral_convs.0.conv.bias"
    assert torch.equal(found["state_dict"][name], four[name])


def test_before_averages_are_loaded():
    """EMAHook loads the checkpoint into its copy: it must get the fitted one."""
    assert get_priority(DropClassLayersHook.priority) < get_priority(EMAHook.priority)


def test_added_to_a_config_once():
    """Where it loads a checkpoint."""
    other = dict(type="EMAHook")
    cfg = Config(dict(load_from="a.pth", custom_hooks=[other]))
    fine_tune(cfg)
    fine_tune(cfg)
    assert cfg.custom_hooks == [other, dict(type="DropClassLayersHook")]
    cfg = Config(dict(load_from=None, resume=True))
    fine_tune(cfg)
    assert cfg.custom_hooks == [dict(type="DropClassLayersHook")]
    cfg = Config(dict(load_from=None, resume=False))
    fine_tune(cfg)
    assert "custom_hooks" not in cfg


# ---------------------------------------------------------------- the page

PAGE = (ROOT / "docs" / "finetuning.md").read_text()
BLOCKS = dict(re.findall(r"```python\n# ([\w ]+)\n(.*?)```", PAGE, re.S))


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write a block of the page where it finds our configs; gives its Config."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)

    def write(name):
        Path("my_config.py").write_text(BLOCKS[name])
        return Config.fromfile("my_config.py")

    return write


def test_every_block_of_the_page_is_tested():
    assert set(BLOCKS) == {"pretrained", "layer decay", "other classes"}
    assert PAGE.count("```python") == len(BLOCKS)


def test_page_pretrained(written):
    """The config does what --pretrained does."""
    cfg = written("pretrained")
    Path("FILE").touch()
    expected = Config.fromfile("configs/mmdet/maskrcnn_dualtoken_s_1x.py")
    start_from_checkpoint(expected, "FILE")
    assert cfg.model == expected.model
    assert cfg.model.backbone.init_cfg.type == "Pretrained"


def test_page_line_of_the_log(tmp_path):
    """The counts on the page are those of a Small with the mix MLP."""
    model = build(arch="small", token_mlp="mix")
    state = params(build(arch="small", token_mlp="mix", out_indices=(2,)))
    torch.save({f"backbone.{k}": v for k, v in state.items()}, tmp_path / "FILE")
    with log_lines() as lines:
        load_backbone(model, str(tmp_path / "FILE"), "backbone.")
    assert f"    {lines[0].replace(str(tmp_path / 'FILE'), 'FILE')}\n" in PAGE


@pytest.mark.parametrize("task", TASKS)
def test_page_layer_decay(task, written):
    """The same lines on a config of each toolbox."""
    cfg = Config.fromfile(TASKS[task][0])
    cfg.merge_from_dict(written("layer decay").to_dict())
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    rates = {id(p): g["lr"] for g in groups for p in g["params"]}
    stem, last = rates[id(model.backbone.stem.norm.bias)], rates[id(model.backbone.norm2.bias)]
    assert stem == pytest.approx(last * 0.8**4)
    assert last == cfg.optim_wrapper.optimizer.lr


def test_page_other_classes(written):
    cfg = written("other classes")
    assert cfg.load_from == "FILE"
    assert cfg.custom_hooks == [dict(type="DropClassLayersHook")]
    heads = cfg.model.roi_head
    assert heads.bbox_head.num_classes == heads.mask_head.num_classes == 2
    for loader, split in ((cfg.train_dataloader, "train"), (cfg.val_dataloader, "val")):
        assert loader.dataset.metainfo.classes == ("cat", "dog")
        assert loader.dataset.data_root == "data/pets/"
        assert loader.dataset.ann_file == f"annotations/instances_{split}2017.json"
    fine_tune(cfg)
    assert len(cfg.custom_hooks) == 1


def test_page_kept_line(four):
    """The counts on the page are those of the narrow detector's model."""
    fitted, dropped = fit_classes(detector(2), four, "FILE")
    assert f"kept {len(fitted) - len(dropped)} of {len(fitted)} tensors of FILE" in PAGE
