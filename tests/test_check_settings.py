"""Settings that fit neither the classes nor the evaluation: found before training begins."""

import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from data_faults import SEGMENTATION_IMAGE, config, write_data
from helpers import log_lines
from mmengine.config import ConfigDict
from mmengine.registry import DATASETS, MODELS, init_default_scope

from mmdualtoken.data.check import ERROR, check_config, check_data
from mmdualtoken.data.check.classes import loss_rules
from mmdualtoken.errors import InputError

LOADERS = ("train_dataloader", "val_dataloader")
VAL_FILE = Path("data/scenes/annotations/instances_val2017.json")


pytestmark = pytest.mark.usefixtures("here")


def quick_look(cfg):
    """The error of the quick look, '' without one, and its log; the whole check says the same."""
    with log_lines() as lines:
        try:
            check_data(cfg, *LOADERS)
            error = ""
        except InputError as caught:
            error = str(caught)
    findings = [f for report in check_config(cfg, ["train", "val"]) for f in report.findings]
    assert (error in [f.sentence() for f in findings]) == bool(error)
    assert any(f.severity == ERROR for f in findings) == bool(error)
    return error, lines


def changed(task, options):
    write_data(task)
    cfg = config(task)
    cfg.merge_from_dict(options)
    return cfg


HEAD = dict(type="FCNHead", channels=8, num_classes=3)
WEIGHTS = {
    "mmseg": ("mmseg", HEAD, dict(), 3),
    "mmseg, one channel": (
        "mmseg",
        dict(HEAD, num_classes=2, out_channels=1),
        dict(use_sigmoid=True),
        1,
    ),
    "mmdet counts the background": ("mmdet", dict(type="Shared2FCBBoxHead", num_classes=3), {}, 4),
    "mmdet, sigmoid": ("mmdet", dict(type="RetinaHead", num_classes=3), dict(use_sigmoid=True), 3),
    "mmdet's loss in mmseg": ("mmseg", dict(num_classes=3), dict(type="mmdet.CrossEntropyLoss"), 4),
    "mmpretrain": ("mmpretrain", dict(type="LinearClsHead", num_classes=3), {}, 3),
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("given", [1, 3, 4, 5])
def test_class_weights(name, given):
    """The toolbox's loss takes as many as the check wants, and raises for another number."""
    scope, head, settings, wanted = WEIGHTS[name]
    loss = dict(type="CrossEntropyLoss", class_weight=[1.0] * given) | settings
    model = ConfigDict(head=dict(head, loss=loss))
    found = [kind for _, kind, *_ in loss_rules(model, scope)]
    assert found == [f"model.head.loss.class_weight has {given} values instead of {wanted}"] * (
        given != wanted
    )
    shape = (2, 1, 6, 6) if wanted == 1 else (2, wanted)
    labels = torch.zeros(2, 6, 6, dtype=torch.long) if wanted == 1 else torch.tensor([0, 2])
    init_default_scope(scope)
    module = MODELS.build(loss)
    if found and given > 1:
        with pytest.raises((RuntimeError, ValueError, AssertionError)):
            module(torch.ones(shape), labels)
    elif not found:
        assert torch.isfinite(module(torch.ones(shape), labels))


def test_class_weights_of_a_config():
    """In the look of training and in the whole check."""
    options = {"model.decode_head.loss_decode.class_weight": [1.0] * 4}
    error, _ = quick_look(changed("segmentation", options))
    assert "model.decode_head.loss_decode.class_weight has 4 values instead of 5" in error
    both = {"model.decode_head.loss_decode": dict(use_sigmoid=True, class_weight=[1.0] * 5)}
    assert "class_weight and use_sigmoid=True" in quick_look(changed("segmentation", both))[0]


def test_softmax_of_one_channel():
    """Its loss is always 0, and so is its argmax."""
    loss = dict(type="CrossEntropyLoss")
    model = ConfigDict(head=dict(HEAD, num_classes=1, loss_decode=[loss]))
    (breach,) = loss_rules(model, "mmseg")
    assert breach[1] == "model.head.loss_decode is a softmax of one channel"
    init_default_scope("mmseg")
    assert MODELS.build(loss)(torch.randn(1, 1, 4, 4), torch.zeros(1, 4, 4).long()) == 0
    loss["use_sigmoid"] = True
    assert not list(loss_rules(ConfigDict(head=dict(HEAD, num_classes=1, loss=loss)), "mmseg"))


NAMES = ("background", "disc", "square", "triangle", "star")
MOVED = "numbers the classes otherwise than data/{}: 'star' has label 0, there {}"


def test_files_with_other_orders():
    """Each config follows its file, and the labels differ: the AP would be 0."""
    cfg = changed("detection", {})
    content = json.loads(VAL_FILE.read_text())
    content["categories"].reverse()
    VAL_FILE.write_text(json.dumps(content))
    cfg.val_dataloader.dataset.metainfo = dict(classes=NAMES[:0:-1])
    error, _ = quick_look(cfg)
    assert MOVED.format("scenes/annotations/instances_train2017.json", 3) in error


def test_stock_names_in_other_orders():
    """mmdet numbers the names that a file has, in its order."""
    cfg = changed("detection", {})
    for split, names in (("train", ["person", "cat"]), ("val", ["cat", "person"])):
        cfg[f"{split}_dataloader"].dataset.pop("metainfo")
        path = VAL_FILE.with_name(f"instances_{split}2017.json")
        content = json.loads(path.read_text())
        content["categories"] = [dict(id=i, name=name) for i, name in enumerate(names, 1)]
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] < 3]
        path.write_text(json.dumps(content))
    cfg.model.roi_head.bbox_head.num_classes = cfg.model.roi_head.mask_head.num_classes = 2
    error, _ = quick_look(cfg)
    assert "numbers the classes otherwise" in error and "'cat' has label 0, there 1" in error
    labels = [DATASETS.build(cfg[name].dataset).cat2label for name in LOADERS]
    assert labels == [{1: 0, 2: 1}] * 2  # of "person" and "cat", of "cat" and "person"


