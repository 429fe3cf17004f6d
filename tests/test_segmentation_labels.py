"""Labels as the heads get them: ADE20K ignores 0, other sets number their classes from 0."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from narrow import ROOT
from PIL import Image
from test_inheritance import RECIPES

CONFIG = ROOT / "configs/mmseg/pspnet_dualtoken_s_160k.py"


#: Split, values of the mask, and labels: of ADE20K 0 is "other", 1 to 150 are the classes.
CASES = {
    "ade20k": ("training", {0, 1, 7, 150}, {255, 0, 6, 149}),
    "ade20k in validation": ("validation", {0, 1, 7, 150}, {255, 0, 6, 149}),
    "roads": ("validation", {0, 1, 2, 255}, {255, 0, 1}),
    "cracks": ("validation", {0, 1, 255}, {0, 1, 255}),
}


def build(cfg, loader):
    import mmseg.datasets  # noqa: F401 registers
    from mmseg.registry import DATASETS

    init_default_scope("mmseg")
    return DATASETS.build(cfg[loader].dataset)


@pytest.mark.parametrize("name", CASES)
def test_labels(name, here):
    """Of our config, and of those that the documents tell users to write."""
    split, values, expected = CASES[name]
    mask = np.repeat(np.array([*values], np.uint8), 16)[None].repeat(64, 0)
    for folder, suffix in (("images", "jpg"), ("annotations", "png")):
        (here / folder / split).mkdir(parents=True)
        Image.fromarray(mask).save(here / folder / split / f"a.{suffix}")
    if name in RECIPES:
        Path("mine.py").write_text(RECIPES[name])
    cfg = Config.fromfile("mine.py" if name in RECIPES else CONFIG)
    loader = "train_dataloader" if split == "training" else "val_dataloader"
    cfg[loader].dataset.data_root = str(here)
    # Random crops could miss a class.
    cfg[loader].dataset.pipeline = [
        step
        for step in cfg[loader].dataset.pipeline
        if step.type not in ("RandomResize", "RandomCrop", "PhotoMetricDistortion")
    ]
    dataset = build(cfg, loader)
    labels = set(dataset[0]["data_samples"].gt_sem_seg.data.unique().tolist())
    assert labels == expected
    assert len(dataset.metainfo["classes"]) == cfg.model.decode_head.num_classes


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader"])
def test_camvid_keeps_zero(real_data, loader):
    """Its masks hold 0 to 10 and 255; a config on ours must not move them."""
    cfg = Config.fromfile(ROOT / "tests/configs/camvid.py")
    cfg[loader].dataset.data_root = str(real_data / "camvid")
    dataset = build(cfg, loader)
    assert dataset.metainfo["classes"][0] == "Sky" and not dataset.reduce_zero_label
    found = set()
    for i in range(0, len(dataset), 20):
        mask = np.asarray(Image.open(dataset.get_data_info(i)["seg_map_path"]))
        labels = dataset[i]["data_samples"].gt_sem_seg.data.numpy()
        assert set(np.unique(labels)) <= set(np.unique(mask)) | {255}
        found |= set(np.unique(labels))
    assert found == {*range(11), 255}
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 11
