"""Each fault of a COCO annotation file: what the check says, and what mmdet does."""

import json
from pathlib import Path

import pytest
from data_faults import (
    DETECTION_IMAGE,
    check,
    config,
    expect,
    expect_clean,
    quick_error,
    write_data,
)
from mmdet.datasets import CocoDataset
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmdualtoken.data.check import ERROR, WARNING, check_data, coco
from mmdualtoken.data.check.box_forms import form_rules

ANNOTATIONS = "data/scenes/annotations/instances_train2017.json"


@pytest.fixture(autouse=True)
def data(here):
    write_data("detection")


def change(**values):
    """Change the first annotation."""
    return lambda content: content["annotations"][0].update(values)


def drop(key, kind="annotations"):
    return lambda content: content[kind][0].pop(key)


def rle(size=None, total=None):
    def write(content):
        height, width = size or (content["images"][0]["height"], content["images"][0]["width"])
        counts = [5, (total or height * width) - 5]
        content["annotations"][0]["segmentation"] = dict(size=[height, width], counts=counts)

    return write


def crowd_of_wrong_size(content):
    rle((9, 9))(content)
    content["annotations"][0]["iscrowd"] = 1


def repeat(kind, key, **values):
    """Give the second entry the key of the first."""

    def write(content):
        content[kind][1].update({key: content[kind][0][key]}, **values)

    return write


CENTRES = "[x of the centre, y of the centre, width, height]"
TRIANGLE = [1, 1, 20, 1, 20, 20]
BOXES = {
    "outside": (change(bbox=[900, 900, 9, 9]), ERROR, "wholly outside", False),
    "negative": (change(bbox=[30, 30, -9, 9]), ERROR, "negative size", False),
    "not finite": (change(bbox=[1, 1, float("inf"), 9]), ERROR, "four finite numbers", False),
    "three numbers": (change(bbox=[1, 1, 9]), ERROR, "four finite numbers", True),
    "area 0": (change(area=0), ERROR, "area is not positive", False),
    "no area": (change(bbox=[5, 5, 0, 9]), WARNING, "box has no area", False),
    "narrow": (change(bbox=[5, 5, 0.5, 9]), WARNING, "narrower than one pixel", False),
    "partly outside": (change(bbox=[-5, 5, 50, 9]), WARNING, "reaches outside", False),
    "unknown category": (change(category_id=77), ERROR, "category 77", False),
    "no segmentation": (drop("segmentation"), ERROR, "no segmentation", True),
    "flat polygon": (change(segmentation=TRIANGLE), ERROR, "no list of polygons", True),
    "letters": (change(segmentation=[["a"] * 6]), ERROR, "else than finite numbers", True),
    "text": (change(segmentation="x"), ERROR, "neither polygons nor RLE", True),
    "short polygon": (change(segmentation=[[1, 1, 9, 9]]), WARNING, "less than 6", False),
    "odd polygon": (change(segmentation=[TRIANGLE, [1] * 7]), WARNING, "odd number", False),
    "RLE": (rle(), None, "", False),
    "RLE size": (rle((9, 9)), ERROR, "RLE mask has another size", True),
    "crowd RLE size": (crowd_of_wrong_size, ERROR, "RLE mask has another size", True),
    "RLE short": (rle(total=999), ERROR, "do not fit the size", False),
    "RLE long": (rle(total=99999), ERROR, "do not fit the size", True),
    "RLE parts": (change(segmentation=dict(counts=[1])), WARNING, "lacks size or counts", False),
}


def edit(change):
    content = json.loads(Path(ANNOTATIONS).read_text())
    content["annotations"].sort(key=lambda a: a["image_id"])  # the first is of the first image
    change(content)
    Path(ANNOTATIONS).write_text(json.dumps(content))


@pytest.mark.parametrize("name", BOXES)
def test_annotation(name):
    change, severity, words, stops = BOXES[name]
    edit(change)
    if severity is None:
        expect_clean(config("detection"))
    else:
        expect(config("detection"), severity, DETECTION_IMAGE, words, stops)


def boxes(form):
    """Write all boxes in another form: form(x, y, width, height, image width, image height)."""

    def write(content):
        sizes = {i["id"]: (i["width"], i["height"]) for i in content["images"]}
        for annotation in content["annotations"]:
            annotation["bbox"] = form(*annotation["bbox"], *sizes[annotation["image_id"]])

    return write


