"""The page on fine-tuning: its blocks of code do what it says."""

import re
from pathlib import Path

import pytest
import torch
from helpers import build, log_lines, params
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from tasks import ROOT, TASKS

from mmdualtoken.training.finetuning import add_class_layer_hook
from mmdualtoken.weights.pretrained import load_backbone, start_from_checkpoint

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
    add_class_layer_hook(cfg)
    assert len(cfg.custom_hooks) == 1
