"""Rules for the entries of a COCO annotation file, with mmdet's reaction to a breach.

A rule yields (severity, kind, detail, remedy); see `Finding`.
"""

import math
from collections.abc import Iterator
from typing import Any

from mmdualtoken.data.check.classes import Breach
from mmdualtoken.data.check.findings import ERROR, WARNING, name_list

ROUNDING = 1.0  # px that a box may reach outside without a warning
KEYS = dict(
    image=("id", "file_name", "width", "height"),
    category=("id", "name"),
    annotation=("id", "image_id", "category_id", "bbox", "area"),
)
ID = (int, float, str)
KEY_TYPES = dict(id=ID, image_id=ID, category_id=ID, file_name=str, name=str)
BACKGROUND = "mmdet drops the object silently and learns its place as background; correct it"
DROPPED = "mmdet drops the object silently"
IGNORED = "mmdet then ignores the object: neither learnt nor background"


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def key_rules(kind: str, entry: Any) -> Iterator[Breach]:
    """Check the keys that mmdet or pycocotools read from every entry of a list."""
    if not isinstance(entry, dict):
        yield ERROR, f"{kind} is no object", repr(entry)[:60], "write it as {...}"
        return
    if missing := [key for key in KEYS[kind] if key not in entry]:
        yield ERROR, f"{kind} lacks {', '.join(missing)}", "", "mmdet cannot read the file"
    for key in KEYS[kind]:
        if key in entry and not isinstance(entry[key], KEY_TYPES.get(key, object)):
            yield ERROR, f"{kind} has a wrong {key}", repr(entry[key])[:60], "correct it"


def image_rules(entry: dict) -> Iterator[Breach]:
    """Check an entry of `images` that has all its keys."""
    sides = (entry["width"], entry["height"])
    if not all(is_number(side) and side > 0 for side in sides):
        remedy = "write the size of the image as loaded; boxes are measured against it"
        yield ERROR, "width and height are no positive numbers", f"{sides[0]}x{sides[1]}", remedy


def flag_rules(annotations: list[dict], evaluated: bool) -> Iterator[Breach]:
    """Check the flags and ids that mmdet and, if `evaluated`, pycocotools read of annotations."""
    for key in ("iscrowd", "ignore"):
        given = [a for a in annotations if a.get(key) is not None]
        if wrong := [a for a in given if a[key] not in (0, 1)]:
            detail = f"{len(wrong)} annotations, the first {wrong[0]['id']}: {wrong[0][key]!r:.60}"
            remedy = "write the number 0 or 1; mmdet reads any text as true and ignores the object"
            yield ERROR, f"has annotations whose {key!r} is neither 0 nor 1", detail, remedy
    if not evaluated:
        return
    if bare := [a["id"] for a in annotations if a.get("iscrowd") is None]:
        detail = f"{len(bare)} annotations, the first {bare[0]}"
        remedy = 'write "iscrowd": 0; the evaluation would stop with a KeyError'
        yield ERROR, "has annotations without 'iscrowd'", detail, remedy
    if texts := [a["id"] for a in annotations if isinstance(a["id"], str)]:
        remedy = "number annotations from 1; the evaluation keeps ids as numbers and would stop"
        yield ERROR, "has annotation ids that are text", name_list(map(repr, texts), 3), remedy
    if any(a["id"] == 0 for a in annotations):
        remedy = "number annotations from 1: the evaluation takes id 0 for 'not found', so that "
        remedy += "this object lowers AP even if it is found"
        yield WARNING, "has an annotation with the id 0", "", remedy


def box_rules(annotation: dict, width: float, height: float) -> Iterator[Breach]:
    """Check the box and the area of an annotation; yield at most one breach."""
    box, area = annotation["bbox"], annotation["area"]
    if not (isinstance(box, (list, tuple)) and len(box) == 4 and all(map(is_number, box))):
        remedy = "write [x, y, width, height] in px"
        yield ERROR, "box is not four finite numbers", repr(box)[:60], remedy
        return
    x, y, w, h = box
    detail = f"[{x:g}, {y:g}, {w:g}, {h:g}] in {width:g}x{height:g}"
    outside = min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0)
    if not is_number(area):
        yield ERROR, "area is no finite number", repr(area)[:60], "write the area in px"
    elif w < 0 or h < 0:
        remedy = f"a box is [x, y, width, height]; {BACKGROUND}"
        yield ERROR, "box has a negative size", detail, remedy
    elif not w or not h:
        yield WARNING, "box has no area", detail, DROPPED
    elif outside:
        yield ERROR, "box lies wholly outside of the image", detail, BACKGROUND
    elif w < 1 or h < 1:
        yield WARNING, "box is narrower than one pixel", detail, DROPPED
    elif area <= 0:
        yield ERROR, "area is not positive though the box has one", f"area {area:g}", BACKGROUND
    elif min(x, y) < -ROUNDING or x + w > width + ROUNDING or y + h > height + ROUNDING:
        remedy = "mmdet cuts it off at the edge; correct the box if that is wrong"
        yield WARNING, "box reaches outside of the image", detail, remedy


