"""Sets of synthetic scenes, written in the COCO, ADE20K or ImageNet layout.

A directory that holds anything but the set asked for is refused and left unchanged.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_api

from lab.scenes import (
    CATEGORY_IDS,
    CLASSES,
    SPLITS,
    VERSION,
    Scene,
    SceneObject,
    check_integer,
    check_size_range,
    render_scene,
)

BUCKETS = ("small", "medium", "large")
BUCKET_LIMITS = (32**2, 96**2)  # mask area in px, the limits of COCO evaluation
DONE, PARTIAL = "scenes.json", "scenes.partial.json"


def bucket(area: float) -> str:
    """Return the COCO size bucket ('small', 'medium' or 'large') of a mask area in px."""
    return BUCKETS[int(np.searchsorted(BUCKET_LIMITS, area, "right"))]


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """Return the COCO polygons [x1, y1, x2, y2, ...] of a bool (H, W) mask.

    COCO polygons have no holes, so a mask with holes is cut into pieces through each hole.
    """
    if not mask.any():
        return []
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    # Contours run through pixel centres: enlarged, they lie within 1/8 px of the pixels' edges.
    enlarged = mask[y : y + height, x : x + width].astype(np.uint8).repeat(4, 0).repeat(4, 1)
    contours, hierarchy = cv2.findContours(enlarged, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for contour, parent in zip(contours, hierarchy[0][:, 3], strict=True):
        if parent >= 0:
            left, _, hole_width, _ = cv2.boundingRect(contour)
            cut = x + (left + hole_width // 2) // 4
            columns = np.arange(mask.shape[1]) < cut
            return mask_to_polygons(mask & columns) + mask_to_polygons(mask & ~columns)
    contours = [cv2.approxPolyDP(contour, 1.5, True)[:, 0] for contour in contours]
    return [
        np.round((contour + 0.5) / 4 + (x, y), 2).ravel().tolist()
        for contour in contours
        if len(contour) >= 3
    ]


def mask_to_rle(mask: np.ndarray) -> dict[str, list[int]]:
    """Return the uncompressed COCO RLE of a bool (H, W) mask (pycocotools has compressed only)."""
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(pixels, prepend=False))
    counts = np.diff(np.concatenate([[0], changes, [pixels.size]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def label_map(scene: Scene) -> np.ndarray:
    """Return the uint8 (H, W) ADE20K labels: 1 for the background, 2 + label for the objects."""
    labels = np.ones(scene.image.shape[:2], np.uint8)
    for item in scene.objects:
        labels[item.mask] = item.label + 2
    return labels


def _write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    # Not cv2.imwrite: it reports a full disk by its return value only.
    path.write_bytes(cv2.imencode(path.suffix, image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1])


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(json.dumps(content))
    os.replace(unfinished, path)


def _annotation(item: SceneObject, number: int, image_id: int) -> dict[str, Any]:
    """Return the COCO annotation of one object; its box and area are those of the mask."""
    rle = mask_api.encode(np.asfortranarray(item.mask, np.uint8))
    outline = mask_to_rle(item.mask) if item.iscrowd else mask_to_polygons(item.mask)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": CATEGORY_IDS[item.label],
        "bbox": mask_api.toBbox(rle).tolist(),
        "area": float(mask_api.area(rle)),
        "segmentation": outline,
        "iscrowd": int(item.iscrowd),
    }


def _save_coco(out: Path, split: str, scenes: Iterable[Scene]) -> None:
    images, annotations = [], []
    for image_id, scene in enumerate(scenes, 1):
        name = f"{image_id:012d}.jpg"
        _write_image(out / f"{split}2017" / name, scene.image)
        height, width = scene.image.shape[:2]
        images.append(
            {"id": image_id, "file_name": name, "height": height, "width": width, "license": 1}
        )
        for item in scene.objects:
            annotations.append(_annotation(item, len(annotations) + 1, image_id))
    categories = [
        {"id": number, "name": name, "supercategory": "shape"}
        for number, name in zip(CATEGORY_IDS, CLASSES, strict=True)
    ]
    _write_json(
        out / "annotations" / f"instances_{split}2017.json",
        {
            "info": {"description": "Synthetic scenes of shapes", "version": str(VERSION)},
            "licenses": [{"id": 1, "name": "Generated data, no restrictions", "url": ""}],
            "images": images,
            "annotations": annotations,
            "categories": categories,
        },
    )


def _save_ade20k(out: Path, split: str, scenes: Iterable[Scene]) -> None:
    folder = {"train": "training", "val": "validation"}[split]
    for number, scene in enumerate(scenes, 1):
        name = f"ADE_{split}_{number:08d}"
        _write_image(out / "images" / folder / f"{name}.jpg", scene.image)
        _write_image(out / "annotations" / folder / f"{name}.png", label_map(scene))


def _save_imagenet(out: Path, split: str, scenes: Iterable[Scene]) -> None:
    for number, scene in enumerate(scenes, 1):
        name = CLASSES[scene.objects[0].label]
        _write_image(out / split / name / f"{name}_{number:08d}.jpg", scene.image)


LAYOUTS = {"coco": _save_coco, "ade20k": _save_ade20k, "imagenet": _save_imagenet}


def _scenes(arguments: dict[str, Any], split: str, tally: Counter) -> Iterator[Scene]:
    """Yield the scenes of a split, counting images, classes, buckets and crowds into `tally`."""
    single = arguments["layout"] == "imagenet"
    for index in range(arguments[f"num_{split}"]):
        classes = (CLASSES[index % len(CLASSES)],) if single else CLASSES  # balanced
        scene = render_scene(
            arguments["seed"], split, index, arguments["size_range"], classes, single
        )
        tally["images"] += 1
        for item in scene.objects:
            tally.update(
                ["crowds"] if item.iscrowd else [CLASSES[item.label], bucket(item.mask.sum())]
            )
        yield scene


def _read_record(path: Path) -> dict[str, Any]:
    """Return the record at `path`, empty if there is none that this module wrote."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    ours = isinstance(record, dict) and isinstance(record.get("arguments"), dict)
    return record if ours else {}


