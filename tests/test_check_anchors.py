"""Objects that no anchor fits: what the check says, and what mmdet's assigner does with them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from data_faults import check, config, write_data
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from tasks import ROOT

from mmdualtoken.data.check import WARNING, anchors

KIND = "no anchor can match many objects"
KEPT = dict(type="Resize", scale=(1333, 800), keep_ratio=True)


@pytest.fixture
def data(here):
    write_data("detection")


def detector(**generator):
    """The narrow Mask R-CNN, with other arguments for its anchors."""
    init_default_scope("mmdet")
    cfg = config("detection")
    cfg.model.rpn_head.anchor_generator.update(generator)
    return cfg


def what(cfg, sizes, image=(256, 256), pipeline=None):
    """What is said of objects of `sizes`, (width, height) each, in images of one size."""
    sizes = np.array(sizes, dtype=float).reshape(-1, 2)
    images = np.tile(np.array(image, dtype=float), (len(sizes), 1))
    resize = dict(type="Resize", scale=(256, 256), keep_ratio=True)
    return anchors.unmatched(cfg, [resize] if pipeline is None else pipeline, images, sizes)


def assigned(cfg, sizes):
    """Whether mmdet's assigner gives an anchor to an object of each size, wherever it lies."""
    from mmdet.registry import TASK_UTILS

    generator = TASK_UTILS.build(cfg.model.rpn_head.anchor_generator)
    cells = [(-(-256 // s), -(-256 // s)) for s in (4, 8, 16, 32, 64)]
    priors = InstanceData(priors=torch.cat(generator.grid_priors(cells, device="cpu")))
    assigner = TASK_UTILS.build(cfg.model.train_cfg.rpn.assigner)
    found = []
    for width, height in sizes:
        corners = torch.cartesian_prod(*[torch.arange(60.0, 76.0)] * 2)
        boxes = torch.cat([corners, corners + torch.tensor([width, height])], 1)
        hits = [
            (
                assigner.assign(
                    priors, InstanceData(bboxes=box[None], labels=torch.zeros(1, dtype=torch.long))
                ).gt_inds
                > 0
            ).any()
            for box in boxes[::17]
        ]
        found.append(any(hits))
    return found


SIZES = [(6, 6), (12, 12), (16, 16), (20, 20), (8, 60), (30, 30), (64, 64), (200, 20), (250, 250)]


@pytest.mark.parametrize("scales", [[2], [4], [8]], ids=str)
def test_what_is_counted_gets_no_anchor_from_mmdet(scales):
    cfg = detector(scales=scales)
    sizes, needed = anchors.anchors_of(cfg.model)
    assert needed == pytest.approx(0.3) and len(sizes) == 15
    lost = anchors.best_overlaps(np.array(SIZES, dtype=float), sizes) < needed
    assert list(lost) == [not hit for hit in assigned(cfg, SIZES)]
    assert any(lost) and not all(lost)


def test_overlap_of_boxes_in_one_place():
    sizes, shapes = np.array([[10.0, 10], [20, 5], [40, 40]]), np.array([[10.0, 10], [40, 20]])
    assert anchors.best_overlaps(sizes, shapes) == pytest.approx([1, 50 / 150, 800 / 1600])


def test_finding_counts_and_says_what_to_do():
    detail, remedy = what(detector(scales=[8]), [(12, 12)] * 3 + [(14, 10)] * 2 + [(40, 40)] * 5)
    assert detail.startswith("5 of 10, 12x12 px in the median as the model sees them; anchors have")
    assert "32 to 512 px, and an overlap of 0.3 is needed" in detail
    assert "scales of the head's anchor_generator" in remedy
    assert what(detector(scales=[2]), [(12, 12)] * 10) is None
    few = [(12, 12)] * 9 + [(40, 40)] * 91
    assert what(detector(scales=[8]), few) is None
    assert what(detector(scales=[8]), [(12, 12)] * 2 + few) is not None
    assert what(detector(scales=[8]), []) is None


def test_sizes_are_those_after_resizing():
    """(1333, 800) makes a square of 256 px one of 800, and of 640 x 320 one of 1333 x 666."""
    cfg = detector(scales=[8])
    assert what(cfg, [(12, 12)], pipeline=[KEPT]) is None  # 37 px
    assert "6x6 px" in what(cfg, [(3, 3)], (640, 320), [KEPT])[0]
    several = dict(type="RandomChoiceResize", scales=[(256, 256), (1333, 800)], keep_ratio=True)
    assert what(cfg, [(12, 12)], pipeline=[several]) is None
    several.update(scales=[(256, 256), (300, 300)])
    assert "14x14 px" in what(cfg, [(12, 12)], pipeline=[several])[0]


@pytest.mark.parametrize(
    "pipeline",
    [
        [],
        [dict(type="Resize", scale=(256, 256))],
        [dict(type="Resize", scale_factor=2.0, keep_ratio=True)],
        [dict(type="RandomChoice", transforms=[[KEPT]])],
        [KEPT, dict(type="RandomCrop", crop_size=(64, 64))],
        [dict(type="RandomResize", scale=[(256, 256), (512, 512)], keep_ratio=True)],
    ],
    ids=str,
)
def test_nothing_is_said_of_sizes_that_are_not_known(pipeline):
    assert what(detector(scales=[8]), [(4, 4)] * 10, pipeline=pipeline) is None


def test_nothing_is_said_of_heads_that_take_every_object():
    """RetinaNet's least overlap is 0: the best anchor of an object is always its own."""
    head = dict(anchor_generator=detector().model.rpn_head.anchor_generator)
    assigner = dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0)
    retina = ConfigDict(model=dict(bbox_head=head, train_cfg=dict(assigner=assigner)))
    assert what(retina, [(4, 4)] * 10) is None
    retina.model.train_cfg.assigner.match_low_quality = False
    assert "0.5 is needed" in what(retina, [(4, 4)] * 10)[0]
    for model in (dict(bbox_head=dict()), dict(decode_head=dict()), dict(bbox_head=head)):
        assert what(ConfigDict(model=model), [(4, 4)] * 10) is None


def test_training_data_alone_is_checked(data):
    cfg = detector(scales=[64])
    (found,) = check(cfg)
    assert found[0] == WARNING and KIND in found[2] and "anchors have 256 to 4096 px" in found[2]
    assert check(cfg, "val") == []
    assert check(detector()) == []


def test_strides_of_levels_and_head(tmp_path):
    """The page's detector, and what a user would write instead: FPN as mmdet's configs have it."""
    page = (ROOT / "configs" / "mmdet" / "README.md").read_text()
    (text,) = re.findall(r"```python\n(# Cascade R-CNN\n.*?)```", page, re.S)
    (tmp_path / "mine.py").write_text(text)
    cfg = Config.fromfile(tmp_path / "mine.py")
    assert not list(anchors.stride_rules(cfg.model))
    model = MODELS.build(cfg.model)
    with torch.no_grad():
        maps = model.extract_feat(torch.zeros(1, 3, 128, 128))
    strides = cfg.model.rpn_head.anchor_generator.strides
    assert [128 // level.shape[-1] for level in maps] == strides == [4, 8, 16, 32, 64]
    cfg.model.neck.type = "FPN"
    (breach,) = anchors.stride_rules(cfg.model)
    assert "the neck begin at stride 8, those of the head at 4" in breach[1]
    cfg.model.neck = [cfg.model.neck, dict(type="BFP")]
    assert [breach] == list(anchors.stride_rules(cfg.model))
    assert not list(anchors.stride_rules(ConfigDict(backbone=dict(type="ResNet"), neck=[])))
    retina = Config.fromfile(ROOT / "configs" / "mmdet" / "retinanet_dualtoken_t_1x.py")
    assert not list(anchors.stride_rules(retina.model))
    retina.model.neck.start_level = 1
    (breach,) = anchors.stride_rules(retina.model)
    assert "begin at stride 16, those of the head at 8" in breach[1]
    retina.model.neck = dict(type="PAFPN", in_channels=[48, 96, 192], start_level=1)
    assert [breach] == list(anchors.stride_rules(retina.model))
    retina.model.neck.start_level = 0
    retina.model.bbox_head.anchor_generator.strides = [550 / 69, 550 / 35]
    assert not list(anchors.stride_rules(retina.model))


def test_wrong_strides_are_an_error_of_the_check(data):
    cfg = detector()
    cfg.model.neck.type = "FPN"
    assert any("the neck begin at stride 8" in reason for *_, reason in check(cfg))


def test_of_random_sizes_those_of_the_evaluation_count(data):
    cfg = detector(scales=[64])
    resize = dict(type="RandomResize", scale=(64, 64), ratio_range=(0.5, 2.0), keep_ratio=True)
    pipeline = cfg.train_dataloader.dataset.pipeline
    (step,) = [i for i, step in enumerate(pipeline) if "Resize" in str(step["type"])]
    pipeline[step] = resize
    (found,) = check(cfg)
    assert KIND in found[2] and "anchors have 256 to 4096 px" in found[2]


@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
def test_objects_that_mmdet_does_not_train_on_are_not_counted(key, data):
    cfg = detector(scales=[64])
    assert any(KIND in reason for *_, reason in check(cfg))
    file = Path("data/scenes/annotations/instances_train2017.json")
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        annotation[key] = 1
    file.write_text(json.dumps(content))
    assert not any(KIND in reason for *_, reason in check(cfg))