def reason_left_out(annotation: dict, width: float, height: float) -> str:
    """Return why mmdet does not train on an annotation of a class; '' if it does."""
    for key in ("ignore", "iscrowd"):
        if annotation.get(key):
            return f"{key} is set"
    breaches = box_rules(annotation, width, height)
    return next((kind for s, kind, _, remedy in breaches if s == ERROR or remedy == DROPPED), "")


def mask_rules(annotation: dict, width: float, height: float, evaluated: bool) -> Iterator[Breach]:
    """Check a mask, which mmdet loads and, if `evaluated`, COCO's evaluation reads."""
    value = annotation.get("segmentation")
    if not value:
        remedy = "add it, or train without masks; mmdet's loading stops at such an object"
        yield ERROR, "annotation has no segmentation, but the config loads masks", "", remedy
    elif isinstance(value, list):
        yield from _polygon_rules(value, width, height, evaluated)
    elif isinstance(value, dict):
        yield from _rle_rules(value, width, height)
    else:
        remedy = "write polygons or an RLE"
        yield ERROR, "segmentation is neither polygons nor RLE", repr(value)[:60], remedy


def _polygon_rules(
    polygons: list, width: float, height: float, evaluated: bool
) -> Iterator[Breach]:
    if not all(isinstance(p, list) for p in polygons):
        remedy = "write a list of polygons, each [x1, y1, x2, y2, ...]"
        yield ERROR, "segmentation is no list of polygons", repr(polygons)[:60], remedy
        return
    if not all(is_number(value) for polygon in polygons for value in polygon):
        yield ERROR, "polygon holds something else than finite numbers", "", "correct it"
        return
    if bad := [p for p in polygons if len(p) < 6 or len(p) % 2]:
        sizes = ", ".join(str(len(p)) for p in bad[:3])
        detail = f"{len(bad)} of {len(polygons)} polygons, {sizes} coordinates"
        remedy = IGNORED if len(bad) == len(polygons) else "mmdet leaves the polygon out"
        kind = "polygon has less than 6 coordinates, or an odd number"
        yield WARNING, kind, detail, remedy
    if evaluated:  # COCO's evaluation reads polygons with rules of its own
        from pycocotools import mask as mask_api  # comes with mmdet alone

        try:
            mask_api.frPyObjects(polygons, round(height), round(width))
        except Exception as error:  # of any kind, from compiled code
            remedy = "give each polygon at least three points"
            yield ERROR, "polygon stops the evaluation of masks", str(error), remedy


def _rle_rules(rle: dict, width: float, height: float) -> Iterator[Breach]:
    size, counts = rle.get("size"), rle.get("counts")
    if size is None or not isinstance(counts, (list, str)):
        yield WARNING, "RLE mask lacks size or counts", "", IGNORED
    elif list(size) != [height, width]:
        detail = f"{size}, the image is [height, width] = [{height:g}, {width:g}]"
        yield ERROR, "RLE mask has another size than its image", detail, "encode it at that size"
    elif isinstance(counts, list):
        fine = all(is_number(c) and c >= 0 for c in counts)
        if not fine or sum(counts) != height * width:
            detail = f"they add up to {sum(counts)}, not {height * width:g}" if fine else ""
            yield ERROR, "RLE counts do not fit the size", detail, "encode the mask again"
    else:
        from pycocotools import mask as mask_api  # comes with mmdet alone

        try:
            mask_api.decode(rle)
        except Exception as error:  # of any kind, from compiled code
            yield ERROR, "RLE mask cannot be decoded", str(error), "encode the mask again"