@pytest.mark.parametrize(
    "val, words",
    [
        (("star", *NAMES[:4]), MOVED.format("ade/images/training", 4)),
        (NAMES[:3], ""),  # the head says more
        ((*NAMES[:4], "other"), ""),
    ],
)
def test_names_with_other_orders(val, words):
    options = {"val_dataloader.dataset.metainfo": dict(classes=val, palette=[[1, 2, 3]] * len(val))}
    cfg = changed("segmentation", options)
    error, _ = quick_look(cfg)
    assert words in error
    assert ("numbers the classes otherwise" in error) == bool(words)


def test_evaluation_without_names():
    cfg = changed("segmentation", {})
    cfg.val_dataloader.dataset.pop("metainfo")
    assert "images/validation has no names of classes" in quick_look(cfg)[0]


def test_zero_is_reduced_in_training_alone():
    cfg = changed("segmentation", {"val_dataloader.dataset.reduce_zero_label": False})
    cfg.val_dataloader.dataset.pipeline[2].reduce_zero_label = False
    cfg.merge_from_dict({"model.decode_head.num_classes": 6})  # one for 5 of the files
    for name in LOADERS:
        cfg[name].dataset.metainfo = dict(classes=(*NAMES, "x"), palette=[[1, 2, 3]] * 6)
    error, lines = quick_look(cfg)
    words = "has reduce_zero_label=False, data/ade/images/training has True: all labels differ by"
    assert error == "" and any(words in line for line in lines)


def test_zero_is_reduced_in_the_pipeline_alone():
    """mmseg stops at it in the middle of a worker."""
    cfg = changed("segmentation", {"train_dataloader.dataset.reduce_zero_label": False})
    error, _ = quick_look(cfg)
    assert error.startswith(f"{SEGMENTATION_IMAGE} the loading part of the pipeline fails on it")
    assert "AssertionError: Initialize dataset with `reduce_zero_label` as False" in error