def _claim(out: Path, arguments: dict[str, Any]) -> dict[str, int] | None:
    """Return the counts of the complete set in `out`, or None once `out` is marked as ours.

    Raises:
        FileExistsError: if `out` holds anything but a set with the same arguments.
    """
    advice = "nothing was changed: give another directory, or move this one away"
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file, not a directory; {advice}")
    found = sorted(path.name for path in out.iterdir()) if out.exists() else []
    for name in (DONE, PARTIAL):
        if recorded := _read_record(out / name):
            if recorded["arguments"] == arguments:
                return recorded.get("counts")
            other = {
                key: value
                for key, value in recorded["arguments"].items()
                if arguments.get(key) != value
            }
            raise FileExistsError(
                f"{out} holds scenes made with other arguments ({other}, asked "
                f"for { ({key: arguments.get(key) for key in other}) }); {advice}"
            )
    if set(found) - {PARTIAL + ".tmp"}:  # that one is left when the first write is interrupted
        raise FileExistsError(
            f"{out} is not empty and not from this generator (it holds "
            f"{len(found)} entries, such as {found[0]!r}); {advice}"
        )
    _write_json(out / PARTIAL, {"arguments": arguments})
    return None


def write_scenes(
    layout: str,
    out: str | os.PathLike,
    num_train: int = 600,
    num_val: int = 100,
    seed: int = 0,
    size_range: Sequence[int] = (192, 288),
) -> dict[str, Any]:
    """Write a train and a val set of scenes below the directory `out`.

    coco: {train,val}2017/*.jpg and annotations/instances_*.json; ade20k: {images,annotations}/
    {training,validation}/*, see `label_map`; imagenet: {train,val}/CLASS/*.jpg, of one object each.
    A set that is complete is left as it is; one that was interrupted is made again.

    Args:
        layout: 'coco', 'ade20k' or 'imagenet'.
        out: directory that is missing, empty, or holds a set made with the same arguments.
        num_train, num_val: numbers of images, 1 or more.
        seed: 0 or more; the val images differ from the train images for every seed.
        size_range: least and greatest height and width in px, both inclusive.

    Returns:
        `written`, False if the set was complete already, and `counts`: of images, of the objects
        of each class and size bucket (crowds left out), and of crowds.

    Raises:
        ValueError: if an argument is outside of what is allowed.
        FileExistsError: if `out` holds anything else; it is left unchanged.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; it must be one of {tuple(LAYOUTS)}")
    arguments = {
        "layout": layout,
        "num_train": check_integer("num_train", num_train, 1),
        "num_val": check_integer("num_val", num_val, 1),
        "seed": check_integer("seed", seed, 0),
        "size_range": list(check_size_range(size_range)),
        "version": VERSION,
    }
    out = Path(out)
    if counts := _claim(out, arguments):
        return {"written": False, "counts": counts}
    tally = Counter(dict.fromkeys(("images", *CLASSES, *BUCKETS, "crowds"), 0))
    for split in SPLITS:
        LAYOUTS[layout](out, split, _scenes(arguments, split, tally))
    _write_json(out / DONE, {"arguments": arguments, "counts": tally})
    (out / PARTIAL).unlink(missing_ok=True)
    return {"written": True, "counts": dict(tally)}
