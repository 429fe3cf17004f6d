"""The messages that docs/troubleshooting.md shows are those that are printed."""

import json
import re
from pathlib import Path

import pytest
import torch
from documents import BLOCKS
from helpers import Runs
from tasks import DETECTOR
from test_predict import write_checkpoint

from mmdualtoken.environment import versions
from mmdualtoken.ops.extension.missing import missing_operator

TEXTS = [b.text for b in BLOCKS if b.page == "docs/troubleshooting.md" and b.language == "text"]


def boxes_only():
    """data/scenes without its masks."""
    source = Path("data/scenes").resolve()
    Path("data").unlink()
    Path("data/scenes/annotations").mkdir(parents=True)
    for split in ("train", "val"):
        Path(f"data/scenes/{split}2017").symlink_to(source / f"{split}2017")
        file = f"annotations/instances_{split}2017.json"
        content = json.loads((source / file).read_text())
        for annotation in content["annotations"]:
            del annotation["segmentation"]
        Path("data/scenes", file).write_text(json.dumps(content))
    return [DETECTOR]


def own_classes(names):
    dataset = dict(metainfo=dict(classes=names))
    Path("mine.py").write_text(
        f"_base_ = {DETECTOR!r}\ntrain_dataloader = val_dataloader = dict(dataset={dataset})\n"
    )
    return ["mine.py"]


def changed_alone():
    """With a --work-dir that is refused, so that the warning is all that is run."""
    Path("mine.py").write_text(f"_base_ = {DETECTOR!r}\ntrain_pipeline = []\n")
    return ["mine.py", *occupied()[1:]]


def occupied():
    Path("run").mkdir()
    Path("run/epoch_1.pth").touch()
    return [DETECTOR, "--work-dir", "run"]


def hostile():
    torch.save(dict(state_dict={}, payload=Runs()), "hostile.pth")
    return [DETECTOR, "--pretrained", "hostile.pth"]


def other_variant():
    write_checkpoint("segmentation", "other.pth")  # token_mlp='mlp'
    return [DETECTOR, "--pretrained", "other.pth"]


#: The arguments of train.py that bring each message about, by a piece of it.
CAUSES = {
    "does not exist, neither in": lambda: ["configs/mmdet/mask_rcnn.py"],
    "The usual layout is": lambda: [
        DETECTOR,
        "--cfg-options",
        "train_dataloader.dataset.data_root=gone/",
    ],
    "has boxes only": boxes_only,
    "has no class of the config": lambda: own_classes(("cat", "dog", "owl", "cow")),
    "but the model counts others": lambda: own_classes(("disc", "square")),
    "neither a list nor a file of names": lambda: own_classes("disc"),
    "has no image left": lambda: [
        DETECTOR,
        "--cfg-options",
        "train_dataloader.dataset.filter_cfg.min_size=1000",
    ],
    "has no effect on train_dataloader": changed_alone,
    "does not fit the config's backbone": other_variant,
    "was refused": hostile,
    "holds checkpoints of an earlier run": occupied,
    "--amp": lambda: [DETECTOR, "--amp"],
    "--launcher pytorch": lambda: [DETECTOR, "--launcher", "pytorch"],
}
AT_IMPORT = "mmdualtoken cannot be imported"
IN_THE_MODEL = "mmdualtoken has no replacement"


def pattern(text):
    """A regular expression for the text, in which `…` stands for anything."""
    words = " ".join(text.split())
    return ".*".join(re.escape(part.strip()) for part in words.split("…"))


def test_every_message_has_a_cause():
    pieces = (*CAUSES, AT_IMPORT, IN_THE_MODEL)
    assert len(TEXTS) == len(pieces)
    for piece in pieces:
        assert len([t for t in TEXTS if piece in t]) == 1, piece


@pytest.mark.parametrize("piece", CAUSES)
def test_message(piece, project, tool, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (text,) = [t for t in TEXTS if piece in t]
    status, printed = tool("train", *CAUSES[piece]())
    assert status == 2, printed[-2000:]
    assert re.search(pattern(text), " ".join(printed.split())), printed[-2000:]


def test_message_at_import(monkeypatch):
    found = versions.Finding("mmcv", "2.2.0", "2.1", "FAIL")
    monkeypatch.setattr(versions, "survey", lambda: [found])
    with pytest.raises(ImportError) as caught:
        versions.check_stack()
    (text,) = [t for t in TEXTS if AT_IMPORT in t]
    assert str(caught.value).startswith(text.strip())


def test_message_of_a_missing_operator():
    with pytest.raises(NotImplementedError) as caught:
        missing_operator("nms_quadri")()
    (text,) = [t for t in TEXTS if IN_THE_MODEL in t]
    assert text.strip() in str(caught.value)
