"""The generated scenes: reproducible, varied, and with masks that are right."""

from collections import Counter

import cv2
import numpy as np
import pytest

from lab import scene_writers, scenes

SIZES = (96, 140)


def same_scene(first: scenes.Scene, second: scenes.Scene) -> bool:
    return (
        np.array_equal(first.image, second.image)
        and [o.label for o in first.objects] == [o.label for o in second.objects]
        and all(
            np.array_equal(a.mask, b.mask)
            for a, b in zip(first.objects, second.objects, strict=True)
        )
    )


@pytest.fixture(scope="module")
def many() -> list[scenes.Scene]:
    return [scenes.render_scene(0, "train", index) for index in range(60)]


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


def test_objects_differ_from_their_surroundings(many):
    contrasts = []
    for scene in many:
        for item in (o for o in scene.objects if not o.iscrowd):
            ring = cv2.dilate(item.mask.astype(np.uint8), np.ones((9, 9))) > item.mask
            contrasts.append(
                np.linalg.norm(scene.image[item.mask].mean(0) - scene.image[ring].mean(0))
            )
    assert min(contrasts) > 40


def test_crowds_are_clusters_of_tiny_objects(many):
    crowds = [item.mask for scene in many for item in scene.objects if item.iscrowd]
    assert len(crowds) >= 2
    for mask in crowds:
        _, _, width, height = cv2.boundingRect(mask.astype(np.uint8))
        assert 30 < max(width, height) < 96  # a single member is 17 px across at most
        assert mask.sum() > 0.25 * width * height


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


def test_classes_limits_the_shapes_and_keeps_the_labels():
    for index in range(3):
        scene = scenes.render_scene(0, "val", index, SIZES, classes=("star",))
        assert {item.label for item in scene.objects} == {scenes.CLASSES.index("star")}


@pytest.mark.parametrize(
    ("name", "value"),
    [("split", "test"), ("index", -1), ("classes", ("disc", "cube")), ("classes", ())],
)
def test_render_scene_names_wrong_arguments(name, value):
    arguments = {"seed": 0, "split": "train", "index": 0} | {name: value}
    with pytest.raises(ValueError, match=f"^{name} is .*; it must be"):
        scenes.render_scene(**arguments)
