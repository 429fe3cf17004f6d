"""The weights in the package: found by name everywhere, finite, and giving recorded outputs."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import log_lines
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from tasks import ROOT

import mmdualtoken
from mmdualtoken.cli import find_config
from mmdualtoken.config_files import config_path
from mmdualtoken.errors import InputError
from mmdualtoken.inference import load_model
from mmdualtoken.weights.shipped import complete_name, weights_info, weights_path

FIXTURE = ROOT / "tests" / "fixtures" / "shipped_weights.json"
NAMES = mmdualtoken.list_weights()


def photo(size):
    """A picture of smooth colours and an edge, (1, 3, size, size), as the models get it."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    return torch.stack([torch.sin(3 * x), torch.cos(2 * y * x), (x > y).float()])[None]


@pytest.mark.parametrize("name", NAMES)
def test_recorded_output(name):
    """Logits to 1e-3 of those that were recorded when the file was made; every tensor is finite."""
    expected = json.loads(FIXTURE.read_text())[name]
    content = CheckpointLoader.load_checkpoint(f"mmdualtoken://{name}")
    assert all(torch.isfinite(v.float()).all() for v in content["state_dict"].values())
    info = weights_info(name)
    model = load_model(Config.fromfile(config_path(info["config"])), f"mmdualtoken://{name}")
    with torch.no_grad():
        logits = model(photo(96), mode="tensor")[0]
    assert logits.argmax() == expected["argmax"]
    np.testing.assert_allclose(logits[:8], expected["first"], atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_metadata(name):
    info = weights_info(name)
    assert Path(config_path(info["config"])).is_file()
    assert len(info["classes"]) == len(set(info["classes"])) == 393
    assert sum(info["data"].values()) > 250_000 and info["photos_seen"] > 0
    assert {"mini", "places"} <= set(info["accuracy"])
    assert "research" in info["licence"]
    assert weights_path(name).stat().st_size < 25e6


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_accuracy(name, real_data, tmp_path):
    """Top-1 of all classes is what the card says, on all 19,000 photos for validation."""
    if not (real_data / "photos393" / "val").is_dir():
        pytest.skip("MMDUALTOKEN_DATA has no photos393/val, the photos of docs/pretraining.md")
    info = weights_info(name)
    cfg = Config.fromfile(config_path(info["config"]))
    cfg.work_dir, cfg.load_from = str(tmp_path), f"mmdualtoken://{name}"
    cfg.test_dataloader.dataset.data_root = str(real_data / "photos393")
    found = Runner.from_cfg(cfg).test()["accuracy/top1"]
    stated = [info["accuracy"][source]["top1"] for source in ("mini", "places")]
    assert found == pytest.approx(sum(stated) / 2, abs=0.1)  # as many photos of each


@pytest.mark.parametrize("name", NAMES)
def test_cats_at_full_size(name, real_data, tmp_path, tool):
    """Weights that had learnt the sources of their photos named a cat for none of these."""
    photos = real_data / "voc_animals" / "images" / "validation"
    if not photos.is_dir():
        pytest.skip("MMDUALTOKEN_DATA has no voc_animals, photos of Pascal VOC with label maps")
    (tmp_path / "cats").mkdir()
    for file in (real_data / "voc_animals" / "annotations" / "validation").glob("*.png"):
        labels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        pixels = np.bincount(labels[labels < 9], minlength=9)[1:]  # without the background
        if pixels[1] == pixels.sum() > 0.15 * labels.size:  # a cat, and nothing else
            photo = (photos / file.name).with_suffix(".jpg")
            (tmp_path / "cats" / photo.name).symlink_to(photo)
    status, printed = tool(
        "predict", f"mmdualtoken://{name}", tmp_path / "cats", "--out", tmp_path / "o"
    )
    assert status == 0, printed
    records = [json.loads(file.read_text()) for file in (tmp_path / "o" / "preds").glob("*.json")]
    cats = {"tabby", "Persian cat", "Egyptian cat"}
    found = [any(top["name"] in cats for top in record["top"]) for record in records]
    assert len(found) == 42 and sum(found) >= 42 / 3


def test_names(here):
    """A file of that name comes first."""
    assert "tiny" in NAMES
    assert complete_name("tiny") == "mmdualtoken://tiny"
    assert complete_name("other.pth") == "other.pth"
    assert find_config("mmdualtoken://tiny").name.startswith("dualtoken_t_")
    with pytest.raises(InputError, match=r"mmdualtoken://huge .*mmdualtoken://tiny"):
        CheckpointLoader.load_checkpoint("mmdualtoken://huge")
    Path("tiny").touch()
    assert complete_name("tiny") == "tiny"


def test_backbone_by_init_cfg():
    """In the toolboxes' own way, without our tools, on any grid."""
    init_cfg = dict(type="Pretrained", checkpoint="mmdualtoken://tiny", prefix="backbone.")
    cfg = dict(type="DualTokenViT", arch="tiny", token_mlp="mix", token_size=(5, 9))
    model = MODELS.build({**cfg, "init_cfg": init_cfg})
    with log_lines() as lines:
        model.init_weights()
    assert any("backbone tensors from mmdualtoken://tiny" in line for line in lines)
    state = CheckpointLoader.load_checkpoint("mmdualtoken://tiny")["state_dict"]
    for name in ("stem.convs.0.weight", "stages.2.blocks.0.ffn.fc1.weight"):
        assert torch.equal(model.state_dict()[name], state[f"backbone.{name}"])
    assert model.global_tokens.shape == (1, 5, 9, 48)


def test_whole_classifier_by_mmengine():
    """What `load_from` of a runner does."""
    cfg = Config.fromfile(config_path(weights_info("tiny")["config"]))
    init_default_scope("mmpretrain")
    model = MODELS.build({**cfg.model, "data_preprocessor": cfg.data_preprocessor})
    content = load_checkpoint(model, "mmdualtoken://tiny", strict=True)
    assert content["meta"]["dataset_meta"]["classes"][0] == "tench"


def test_predict_needs_no_config(tmp_path, tool):
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.full((90, 120, 3), 128, np.uint8))
    arguments = ["mmdualtoken://tiny", tmp_path / "photo.jpg", "--out", tmp_path / "out"]
    status, printed = tool("predict", *arguments)
    assert status == 0, printed
    record = json.loads((tmp_path / "out" / "preds" / "photo.json").read_text())
    assert record["pred_class"] in weights_info("tiny")["classes"]
    assert len(record["top"]) == 5