def test_ignored_class_that_is_counted():
    for ignored, number in ((255, 1), (0, 0)):
        options = {"model.decode_head.ignore_index": 0, "val_evaluator.ignore_index": ignored}
        error, lines = quick_look(changed("segmentation", options))
        assert error == ""
        assert sum("ignore are counted by val_evaluator: 0" in line for line in lines) == number


def test_resized_label_maps():
    """mmseg evaluates at the image's own size, and stops at the first evaluation."""
    cfg = changed("segmentation", {})
    pipeline = cfg.val_dataloader.dataset.pipeline
    assert quick_look(cfg)[0] == ""
    pipeline[1], pipeline[2] = pipeline[2], pipeline[1]
    error, _ = quick_look(cfg)
    assert "has label maps that its pipeline resizes: 64x64, the first image " in error
    assert "Put LoadAnnotations behind Resize" in error


@pytest.mark.parametrize(
    "options, words",
    [
        ({"val_evaluator.topk": (1, 5)}, "val_evaluator measures top-5 of 4 classes"),
        ({"val_evaluator": [dict(type="mmpretrain.Accuracy", topk=5)]}, "val_evaluator measures"),
        ({"model.head.cal_acc": True, "model.head.topk": (5,)}, "model.head measures top-5 of 4"),
        ({"model.head.topk": (5,), "val_evaluator.topk": 4}, ""),
    ],
)
def test_top_k_of_few_classes(options, words):
    error, _ = quick_look(changed("classification", options))
    assert words in error and bool(words) == bool(error)


def test_lists_of_files():
    """mmdet 2 took several annotation files; mmseg's lists name images without a suffix."""
    file = "annotations/instances_train2017.json"
    cfg = changed("detection", {"train_dataloader.dataset.ann_file": [file, file]})
    assert "is a list, no annotation file; write a data set for each" in quick_look(cfg)[0]
    cfg = changed("segmentation", {"train_dataloader.dataset.ann_file": "list.txt"})
    names = [Path(SEGMENTATION_IMAGE).stem, "ADE_train_00000002"]
    for text, words in (
        ("\n".join(names), ""),
        ("\n".join(names) + "\r\n\r\n", "has empty lines, which mmseg takes for images"),
        (f"{names[0]}.jpg", f"{names[0]}.jpg.jpg does not exist: without its last .jpg it does"),
    ):
        Path("data/ade/list.txt").write_text(text)
        with pytest.raises(InputError, match=re.escape(words)) if words else nullcontext():
            check_data(cfg, "train_dataloader")


def test_mosaic_of_one_image():
    """mmdet stops with a bare AssertionError."""
    cfg = changed("detection", {})
    dataset = cfg.train_dataloader.dataset
    plain, mosaic = dataset.pipeline, dict(type="Mosaic", img_scale=(64, 64))
    dataset.pipeline = [*plain[:2], mosaic, *plain[2:]]
    assert "has Mosaic in its pipeline, which needs several images" in quick_look(cfg)[0]
    dataset.pipeline[2] = dict(mosaic, type="CachedMosaic")
    assert quick_look(cfg)[0] == ""
    dataset.pipeline = plain[:2]
    wrapper = dict(type="MultiImageMixDataset", dataset=dataset, pipeline=[mosaic, *plain[2:]])
    cfg.train_dataloader.dataset = wrapper
    assert quick_look(cfg)[0] == ""
    cfg = changed("segmentation", {})
    mosaic = dict(type="RandomMosaic", prob=1, img_scale=(64, 64))
    cfg.train_dataloader.dataset.pipeline.insert(2, mosaic)
    assert "has RandomMosaic in its pipeline" in quick_look(cfg)[0]


def test_evaluation_without_annotations():
    """COCO's evaluation would print -1; results can be written without."""
    cfg = changed("detection", {})
    content = json.loads(VAL_FILE.read_text())
    del content["annotations"]
    VAL_FILE.write_text(json.dumps(content))
    error, _ = quick_look(cfg)
    assert f"{VAL_FILE} lacks or has empty ['annotations']" in error
    assert "set format_only=True of the evaluator" in error
    cfg.val_evaluator.format_only = cfg.test_evaluator.format_only = True
    assert quick_look(cfg)[0] == ""