FORMS = {
    "corners": (lambda x, y, w, h, *_: [x, y, x + w, y + h], ERROR, "to be [x1, y1, x2, y2]"),
    "centres": (lambda x, y, w, h, *_: [x + w / 2, y + h / 2, w, h], ERROR, CENTRES),
    "sides exchanged": (lambda x, y, w, h, *_: [x, y, h, w], ERROR, "to be [x, y, height, width]"),
    "loose": (lambda x, y, w, h, *_: [max(x - 9, 0), max(y - 9, 0), w, h], WARNING, "fit their m"),
    "shares": (lambda x, y, w, h, a, b: [x / a, y / b, w / a, h / b], ERROR, "shares of the image"),
}


@pytest.mark.parametrize("name", FORMS)
def test_form_of_boxes(name):
    form, severity, words = FORMS[name]
    edit(boxes(form))
    expect(config("detection"), severity, ANNOTATIONS, words, False)


def polygons_as_shares(content):
    for annotation in content["annotations"]:
        annotation.update(segmentation=[[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]], iscrowd=0)


def everywhere(**values):
    """Change all annotations."""
    return lambda content: [annotation.update(values) for annotation in content["annotations"]]


NARROW = dict(bbox=[2, 2, 0.5, 9], segmentation=[[2, 2, 2.5, 2, 2.5, 11]])
LIST = "annotations"
FILES = {
    "iscrowd as text": (everywhere(iscrowd="0"), ERROR, "'iscrowd' is neither 0 nor 1", False),
    "ignore as text": (change(ignore="false"), ERROR, "1 annotations, the first 1: 'false'", False),
    "all crowd": (everywhere(iscrowd=1), ERROR, "no object to learn from: iscrowd is set", False),
    "all narrow": (everywhere(**NARROW), ERROR, "no object to learn from: box is narrow", False),
    "polygon shares": (polygons_as_shares, ERROR, "polygons that are shares of the", False),
    "unknown image": (change(image_id=999), WARNING, "image 999", False),
    "image id as text": (change(image_id="1"), WARNING, "image '1'", False),
    "no box": (drop("bbox"), ERROR, "annotation lacks bbox: entry 0", True),
    "no width": (drop("width", "images"), ERROR, "image lacks width: entry 0", True),
    "id of a list": (change(id=[1]), ERROR, "annotation has a wrong id", True),
    "same annotation id": (repeat("annotations", "id"), ERROR, "annotation ids occur more", True),
    "same image id": (repeat("images", "id"), ERROR, "image ids occur more", False),
    "same category id": (repeat("categories", "id"), ERROR, "category ids occur more", False),
    "same category": (repeat("categories", "name"), ERROR, "of the same name: 'disc', ids", False),
    "empty": (lambda content: content.update(images=[]), ERROR, "has empty ['images']", True),
}


@pytest.mark.parametrize("name", FILES)
def test_annotation_file(name):
    change, severity, words, stops = FILES[name]
    edit(change)
    expect(config("detection"), severity, ANNOTATIONS, words, stops)


def test_categories_off_by_one():
    """The quick look says it once, with how many."""
    edit(lambda content: [a.update(category_id=a["category_id"] - 1) for a in content[LIST]])
    content = json.loads(Path(ANNOTATIONS).read_text())
    known = {category["id"] for category in content["categories"]}
    stray = [a["category_id"] for a in content[LIST] if a["category_id"] not in known]
    words = f"does not list: {len(stray)} of {len(content[LIST])}, the first of {stray[0]}. "
    assert words in quick_error(config("detection"))
    assert "'categories' does not list" in str(check(config("detection")))


# Files and annotations together.


def size(content):
    return content["images"][0]["width"], content["images"][0]["height"]


def declare(width, height):
    return lambda content: content["images"][0].update(width=width, height=height)


def tag(value):
    """Give the first image an EXIF orientation, its pixels left as they are."""
    tags = Image.Exif()
    tags[0x0112] = value
    with Image.open(DETECTION_IMAGE) as image:
        image.save(DETECTION_IMAGE, exif=tags)


DECLARED = {(500, 400): "declared 500x400, loaded", (0, 0): "no positive numbers: 0x0"}


@pytest.mark.parametrize("size", DECLARED)
def test_declared_size(size):
    """Of 0x0, mmdet finds no box inside of the image, and leaves the image out."""
    edit(declare(*size))
    expect(config("detection"), ERROR, DETECTION_IMAGE, DECLARED[size], False)


