"""Fine-tuning to other classes by tools/train.py and by the toolboxes' own."""

import re
from pathlib import Path

import pytest
import torch
from helpers import params, randomise
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS, init_default_scope
from tasks import TASKS

from mmdualtoken.weights.checkpoints import load_file

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
        "model = dict(decode_head=dict(num_classes=7))\n"
        "data = dict(dataset=dict(metainfo=dict(classes=tuple('abcdefg'), palette=[])))\n"
        "train_dataloader = test_dataloader = data\n",
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
    assert printed.count(f"{kept}newly initialized class layers: {named}\n") == 1
    assert "do not match" not in printed
    return parts


@pytest.mark.parametrize("task", OTHER_CLASSES)
def test_to_other_classes(task, trained, tool):
    """A model that was trained before, by tools/train.py."""
    _, changes, layers = OTHER_CLASSES[task]
    trained(task)
    checkpoint = checkpoint_of("run")
    path = config(task, changes)
    status, printed = tool("train", path, "--work-dir", "ours", "--load-from", checkpoint)
    assert status == 0
    parts = check_start(checkpoint, layers, printed)
    if task == "detection":
        assert parts == {"backbone", "neck", "rpn_head", "roi_head"}
    begun = load_file(checkpoint_of("ours"))["state_dict"]
    assert all(len(begun[f"{layer}.weight"]) == new for layer, (_, new) in layers.items())


@pytest.mark.parametrize("by_config", [True, False])
def test_first_start_with_resume(by_config, project, tool):
    """One command for the first start and for later ones: load_from counts for the first."""
    checkpoint = save_narrow("segmentation")
    path = config("segmentation", f"load_from = {checkpoint!r}\n" if by_config else "")
    options = [] if by_config else ["--load-from", checkpoint]
    status, printed = tool("train", path, "--work-dir", "run", "--resume", *options)
    assert status == 0 and f"a new run starts, from the weights of {checkpoint}." in printed
    source, begun = load_file(checkpoint)["state_dict"], load_file("start.pth")
    assert all(torch.equal(begun[name], source[name]) for name in source)
    longer = ["--cfg-options", "train_cfg.max_iters=4"]
    status, printed = tool("train", path, "--work-dir", "run", "--resume", *options, *longer)
    assert status == 0 and "resumed epoch: 0, iter: 2" in printed


def test_to_other_classes_by_the_stock_tools(project, tool, stock):
    """By the toolbox's own train.py, with the hook in the config."""
    toolbox, changes, layers = OTHER_CLASSES["segmentation"]
    checkpoint = save_narrow("segmentation")
    hooks = "dict(type='DropClassLayersHook'), dict(type='SaveStartHook')"
    path = config("segmentation", f"{changes}load_from = {checkpoint!r}\n", hooks)
    printed = stock(toolbox, path, "--work-dir", "theirs")
    check_start(checkpoint, layers, printed)

    # The config's hook must not make a tested model of the old classes look like one of the new.
    status, printed = tool("test", path, checkpoint, "--work-dir", "eval")
    assert status == 2 and "newly initialized class layers" not in printed
    assert (
        f"{checkpoint} is of another model than the config's. Tensors of another shape" in printed
    )


def test_pretrained_by_the_stock_tools(project, stock):
    """init_cfg in a config, a classifier's checkpoint, the toolbox's own train.py."""
    checkpoint = save_narrow("classification")
    init_cfg = f"_delete_=True, type='Pretrained', checkpoint={checkpoint!r}, prefix='backbone.'"
    changes = f"model = dict(backbone=dict(token_mlp='mix', init_cfg=dict({init_cfg})))\n"
    printed = stock("mmseg", config("segmentation", changes), "--work-dir", "run")
    source, begun = load_file(checkpoint)["state_dict"], load_file("start.pth")
    backbone = [name for name in begun if name.startswith("backbone.")]
    taken = [name for name in backbone if not name.startswith("backbone.norm")]
    assert all(torch.equal(begun[name], source[name]) for name in taken)
    (line,) = re.findall(r"loaded \d+ of \d+ backbone tensors from .*", printed)
    assert line == (
        f"loaded {len(taken)} of {len(backbone)} backbone tensors from {checkpoint}; newly "
        "initialized, not in the file: norm0, norm1; newly initialized, of another type in the "
        "file: norm2"
    )


def test_resuming_goes_on_with_the_same_classes(trained, tool):
    trained("segmentation")

    def resume(changes="", *options):
        path = config("segmentation", changes, hooks="dict(type='DropClassLayersHook')")
        options = ["--cfg-options", "train_cfg.max_iters=6", *options]
        return tool("train", path, "--work-dir", "run", "--resume", *options)

    status, printed = resume(OTHER_CLASSES["segmentation"][1])
    assert status == 2
    assert "decode_head.conv_seg.weight is (5, 16, 1, 1) in the file, (7, 16, 1, 1) by" in printed
    assert "--load-from" in printed and "Traceback" not in printed
    status, printed = resume("", "optim_wrapper.optimizer.type=RMSprop")
    assert status == 2 and "RMSprop, is not the one that the run began with" in printed
    status, printed = resume()
    assert status == 0 and "resumed epoch: 0, iter: 4" in printed
    assert not re.search(r"kept \d+ of", printed)


def test_misfits_by_the_tool(project, tool):
    """A classifier is no segmentor; one of the three ways to start at a time; the file is there."""
    file, segmentor = save_narrow("classification"), TASKS["segmentation"][0]
    for arguments, said in (
        ([file], (f"load_from {file} does not fit", "missing", "not known", "--pretrained")),
        (["nowhere.pth"], ("nowhere.pth", "does not exist")),
        ([file, "--resume", file], ("one of the three",)),
        ([file, "--pretrained", file], ("one of the three",)),
    ):
        status, printed = tool("train", segmentor, "--load-from", *arguments)
        assert status == 2 and all(text in printed for text in said)
