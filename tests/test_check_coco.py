"""Each fault of a COCO annotation file: what the check says, and what mmdet does."""

import json
from pathlib import Path

import pytest
from data_faults import DETECTION_IMAGE, check, config, expect, expect_clean, write_data
from mmdet.datasets import CocoDataset
from PIL import Image
from pycocotools.coco import COCO

from mmdualtoken.data.check import ERROR, WARNING, check_data, coco
from mmdualtoken.errors import InputError

ANNOTATIONS = "data/scenes/annotations/instances_train2017.json"


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A working directory with detection data."""
    monkeypatch.chdir(tmp_path)
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


FILES = {
    "unknown image": (change(image_id=999), WARNING, "image 999", False),
    "image id as text": (change(image_id="1"), WARNING, "image '1'", False),
    "no box": (drop("bbox"), ERROR, "annotation lacks bbox: entry 0", True),
    "no width": (drop("width", "images"), ERROR, "image lacks width: entry 0", True),
    "id of a list": (change(id=[1]), ERROR, "annotation has a wrong id", True),
    "same annotation id": (repeat("annotations", "id"), ERROR, "annotation ids occur more", True),
    "same image id": (repeat("images", "id"), ERROR, "image ids occur more", False),
    "same category id": (repeat("categories", "id"), ERROR, "category ids occur more", False),
    "same category": (repeat("categories", "name"), ERROR, "category names occur more", False),
    "empty": (lambda content: content.update(images=[]), ERROR, "has empty ['images']", True),
}


@pytest.mark.parametrize("name", FILES)
def test_annotation_file(name):
    change, severity, words, stops = FILES[name]
    edit(change)
    expect(config("detection"), severity, ANNOTATIONS, words, stops)


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


def test_declared_size():
    edit(declare(500, 400))
    expect(config("detection"), ERROR, DETECTION_IMAGE, "declared 500x400, loaded", False)


def test_declared_size_of_nothing():
    """mmdet then finds no box inside of the image, and leaves the image out."""
    edit(declare(0, 0))
    expect(config("detection"), ERROR, DETECTION_IMAGE, "no positive numbers: 0x0", False)


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


def test_link_to_nowhere():
    Path(DETECTION_IMAGE).unlink()
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
    stops = [f for f in check(cfg, "val") if f[0] == ERROR]
    assert [f[1] for f in stops] == [DETECTION_IMAGE] and "stops the evaluation" in stops[0][2]
    with pytest.raises(TypeError):
        COCO(ANNOTATIONS).annToMask(dict(image_id=1, segmentation=[[1, 1, 9, 9]]))


def test_shape_that_the_pipeline_cannot_take():
    """At 64 pixels of width, keep_ratio leaves no height."""
    Image.new("RGB", (10000, 32)).save(DETECTION_IMAGE)
    edit(declare(10000, 32))
    words = "its shape breaks the pipeline: 10000x32 px, error: OpenCV"
    expect(config("detection"), ERROR, DETECTION_IMAGE, words, True)


def test_shape_that_is_left_out():
    """Less than filter_cfg.min_size=32 px, it never comes to the pipeline."""
    Image.new("RGB", (10000, 30)).save(DETECTION_IMAGE)

    def write(content):
        declare(10000, 30)(content)
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 1]

    edit(write)
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
    cfg.model.roi_head.bbox_head.num_classes = 2
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


def test_stock_classes_that_the_file_lacks():
    """mmdet numbers the classes that it finds, so that later ones move up."""
    names = CocoDataset.METAINFO["classes"][2:6]
    edit(
        lambda content: [
            c.update(name=n) for c, n in zip(content["categories"], names, strict=True)
        ]
    )
    cfg = config("detection")
    cfg.train_dataloader.dataset.pop("metainfo")
    expect(cfg, WARNING, ANNOTATIONS, "lacks classes of the config: 76 of 80, ['person'", False)


# The quick look of tools/train.py, which is the first part of the check.


def quick_error(cfg):
    with pytest.raises(InputError) as caught:
        check_data(cfg, "train_dataloader", "val_dataloader")
    return str(caught.value)


def test_quick_look_is_the_first_part():
    """What it refuses is an error of the whole check; single annotations are left to that."""
    edit(change(bbox=[900, 900, 9, 9]))
    check_data(config("detection"), "train_dataloader", "val_dataloader")
    cfg = config("detection", metainfo=dict(classes=("cat", "dog")))
    cfg.model.roi_head.bbox_head.num_classes = 2
    error = quick_error(cfg)
    assert error.startswith(f"{ANNOTATIONS} has no class of the config: ") and "cat" in error
    reasons = [reason for _, _, reason in check(cfg)]
    assert any(reason in error for reason in reasons if "has no class" in reason)
    Path(DETECTION_IMAGE).unlink()
    assert quick_error(config("detection")).startswith(f"{DETECTION_IMAGE} does not exist")


def test_quick_look_does_not_parse_a_large_file(monkeypatch):
    monkeypatch.setattr(coco, "QUICK_BYTES", 1000)
    content = Path(ANNOTATIONS).read_text()
    Path(ANNOTATIONS).write_text(content.replace('"images"', '"pictures"'))
    check_data(config("detection"), "train_dataloader")
    Path(ANNOTATIONS).write_text(content[:-3])
    assert quick_error(config("detection")).startswith(f"{ANNOTATIONS} is cut off")