def test_declared_size_in_floats():
    edit(lambda content: declare(*map(float, size(content)))(content))
    assert check(config("detection")) == []


def test_exif_against_the_declared_size():
    """Boxes are right where the declared size is that of the image as mmcv turns it."""
    content = json.loads(Path(ANNOTATIONS).read_text())
    width, height = size(content)
    assert width != height
    tag(6)
    words = f"EXIF orientation 6; LoadImageFromFile('color', 'cv2') turns it from {width}x{height}"
    expect(config("detection"), ERROR, DETECTION_IMAGE, words, False)
    edit(declare(height, width))
    found = check(config("detection"))
    assert [f[0] for f in found if "declared" in f[2]] == []
    assert (WARNING, DETECTION_IMAGE) in [f[:2] for f in found]


def test_image_not_on_disk():
    Path(DETECTION_IMAGE).unlink()
    expect(config("detection"), ERROR, DETECTION_IMAGE, "does not exist", True)
    Path(DETECTION_IMAGE).symlink_to("/nowhere")
    expect(config("detection"), ERROR, DETECTION_IMAGE, "a link that leads nowhere", True)


@pytest.mark.parametrize("same_boxes", [True, False])
def test_image_listed_twice(same_boxes):
    def write(content):
        first, second = content["images"][:2]
        second.update({**first, "id": second["id"]})
        own = [a for a in content["annotations"] if a["image_id"] == first["id"]]
        rest = [a for a in content["annotations"] if a["image_id"] > second["id"]]
        copies = [{**a, "id": 900 + a["id"], "image_id": second["id"]} for a in own]
        content["annotations"] = own + rest + copies[not same_boxes :]

    edit(write)
    severity = WARNING if same_boxes else ERROR
    words = "listed more than once: ids" if same_boxes else "with other boxes: ids 1, 2"
    expect(config("detection"), severity, DETECTION_IMAGE, words, False)


def test_polygon_that_stops_the_evaluation_only():
    """mmdet leaves it out of training; COCO's evaluation reads it, and raises."""
    edit(change(segmentation=[[1, 1, 9, 9]]))
    cfg = config("detection")
    cfg.val_dataloader.dataset.ann_file = cfg.train_dataloader.dataset.ann_file
    cfg.val_dataloader.dataset.data_prefix = cfg.train_dataloader.dataset.data_prefix
    cfg.val_evaluator.ann_file = ANNOTATIONS
    stops = [f for f in check(cfg, "val") if f[0] == ERROR]
    assert [f[1] for f in stops] == [DETECTION_IMAGE] and "stops the evaluation" in stops[0][2]
    with pytest.raises(TypeError):
        COCO(ANNOTATIONS).annToMask(dict(image_id=1, segmentation=[[1, 1, 9, 9]]))


def test_shape_that_the_pipeline_cannot_take():
    """At 64 pixels of width, keep_ratio leaves no height. Below min_size=32 it is left out."""
    Image.new("RGB", (10000, 32)).save(DETECTION_IMAGE)
    edit(declare(10000, 32))
    words = "its shape breaks the pipeline: 10000x32 px, error: OpenCV"
    expect(config("detection"), ERROR, DETECTION_IMAGE, words, True)
    Image.new("RGB", (10000, 30)).save(DETECTION_IMAGE)
    edit(declare(10000, 30))
    edit(lambda content: [a.update(ignore=1) for a in content["annotations"] if a["image_id"] == 1])
    expect(config("detection"), WARNING, DETECTION_IMAGE, "left out in training", False)


def test_small_image_is_left_out():
    filtered = dict(filter_empty_gt=True, min_size=75)
    found = check(config("detection", filter_cfg=filtered))
    content = json.loads(Path(ANNOTATIONS).read_text())
    small = [i for i in content["images"] if min(i["width"], i["height"]) < 75]
    assert small and len(small) == len(found)
    assert {f[0] for f in found} == {WARNING} and "min_size=75" in found[0][2]


@pytest.mark.parametrize("empty", [False, True])
def test_filter_that_leaves_no_image(empty):
    """Images are of 64 to 80 pixels; of a class that is not the config's, none is kept either."""
    filtered = dict(filter_empty_gt=empty, min_size=0 if empty else 81)
    if empty:
        edit(lambda content: content["categories"].append(dict(id=99, name="moon")))
        edit(lambda content: [a.update(category_id=99) for a in content["annotations"]])
    words = f"has no image that its filter_cfg leaves in training: filter_cfg={filtered}"
    expect(config("detection", filter_cfg=filtered), ERROR, ANNOTATIONS, words, True)


