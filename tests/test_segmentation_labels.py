"""Labels as the heads get them: ADE20K ignores 0, other sets number their classes from 0."""

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from narrow import ROOT
from PIL import Image

CONFIG = ROOT / "configs/mmseg/pspnet_dualtoken_s_160k.py"


def labels_of(cfg, loader):
    """Values of the label map of the loader's first image."""
    import mmseg.datasets  # noqa: F401 registers
    from mmseg.registry import DATASETS

    init_default_scope("mmseg")
    dataset = DATASETS.build(cfg[loader].dataset)
    return dataset, set(dataset[0]["data_samples"].gt_sem_seg.data.unique().tolist())


@pytest.mark.parametrize(
    "loader, split", [("train_dataloader", "training"), ("val_dataloader", "validation")]
)
def test_ade20k_ignores_zero(tmp_path, loader, split):
    """In the file 0 is "other", 1 to 150 are the classes; the heads get 0 to 149 and 255."""
    for folder, suffix in (("images", "jpg"), ("annotations", "png")):
        (tmp_path / folder / split).mkdir(parents=True)
        image = np.zeros((64, 64), np.uint8)
        if folder == "annotations":
            image[:, 16:32], image[:, 32:48], image[:, 48:] = 1, 7, 150
        Image.fromarray(image).save(tmp_path / folder / split / f"a.{suffix}")
    cfg = Config.fromfile(CONFIG)
    cfg[loader].dataset.data_root = str(tmp_path)
    # Random crops could miss a class.
    cfg[loader].dataset.pipeline = [
        step
        for step in cfg[loader].dataset.pipeline
        if step.type not in ("RandomResize", "RandomCrop", "PhotoMetricDistortion")
    ]
    dataset, labels = labels_of(cfg, loader)
    assert labels == {0, 6, 149, 255}
    assert len(dataset.metainfo["classes"]) == cfg.model.decode_head.num_classes == 150


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader"])
def test_camvid_keeps_zero(real_data, loader):
    """Its masks hold 0 to 10 and 255; a config on ours must not move them."""
    cfg = Config.fromfile(ROOT / "tests/configs/camvid.py")
    cfg[loader].dataset.data_root = str(real_data / "camvid")
    dataset, _ = labels_of(cfg, loader)
    assert dataset.metainfo["classes"][0] == "Sky" and not dataset.reduce_zero_label
    found = set()
    for i in range(0, len(dataset), 20):
        mask = np.asarray(Image.open(dataset.get_data_info(i)["seg_map_path"]))
        labels = dataset[i]["data_samples"].gt_sem_seg.data.numpy()
        assert set(np.unique(labels)) <= set(np.unique(mask)) | {255}
        found |= set(np.unique(labels))
    assert found == {*range(11), 255}
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 11
