"""Counts of the well-known data sets, and small real ones."""

import json
from pathlib import Path

import pytest
from data_faults import TASKS, config, write_data
from mmdet.datasets import CocoDataset
from mmengine.config import Config

from mmdualtoken.data.check import ERROR, check_config
from mmdualtoken.data.check import official as official_sets
from mmdualtoken.data.check.official import ADE, SETS

pytestmark = pytest.mark.usefixtures("here")


def official(task):
    """The config of a task as the published data set: stock class, own classes, usual folder."""
    cfg = Config(config(task).to_dict())
    kind, _, root, *_ = next(row for row in SETS if row[0].startswith(f"{cfg.default_scope}."))
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.update(type=kind, data_root=f"data/{root}/")
        loader.dataset.pop("metainfo", None)
    Path(TASKS[task][2]).rename(f"data/{root}")
    return cfg


def test_coco_is_incomplete():
    write_data("detection")
    cfg = official("detection")
    cfg.model.roi_head.bbox_head.num_classes = cfg.model.roi_head.mask_head.num_classes = 80
    for split in ("train", "val"):
        path = Path(f"data/coco/annotations/instances_{split}2017.json")
        content = json.loads(path.read_text())
        names = CocoDataset.METAINFO["classes"]
        content["categories"] = [dict(id=i, name=name) for i, name in enumerate(names, 1)]
        path.write_text(json.dumps(content))
    cfg.val_evaluator.ann_file = str(path)
    train, val = check_config(cfg, ["train", "val"])
    (finding,) = [f for f in train.findings if f.severity == ERROR]
    assert finding.reason == "differs from COCO 2017, train: 4 of 118287 images"
    (finding,) = [f for f in val.findings if f.severity == ERROR]
    assert finding.reason == "differs from COCO 2017, val: 4 of 5000 images"

    Path("data/coco").rename("data/mine")
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = "data/mine/"
    (train,) = check_config(cfg, ["train"])
    assert train.count(ERROR) == 0 and "4 images; COCO 2017, train, has 118287" in train.notes[-1]


def test_ade20k_is_incomplete():
    """By their numbers, the names of missing images are known."""
    write_data("segmentation")
    cfg = official("segmentation")
    cfg.model.decode_head.num_classes = 150
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        Path(f"data/ADEChallengeData2016/{kind}/training/ADE_train_00000002.{suffix}").unlink()
    train, val = check_config(cfg, ["train", "val"])
    (finding,) = [f for f in train.findings if f.severity == ERROR]
    assert "3 of 20210 images; missing: ADE_train_00000002, ADE_train_00000005" in finding.reason
    assert finding.reason.endswith("and 20199 more")
    assert "4 of 2000 images" in [f for f in val.findings if f.severity == ERROR][0].reason


def test_imagenet_is_incomplete():
    write_data("classification")
    Path("data/imagenet/meta").mkdir()
    names = sorted(p.parts[-2:] for p in Path("data/imagenet/val").glob("*/*.jpg"))
    lines = [f"{'/'.join(name)} {label}" for label, name in enumerate(names)]
    Path("data/imagenet/meta/val.txt").write_text("\n".join(lines))
    cfg = official("classification")
    for split, loader in (("train", cfg.train_dataloader), ("val", cfg.val_dataloader)):
        loader.dataset.update(split=split, data_prefix="")
    cfg.model.head.num_classes = 1000
    train, val = check_config(cfg, ["train", "val"])
    kinds = [f.kind for f in train.findings if f.severity == ERROR]
    assert "has another number of folders than of classes" in kinds
    reasons = [f.reason for f in val.findings if f.severity == ERROR]
    assert reasons == [
        "differs from ImageNet-1k, val: 4 of 50000 images; folders without 50 images: "
        "disc (1), square (1), star (1), triangle (1)"
    ]


def test_official_counts_that_are_complete(monkeypatch):
    write_data("segmentation")
    monkeypatch.setattr(official_sets, "SETS", [(*ADE, "train", 4, "images/training")])
    cfg = official("segmentation")
    cfg.model.decode_head.num_classes = 150
    (train,) = check_config(cfg, ["train"])
    assert train.count(ERROR) == 0
    assert train.notes == ["all 4 images of ADE20K (SceneParse150), train"]


def point_to(cfg, root, **settings):
    """Use a real data set; `settings` hold for both splits, or are pairs (train, val)."""
    for index, loader in enumerate((cfg.train_dataloader, cfg.val_dataloader)):
        chosen = {k: v[index] if isinstance(v, tuple) else v for k, v in settings.items()}
        loader.dataset.update(data_root=f"{root}/", **chosen)
    return check_config(cfg, ["train", "val"], workers=2)


@pytest.mark.parametrize(
    "name, classes, images, objects",
    [
        ("nuclei", ("nucleus",), (235, 66), [(6848,), (1770,)]),
        ("bccd", ("RBC", "WBC", "Platelets"), (205, 87), [(2382, 214, 209), (968, 87, 83)]),
    ],
)
def test_real_objects(name, classes, images, objects, real_data):
    """Masks as RLE, and boxes alone."""
    cfg = config("detection")
    for head in ("bbox_head", "mask_head"):
        cfg.model.roi_head[head].num_classes = len(classes)
    if name == "bccd":
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            for step in loader.dataset.pipeline:
                step.pop("with_mask", None)
    cfg.val_evaluator = None
    # COCO's size: at the narrow model's 64 pixels no anchor could match most objects.
    cfg.train_dataloader.dataset.pipeline[2].scale = (1333, 800)
    reports = point_to(
        cfg,
        real_data / name,
        metainfo=dict(classes=list(classes)),
        ann_file=("annotations/train.json", "annotations/val.json"),
        data_prefix=(dict(img="train/"), dict(img="val/")),
    )
    assert [report.findings for report in reports] == [[], []]
    assert tuple(report.images for report in reports) == images
    assert [tuple(report.classes.values()) for report in reports] == objects


@pytest.mark.parametrize("reduce", [False, True])
def test_real_maps(reduce, real_data):
    """Labels 0 to 10, 255 ignored: reduce_zero_label=True would leave the last class empty."""
    classes = (real_data / "camvid" / "classes.txt").read_text().split()
    cfg = config("segmentation")
    cfg.model.decode_head.num_classes = len(classes)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        for step in loader.dataset.pipeline:
            step.pop("reduce_zero_label", None)
    settings = dict(metainfo=dict(classes=classes, palette=[]), reduce_zero_label=reduce)
    reports = point_to(cfg, real_data / "camvid", **settings)
    assert [(r.images, r.smallest, r.largest) for r in reports] == [
        (184, (480, 360), (480, 360)),
        (101, (480, 360), (480, 360)),
    ]
    found = [finding for report in reports for finding in report.findings]
    if reduce:
        assert {f.reason for f in found} == {"classes have no pixel: Bicyclist"}
        assert all("reduce_zero_label=False" in f.remedy for f in found)
    else:
        assert found == [] and all(min(r.classes.values()) > 0 for r in reports)
