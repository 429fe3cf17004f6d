"""Variables of a config that are changed after a base config has put them to use."""

import re

import narrow
import pytest
from mmengine.config import Config
from tasks import CONFIGS, DETECTOR

from mmdualtoken.config_files import config_path
from mmdualtoken.config_variables import unused_changes

PIPELINE = "[dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]"


def warnings_of(folder, text, *options, base=DETECTOR):
    file = folder / "mine.py"
    file.write_text(f"_base_ = {str(base)!r}\n{text}\n")
    return list(unused_changes(Config.fromfile(file), options))


PIPELINE_AS_WELL = "train_dataloader = dict(dataset=dict(pipeline=train_pipeline))"


@pytest.mark.parametrize(
    "text, places, end",
    [
        (f"train_pipeline = {PIPELINE}", "train_dataloader", PIPELINE_AS_WELL),
        (  # the loader keeps a copy
            "train_pipeline = _base_.train_pipeline\ntrain_pipeline[2].scale = (48, 48)",
            "train_dataloader",
            PIPELINE_AS_WELL,
        ),
        (
            "train_pipeline, size = _base_.train_pipeline, 4\ntrain_pipeline.insert(3, size)",
            "train_dataloader",
            PIPELINE_AS_WELL,
        ),
        ("data_root = 'mine/'", "train_dataloader, val_dataloader, val_evaluator", "as well"),
        (
            "val_dataloader = dict(batch_size=4)",
            "test_dataloader",
            "Set test_dataloader as well: test_dataloader = val_dataloader",
        ),
    ],
)
def test_changed_alone(text, places, end, tmp_path):
    (found,) = warnings_of(tmp_path, text)
    name = re.match(r"\w+", text)[0]
    assert found.startswith(f"{name} of {tmp_path / 'mine.py'} has no effect on {places}")
    assert found.endswith(end)


@pytest.mark.parametrize(
    "text",
    [
        "train_pipeline = _base_.train_pipeline\ntrain_pipeline[2].scale = (48, 48)\n"
        "train_dataloader = dict(dataset=dict(pipeline=train_pipeline))",
        f"mine = {PIPELINE}\ntrain_dataloader = dict(dataset=dict(pipeline=mine))",
        "val_dataloader = dict(batch_size=4)\ntest_dataloader = val_dataloader",
        "val_dataloader = dict(batch_size=4)\ntest_dataloader = dict(batch_size=1)",
        "tta_pipeline = []\nnote = 'of the third run'",
        "train_cfg = dict(max_iters=3)",
    ],
)
def test_changed_and_used(text, tmp_path):
    assert warnings_of(tmp_path, text) == []


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("custom_hooks = [dict(type='NanLossHook')]", "EMAHook"),
        ("custom_hooks = [*_base_.custom_hooks, dict(type='NanLossHook')]", ""),
        ("custom_hooks = [dict(type='EMAHook', momentum=0.1)]", ""),
        ("custom_hooks = []", ""),
    ],
)
def test_hooks_of_the_base(text, lost, tmp_path):
    """MMEngine replaces lists."""
    base = config_path("mmdet/rtmdet_dualtoken_t_finetune.py")
    found = warnings_of(tmp_path, text, base=base)
    assert [f"is without {lost}. " in warning for warning in found] == [True] * bool(lost)


def test_a_key_that_stands_twice(tmp_path):
    """As where a second example is pasted below the first."""
    text = "train_dataloader = dict(dataset=dict(data_root='a/'))\ntrain_dataloader = "
    (found,) = warnings_of(tmp_path, f"{text}dict(batch_size=4)")
    assert found.startswith(f"train_dataloader stands twice in {tmp_path / 'mine.py'}")
    assert warnings_of(tmp_path, f"{text}dict(train_dataloader, batch_size=4)") == []
    for other in (
        "train_dataloader = dict(batch_size=4)\ntrain_dataloader['num_workers'] = 0",
        "del _base_.model\nmodel = dict(type='RetinaNet')",
        "sync_bn = 'torch'\nsync_bn = 'torch'",
    ):
        assert warnings_of(tmp_path, other) == []


def test_base_of_a_base(tmp_path):
    """The last file that sets the variable decides, whichever is trained with."""
    middle = tmp_path / "middle.py"
    middle.write_text(f"_base_ = {DETECTOR!r}\ntrain_pipeline = {PIPELINE}\n")
    (found,) = warnings_of(tmp_path, "train_cfg = dict(max_iters=3)", base=middle)
    assert found.startswith(f"train_pipeline of {middle} has no effect")
    used = "train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))"
    assert warnings_of(tmp_path, used, base=middle) == []


@pytest.mark.parametrize(
    "option, start, end",
    [
        (
            "train_pipeline.2.scale",
            " has no effect on train_dataloader: ",
            "Give the place itself: train_dataloader.dataset.pipeline.2.scale",
        ),
        ("arch.depths", " has no effect on model: ", "Give the place itself, below model"),
        ("optim_wraper.lr", ": the", "did you mean optim_wrapper?"),
        ("notes", ": the config has no notes", "no tool reads it"),
    ],
)
def test_options(option, start, end, tmp_path):
    (found,) = warnings_of(tmp_path, "", option)
    assert found.startswith(f"--cfg-options {option}{start}") and found.endswith(end)


def test_options_that_are_read(tmp_path):
    options = ("train_dataloader.batch_size", "model.backbone.alpha", "sync_bn", "load_from")
    assert warnings_of(tmp_path, "", *options) == []


@pytest.mark.parametrize(
    "paths",
    [
        sorted(CONFIGS.glob("*.py")),
        pytest.param(narrow.CONFIGS, marks=pytest.mark.slow),
    ],
    ids=["tests", "all"],
)
def test_the_projects_own_configs(paths):
    for path in paths:
        assert list(unused_changes(Config.fromfile(path))) == [], path


@pytest.mark.parametrize("name", ["train", "check_data"])
def test_tools_warn(name, project, tool):
    args = ["--no-watch"] if name == "train" else ["--split", "train"]
    status, printed = tool(name, DETECTOR, *args, "--cfg-options", "train_pipeline.2.scale=(48,48)")
    assert status == 0
    assert "WARNING - --cfg-options train_pipeline.2.scale has no effect" in printed


@pytest.mark.parametrize("toolbox", ["mmdet", "mmseg", "mmpretrain"])
def test_a_dump_has_no_misspelt_keys(toolbox, tmp_path):
    """The work dir's copy is for test.py and other tools."""
    (path, *_) = (p for p in narrow.OWN if p.parent.name == toolbox and "finetune" in p.name)
    Config.fromfile(path).dump(tmp_path / "dump.py")
    cfg = Config.fromfile(tmp_path / "dump.py")
    assert "test_pipeline" in cfg and list(unused_changes(cfg)) == []


def test_misspelt_key(tmp_path):
    """A variable that the file uses, and one like no key, are the user's own."""
    text = "optim_wraper = dict(lr=1)\nmodels = 3\nload_form = 'a.pth'\nepochs = models"
    warnings = warnings_of(tmp_path, text)
    assert [w.partition(": ")[2] for w in warnings] == [
        "nothing reads it; did you mean load_from?",
        "nothing reads it; did you mean optim_wrapper?",
    ]
