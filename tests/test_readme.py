"""The README: its length, the example of inheritance, the table of models."""

import re

import pytest
import torch
from mmengine.config import Config
from tasks import ROOT
from torch import nn

from mmdualtoken.export.complexity import count_macs, count_parameters
from mmdualtoken.models import DualTokenClsNeck, DualTokenViT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.S)


def test_length():
    assert len(README.splitlines()) <= 110


def python_block(beginning):
    (block,) = [b for language, b in BLOCKS if language == "python" and beginning in b]
    return block


def test_inheritance_example(tmp_path):
    text = python_block("my_project").replace("/path/to/mmdualtoken", str(ROOT))
    (tmp_path / "config.py").write_text(text)
    cfg = Config.fromfile(tmp_path / "config.py")
    assert cfg.model.backbone.arch == "small"
    assert cfg.model.roi_head.mask_head.num_classes == 3
    assert cfg.train_dataloader.dataset.ann_file == "train.json"
    assert cfg.test_dataloader.dataset.metainfo.classes == ("car", "bus", "truck")
    assert cfg.test_evaluator.ann_file == "data/vehicles/val.json"


@pytest.mark.parametrize("arch, mlp", [("tiny", "mix"), ("small", "mix"), ("small", "mlp")])
def test_model_table(arch, mlp):
    """The classifiers' figures are counted, not remembered (the detectors': test_budget.py)."""
    backbone = DualTokenViT(arch, token_mlp=mlp, out_indices=(2,)).eval()
    neck = DualTokenClsNeck(backbone.arch["embed_dims"][-1])
    head = nn.Linear(1280, 1000)
    macs = count_macs(lambda x: head(neck(backbone(x))[0]), torch.zeros(1, 3, 224, 224))
    parameters = count_parameters(nn.ModuleList([backbone, neck, head]))
    figures = f"{parameters / 1e6:.2f} M | {macs / 1e9:.2f} G |"
    assert f'`arch="{arch}"`, `token_mlp="{mlp}"` | {figures}' in README