def test_boxes_only_need_no_masks():
    edit(drop("segmentation"))
    cfg = config("detection")
    cfg.train_dataloader.dataset.pipeline[1] = dict(type="LoadAnnotations", with_bbox=True)
    expect_clean(cfg)


def test_other_classes():
    cfg = config("detection", metainfo=dict(classes=("disc", "square")))
    words = "classes that the config leaves out: triangle, star"
    cfg.model.roi_head.bbox_head.num_classes = cfg.model.roi_head.mask_head.num_classes = 2
    expect(cfg, WARNING, ANNOTATIONS, words, False)
    cfg.train_dataloader.dataset.metainfo = dict(classes=("cat", "dog"))
    found = check(cfg)
    assert any("has no class of the config" in f[2] for f in found if f[0] == ERROR)


def test_annotations_that_mmdet_cannot_read_leave_the_images_checked():
    edit(drop("bbox"))
    Path(DETECTION_IMAGE).write_bytes(b"")
    found = check(config("detection"))
    assert (ERROR, DETECTION_IMAGE, "is empty: 0 bytes") in found
    assert any("mmdet cannot read it" in f[2] for f in found)


def test_cut_off_annotations():
    Path(ANNOTATIONS).write_text(Path(ANNOTATIONS).read_text()[:200])
    expect(config("detection"), ERROR, ANNOTATIONS, "is not valid JSON", True)


def test_mmdet_numbers_classes_in_the_order_of_the_file():
    """Labels then carry the names of other classes, silently."""
    cfg = config("detection", metainfo=dict(classes=("star", "triangle", "square", "disc")))
    init_default_scope("mmdet")
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    first = json.loads(Path(ANNOTATIONS).read_text())["categories"][0]
    assert first["name"] == "disc" and dataset.cat2label[first["id"]] == 0
    assert dataset.metainfo["classes"][0] == "star"
    words = "metainfo.classes=('disc', 'square', 'triangle', 'star')"
    assert words in quick_error(cfg)


# What COCO's evaluation reads.


VAL = ANNOTATIONS.replace("train", "val")


def edit_val(change):
    content = json.loads(Path(VAL).read_text())
    change(content)
    Path(VAL).write_text(json.dumps(content))


def perfect_ap():
    """COCO's AP of detections that are the objects themselves."""
    truth = COCO(VAL)
    keys = ("image_id", "category_id", "bbox")
    objects = [a for a in truth.dataset["annotations"] if not a.get("iscrowd")]
    results = truth.loadRes([{k: a[k] for k in keys} | {"score": 0.9} for a in objects])
    evaluation = COCOeval(truth, results, "bbox")
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        step()
    return evaluation.stats[0]


def renumber(first):
    return lambda content: [a.update(id=n) for n, a in enumerate(content["annotations"], first)]


def without_evaluated_file():
    """The evaluators make the file from what mmdet loaded, with keys and ids of its own."""
    cfg = config("detection")
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = None
    return cfg


def test_annotation_id_0():
    """Of perfect detections, the evaluation takes that of the object with id 0 for a wrong one."""
    edit_val(renumber(1))
    assert perfect_ap() == pytest.approx(1) and check(config("detection"), "val") == []
    edit_val(renumber(0))
    assert 0 < perfect_ap() < 0.99
    assert check(config("detection"), "val") == [(WARNING, VAL, "has an annotation with the id 0")]
    assert check(without_evaluated_file(), "val") == []


EVALUATED = {
    "no iscrowd": (lambda a: a.pop("iscrowd"), KeyError, "has annotations without 'iscrowd'"),
    "iscrowd null": (lambda a: a.update(iscrowd=None), TypeError, "annotations without 'iscrowd'"),
    "text ids": (lambda a: a.update(id=f"a{a['id']}"), ValueError, "annotation ids that are text"),
}


@pytest.mark.parametrize("name", EVALUATED)
def test_key_that_stops_the_evaluation_only(name):
    change, error, words = EVALUATED[name]
    edit_val(lambda content: [change(a) for a in content["annotations"]])
    with pytest.raises(error):
        perfect_ap()
    assert words in quick_error(config("detection"), "val_dataloader")
    check_data(without_evaluated_file(), "train_dataloader", "val_dataloader")


