"""Generated scenes: reproducible, varied; their data sets: as drawn, never over other files."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from lab import scene_writers, scenes

SIZES = (96, 140)


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


@pytest.fixture(scope="module")
def many() -> list[scenes.Scene]:
    return [scenes.render_scene(0, "train", index) for index in range(60)]


@pytest.fixture(scope="module")
def coco_set(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("coco")
    scene_writers.write_scenes("coco", out, num_train=60, num_val=2)
    return out


def same_scene(first: scenes.Scene, second: scenes.Scene) -> bool:
    return (
        np.array_equal(first.image, second.image)
        and [o.label for o in first.objects] == [o.label for o in second.objects]
        and all(
            np.array_equal(a.mask, b.mask)
            for a, b in zip(first.objects, second.objects, strict=True)
        )
    )


def test_seed_split_and_index_each_change_the_scene():
    base = scenes.render_scene(1, "train", 0, SIZES)
    assert same_scene(base, scenes.render_scene(1, "train", 0, SIZES))
    for other in ((2, "train", 0), (1, "val", 0), (1, "train", 1)):
        assert not same_scene(base, scenes.render_scene(*other, SIZES))


def test_scenes_are_varied(many):
    assert [scene_writers.bucket(area) for area in (1023, 1024, 9216)] == [
        "small",
        "medium",
        "large",
    ]
    shapes = [scene.image.shape for scene in many]
    assert all(192 <= side <= 288 for shape in shapes for side in shape[:2])
    assert len(set(shapes)) > 50
    assert any(h > w for h, w, _ in shapes) and any(h < w for h, w, _ in shapes)
    objects = [item for scene in many for item in scene.objects]
    labels = Counter(item.label for item in objects)
    assert set(labels) == set(range(4)) and min(labels.values()) > 25
    sizes = Counter(scene_writers.bucket(item.mask.sum()) for item in objects if not item.iscrowd)
    assert sizes["medium"] > sizes["small"] > 5 and sizes["large"] > 5
    assert 2 <= sum(item.iscrowd for item in objects) <= 14


def test_masks_are_disjoint_and_not_too_small(many):
    for scene in many:
        assert scene.image.dtype == np.uint8
        assert np.sum([item.mask for item in scene.objects], axis=0).max() == 1
        assert all(item.mask.sum() >= scenes.MIN_AREA for item in scene.objects)
        assert all(item.mask.shape == scene.image.shape[:2] for item in scene.objects)


def test_later_objects_cover_earlier_ones_and_hidden_ones_are_left_out(monkeypatch):
    def square(label: int, side: float) -> scenes._Item:
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * side / 2 + 48
        return scenes._Item(label, [corners], False)

    items = [square(0, 20), square(1, 60), square(2, 20)]  # the second covers the first
    monkeypatch.setattr(scenes, "_plan", lambda *args: items)
    big, small = scenes.render_scene(0, "train", 0, (96, 96)).objects
    assert (big.label, small.label) == (1, 2)
    assert small.mask[40:57, 40:57].all() and not big.mask[40:57, 40:57].any()
    assert abs(small.mask.sum() - 20**2) < 50 and abs(big.mask.sum() - 60**2 + 20**2) < 200


# --- written


def test_files_are_equal_for_equal_arguments(tmp_path):
    for layout in scene_writers.LAYOUTS:
        for run in "ab":
            scene_writers.write_scenes(layout, tmp_path / layout / run, 3, 2, 5, SIZES)
        first, second = (contents(tmp_path / layout / run) for run in "ab")
        assert len(first) >= 6
        assert first == second


def test_coco_annotations_agree_with_the_scenes(coco_set, many):
    coco = COCO(coco_set / "annotations" / "instances_train2017.json")
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    assert sorted(coco.getCatIds()) == list(scenes.CATEGORY_IDS)
    assert sorted(coco.getImgIds()) == list(range(1, 61))
    large_ious, all_ious, crowds = [], [], 0
    for image_id, scene in enumerate(many, 1):
        info, annotations = coco.imgs[image_id], coco.imgToAnns[image_id]
        image = cv2.imread(str(coco_set / "train2017" / info["file_name"]))
        assert image.shape == scene.image.shape == (info["height"], info["width"], 3)
        assert np.abs(image[..., ::-1].astype(float) - scene.image).mean() < 10
        for item, annotation in zip(scene.objects, annotations, strict=True):
            decoded = coco.annToMask(annotation).astype(bool)
            rows, columns = np.nonzero(item.mask)
            assert annotation["category_id"] == scenes.CATEGORY_IDS[item.label]
            assert annotation["area"] == item.mask.sum()
            assert annotation["bbox"] == [
                columns.min(),
                rows.min(),
                np.ptp(columns) + 1,
                np.ptp(rows) + 1,
            ]
            assert annotation["iscrowd"] == item.iscrowd
            if item.iscrowd:
                crowds += 1
                assert isinstance(annotation["segmentation"]["counts"], list)
                assert np.array_equal(decoded, item.mask)
            else:
                all_ious.append(iou(decoded, item.mask))
                if annotation["area"] > 96**2:
                    large_ious.append(all_ious[-1])
    assert crowds >= 2 and min(large_ious) > 0.97 and min(all_ious) > 0.85


def test_polygons_keep_holes_and_pieces():
    mask = np.zeros((60, 70), bool)
    mask[5:45, 5:45] = True
    mask[15:25, 12:30] = mask[30:35, 33:38] = False
    mask[50:55, 50:65] = True
    polygons = scene_writers.mask_to_polygons(mask)
    decoded = mask_api.decode(mask_api.merge(mask_api.frPyObjects(polygons, 60, 70)))
    assert len(polygons) >= 3 and all(len(polygon) >= 6 for polygon in polygons)
    assert iou(decoded.astype(bool), mask) > 0.97
    assert not decoded[17:23, 14:28].any()
    assert scene_writers.mask_to_polygons(np.zeros((8, 8), bool)) == []


def test_ade20k_label_maps_agree_with_the_scenes(tmp_path):
    scene_writers.write_scenes("ade20k", tmp_path, 3, 2, 0, SIZES)
    for split, folder, count in (("train", "training", 3), ("val", "validation", 2)):
        maps = sorted((tmp_path / "annotations" / folder).glob("*.png"))
        images = sorted((tmp_path / "images" / folder).glob("*.jpg"))
        assert [p.stem for p in maps] == [p.stem for p in images] and len(maps) == count
        for index, path in enumerate(maps):
            labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            scene = scenes.render_scene(0, split, index, SIZES)
            assert labels.dtype == np.uint8 and labels.shape == scene.image.shape[:2]
            assert (labels == 1).any() and labels.min() == 1 and labels.max() <= 5
            for item in scene.objects:
                assert (labels[item.mask] == item.label + 2).all()
            assert (labels > 1).sum() == sum(item.mask.sum() for item in scene.objects)


def test_imagenet_layout_has_all_classes_and_one_object_an_image(tmp_path):
    result = scene_writers.write_scenes("imagenet", tmp_path, 8, 4, 0, SIZES)
    for split, count in (("train", 2), ("val", 1)):
        folders = {p.name: len(list(p.glob("*.jpg"))) for p in (tmp_path / split).iterdir()}
        assert folders == dict.fromkeys(scenes.CLASSES, count)
    assert [result["counts"][name] for name in scenes.CLASSES] == [3] * 4
    scene = scenes.render_scene(0, "train", 0, SIZES, main_object=True)
    assert len(scene.objects) == 1 and scene.objects[0].mask.mean() > 0.04


def test_second_call_changes_nothing(tmp_path):
    first = scene_writers.write_scenes("coco", tmp_path, 2, 1, 0, SIZES)
    image = tmp_path / "train2017" / "000000000001.jpg"
    image.write_bytes(b"changed")  # a rewrite would undo this
    second = scene_writers.write_scenes("coco", tmp_path, 2, 1, 0, SIZES)
    assert first["written"] and not second["written"]
    assert first["counts"] == second["counts"] and first["counts"]["images"] == 3
    assert image.read_bytes() == b"changed"
    assert {path.name for path in tmp_path.iterdir()} == {
        "train2017",
        "val2017",
        "annotations",
        scene_writers.DONE,
    }


@pytest.mark.parametrize("name", ["notes.txt", "scenes.json", "scenes.partial.json"])
def test_other_files_are_refused_and_kept(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"{name}.*another directory"):
        scene_writers.write_scenes("coco", tmp_path, 2, 1, 0, SIZES)
    assert contents(tmp_path) == {name: b"mine"}
    with pytest.raises(FileExistsError, match="is a file"):
        scene_writers.write_scenes("coco", tmp_path / name, 2, 1, 0, SIZES)


@pytest.mark.parametrize("complete", [True, False])
def test_sets_with_other_arguments_are_refused_and_kept(tmp_path, complete):
    scene_writers.write_scenes("coco", tmp_path, 2, 1, 0, SIZES)
    if not complete:
        (tmp_path / scene_writers.DONE).rename(tmp_path / scene_writers.PARTIAL)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match="'seed': 0.*'seed': 1"):
        scene_writers.write_scenes("coco", tmp_path, 2, 1, 1, SIZES)
    assert contents(tmp_path) == before


def test_interrupted_set_is_completed(tmp_path, monkeypatch):
    scene_writers.write_scenes("coco", tmp_path / "whole", 3, 1, 0, SIZES)
    render = scenes.render_scene

    def fail_at_the_third(seed, split, index, *args):
        if index == 2:
            raise KeyboardInterrupt
        return render(seed, split, index, *args)

    monkeypatch.setattr(scene_writers, "render_scene", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        scene_writers.write_scenes("coco", tmp_path / "part", 3, 1, 0, SIZES)
    assert set(contents(tmp_path / "part")) == {
        scene_writers.PARTIAL,
        "train2017/000000000001.jpg",
        "train2017/000000000002.jpg",
    }
    monkeypatch.undo()
    assert scene_writers.write_scenes("coco", tmp_path / "part", 3, 1, 0, SIZES)["written"]
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_train", 0),
        ("num_val", 1.5),
        ("seed", -1),
        ("size_range", (32, 96)),
        ("size_range", (128, 96)),
        ("layout", "voc"),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_written(tmp_path, name, value):
    arguments = {"layout": "coco", "out": tmp_path / "out"} | {name: value}
    with pytest.raises(ValueError, match=rf"^{name}.* is .*; it must be"):
        scene_writers.write_scenes(**arguments)
    assert not (tmp_path / "out").exists()


def test_command_line(here, tool):
    sizes = ("out", "--num-train", "2", "--num-val", "1")
    first, again = (tool("make_scenes", *sizes)[1] for _ in range(2))
    assert "3 images; " in first and first.count("\n") == again.count("\n") == 1
    assert "nothing done" in again and first.split(": ")[1] == again.split(": ")[1]
    status, error = tool("make_scenes", *sizes, "--seed", "-1")
    assert status == 2 and error.startswith("make_scenes: seed is -1") and error.count("\n") == 1
