"""What the README says can be done as it says."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmdualtoken.engine.complexity import count_macs, count_parameters
from mmdualtoken.models import DualTokenClsNeck, DualTokenViT

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.S)


def test_length():
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)]+)\)", README))))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()


COMMANDS = [
    line.split("#")[0].split()
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_name_what_exists(command):
    """Make targets, files of ours and flags of our tools."""
    if command[0] == "make":
        assert re.search(rf"^{command[-1]}:", (ROOT / "Makefile").read_text(), re.M)
        return
    for word in command:
        if word.startswith(("tools/", "configs/")):
            assert (ROOT / word).exists()
    tools = [w for w in command if w.startswith("tools/")]
    if not tools:
        return
    name = tools[0].removeprefix("tools/dist_").removeprefix("tools/").split(".")[0]
    sources = [ROOT / "tools" / f"{name}.py", ROOT / "mmdualtoken" / "engine" / "cli.py"]
    source = "".join(p.read_text() for p in sources)
    for flag in (w for w in command if w.startswith("--")):
        assert f'"{flag}"' in source


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
    assert cfg.test_dataloader.dataset.metainfo.classes == ("car", "truck", "bus")
    assert cfg.test_evaluator.ann_file == "data/vehicles/val.json"


def test_backbone_example(capsys):
    text = python_block("DualTokenViT(")
    exec(text, {})  # noqa: S102
    assert capsys.readouterr().out.strip() == text.rsplit("# ", 1)[1].strip()


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