def test_evaluated_annotations_of_no_image():
    """COCO's evaluation would give -1 and say nothing."""
    edit_val(lambda content: [a.update(image_id=str(a["image_id"])) for a in content[LIST]])
    words = "has annotations of no image that it lists: image_id '"
    assert words in quick_error(config("detection"), "val_dataloader")
    found = check(config("detection"), "val")
    assert any(f[:2] == (ERROR, VAL) and words[:30] in f[2] for f in found)


def test_masks_that_the_evaluation_alone_reads():
    edit_val(lambda content: [a.pop("segmentation") for a in content["annotations"]])
    cfg = config("detection")
    cfg.val_dataloader.dataset.pipeline[2] = dict(type="LoadAnnotations", with_bbox=True)
    assert "the config measures masks (metric 'segm'). Set metric='bbox'" in quick_error(
        cfg, "val_dataloader"
    )
    cfg.val_evaluator.metric = cfg.test_evaluator.metric = "bbox"
    assert check(cfg, "val") == []


def test_evaluator_of_another_file():
    cfg = config("detection")
    cfg.val_evaluator.ann_file = ANNOTATIONS
    kind = "is not the file that val_evaluator compares the results with"
    assert (WARNING, VAL, f"{kind}: {ANNOTATIONS}") in check(cfg, "val")


# Files written on another system.


def rename(change):
    return lambda content: [i.update(file_name=change(i["file_name"])) for i in content["images"]]


def apart():
    """macOS writes an accent and its letter apart."""
    Path(DETECTION_IMAGE).rename(Path(DETECTION_IMAGE).with_name("e\u0301.jpg"))
    edit(lambda content: content["images"][0].update(file_name="\u00e9.jpg"))


WRITTEN = {
    "backslashes": (lambda: edit(rename(lambda n: f"sub\\{n}")), 4, "its name has backslashes"),
    "case": (lambda: edit(rename(str.upper)), 4, "differs in upper and lower case"),
    "accents": (apart, 1, "write it as it is on the disk"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_paths_of_another_system(name):
    change, images, words = WRITTEN[name]
    change()
    error = quick_error(config("detection"))
    assert words in error and "usual layout" not in error
    assert len([f for f in check(config("detection")) if words in f[2]]) == images


def test_encodings(monkeypatch):
    text = Path(ANNOTATIONS).read_text()
    whole = text.replace('"images"', '"\u5f62": 1, "images"', 1)
    words = {"gbk": "is not encoded in UTF-8", "utf-8-sig": "begins with a byte order mark (BOM)"}
    for encoding, reason in words.items():
        Path(ANNOTATIONS).write_bytes(whole.encode(encoding))
        error = quick_error(config("detection"))
        assert error.startswith(f"{ANNOTATIONS} {reason}") and "cut off" not in error
        assert any(reason in f[2] for f in check(config("detection")))
    monkeypatch.setattr(coco, "QUICK_BYTES", 1000)
    assert "byte order mark" in quick_error(config("detection"))
    Path(ANNOTATIONS).write_bytes(b" \n" + whole.encode())
    check_data(config("detection"), "train_dataloader")


def test_heads_of_a_cascade():
    """Each head is compared; the message names those that differ."""
    cfg = config("detection")
    head = cfg.model.roi_head.bbox_head
    cfg.model.roi_head.bbox_head = [{**head, "num_classes": n} for n in (4, 2, 4)]
    cfg.model.roi_head.mask_head.num_classes = 80
    numbers = "model.roi_head.bbox_head.1 has num_classes=2, model.roi_head.mask_head has"
    error = quick_error(cfg)
    assert f"the model counts others: {numbers} num_classes=80. Set num_classes of" in error
    assert "bbox_head.0" not in error and "rpn_head" not in error


def stock_names(first):
    """A config without classes, and a file with four of COCO's."""
    names = CocoDataset.METAINFO["classes"][first : first + 4]
    pairs = lambda content: zip(content["categories"], names, strict=True)  # noqa: E731
    edit(lambda content: [category.update(name=name) for category, name in pairs(content)])
    cfg = config("detection")
    cfg.train_dataloader.dataset.pop("metainfo")
    return cfg


def test_stock_classes():
    """mmdet numbers those that the file has: later ones move up, and the head needs as many."""
    missing = "lacks classes of the config: 76 of 80, ['person'"
    expect(stock_names(2), WARNING, ANNOTATIONS, missing, False)
    cfg = stock_names(0)
    assert {f[0] for f in check(cfg)} == {WARNING}
    cfg.model.roi_head.bbox_head.num_classes = 3
    assert "bbox_head has num_classes=3. Set metainfo.classes" in quick_error(cfg)


def test_stock_classes_under_other_names():
    """YOLO has 'tvmonitor' for COCO's 'tv': mmdet's evaluation would stop with an index."""
    cfg = stock_names(0)
    edit(lambda content: content["categories"][3].update(name="tvmonitor"))
    expect(cfg, ERROR, ANNOTATIONS, "has no category 'motorcycle' nor 'airplane' nor", False)


BOXES_ONLY = {
    # By their areas, and by the image: its corners and centres lie inside.
    "areas": (
        [[10, 20, 40, 60], [30, 30, 90, 50], [5, 40, 70, 80]],
        [1200, 1200, 2600],
        [(ERROR, "has boxes that do not fit their areas and seem to be [x1, y1, x2, y2]")],
    ),
    "corners": (
        [[10, 20, 90, 95], [30, 30, 90, 50], [5, 60, 70, 80]],
        None,
        [(WARNING, "has boxes that reach outside of their images and seem to be [x1, y1, x2, y2]")],
    ),
    "centres": (
        [[80, 80, 40, 40], [20, 50, 30, 60], [90, 20, 20, 40]],
        None,
        [(WARNING, f"has boxes that reach outside of their images and seem to be {CENTRES}")],
    ),
    "no other form": ([[80, 80, 40, 40], [1, 2, 90, 80], [99, 1, 30, 9]], None, []),
    "inside": ([[10, 20, 40, 60], [30, 30, 60, 50], [5, 40, 70, 60]], None, []),
    "area of a mask": ([[10, 20, 40, 60]] * 3, [900, 1500, 2000], []),
    "few": ([[80, 80, 40, 40]] * 2, None, []),
}


@pytest.mark.parametrize("name", BOXES_ONLY)
def test_form_of_boxes_without_masks(name):
    found, areas, expected = BOXES_ONLY[name]
    areas = areas or [w * h for _, _, w, h in found]
    objects = [
        (dict(id=i, bbox=box, area=area), (100, 100))
        for i, (box, area) in enumerate(zip(found, areas, strict=True))
    ]
    assert [(severity, kind) for severity, kind, *_ in form_rules(objects)] == expected


# The quick look of tools/train.py, which is the first part of the check.


def test_quick_look_is_the_first_part():
    """What it refuses is an error of the whole check; single annotations are left to that."""
    edit(change(bbox=[900, 900, 9, 9]))
    check_data(config("detection"), "train_dataloader", "val_dataloader")
    cfg = config("detection", metainfo=dict(classes=("cat", "dog")))
    cfg.model.roi_head.bbox_head.num_classes = cfg.model.roi_head.mask_head.num_classes = 2
    error = quick_error(cfg)
    assert error.startswith(f"{ANNOTATIONS} has no class of the config: ") and "cat" in error
    reasons = [reason for _, _, reason in check(cfg)]
    assert any(reason in error for reason in reasons if "has no class" in reason)
    Path(DETECTION_IMAGE).unlink()
    assert quick_error(config("detection")).startswith(f"{DETECTION_IMAGE} does not exist")
    cfg = config("detection")
    loader = dict(type="CheckedLoadImageFromFile", on_error="skip")
    cfg.train_dataloader.dataset.pipeline[0] = loader
    check_data(cfg, "train_dataloader", "val_dataloader")


def test_quick_look_does_not_parse_a_large_file(monkeypatch):
    monkeypatch.setattr(coco, "QUICK_BYTES", 1000)
    content = Path(ANNOTATIONS).read_text()
    Path(ANNOTATIONS).write_text(content.replace('"images"', '"pictures"'))
    check_data(config("detection"), "train_dataloader")
    Path(ANNOTATIONS).write_text(content[:-3])
    assert quick_error(config("detection")).startswith(f"{ANNOTATIONS} is cut off")


def test_without_an_annotation_file():
    """A config may name none: mmdet would read the working directory."""
    cfg = config("detection", ann_file="")
    texts = [text for _, _, text in check(cfg)]
    assert any("has no annotation file" in text for text in texts), texts
    assert "has no annotation file" in quick_error(cfg)
