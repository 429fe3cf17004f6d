"""Whether boxes are [x, y, width, height] in px, by their masks, their areas and the image."""

from collections.abc import Callable, Iterator

import numpy as np

from mmdualtoken.data.check.coco_rules import Breach, is_number
from mmdualtoken.data.check.findings import ERROR, WARNING

LOOKED_AT = 2000  # annotations, spread over all of them
MANY, MOST = 0.1, 0.9  # shares of boxes from which on there is a finding, or no doubt
LEAST = 3  # boxes; fewer may fit by chance
NEAR, NEAR_SHARE = 2.0, 0.1  # how far an edge may be from its mask's: px, share of the side
SHARE = 1.5  # boxes that none of their numbers exceeds are no pixels; above 1 for rounding
#: What other tools write, and the same box as [x, y, width, height].
FORMS: dict[str, Callable] = {
    "[x1, y1, x2, y2]": lambda x, y, a, b: (x, y, a - x, b - y),
    "[x of the centre, y of the centre, width, height]": lambda x, y, a, b: (
        x - a / 2,
        y - b / 2,
        a,
        b,
    ),
    "[x, y, height, width]": lambda x, y, a, b: (x, y, b, a),
    "[y, x, height, width]": lambda x, y, a, b: (y, x, b, a),
}
REMEDY = "write [x, y, width, height] in px, x and y of the upper left corner"


def mask_extent(annotation: dict) -> list[float] | None:
    """Return [x, y, width, height] around polygons or an RLE; None if they cannot be read."""
    mask = annotation.get("segmentation")
    try:
        if isinstance(mask, dict):
            from pycocotools import mask as mask_api  # comes with mmdet alone

            if isinstance(mask["counts"], list):
                mask = mask_api.frPyObjects(mask, *mask["size"])
            return mask_api.toBbox(mask).tolist()
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in mask]).astype(float)
        return [*points.min(0), *np.ptp(points, axis=0)]
    except Exception:  # `mask_rules` says what is wrong with it
        return None


def _near(boxes: np.ndarray, extents: np.ndarray) -> np.ndarray:
    """Return which boxes (n, 4) have their edges where the extents (n, 4) have theirs."""
    edges = [np.hstack([b[:, :2], b[:, :2] + b[:, 2:]]) for b in (boxes, extents)]
    allowed = np.maximum(NEAR, NEAR_SHARE * extents[:, [2, 3, 2, 3]])
    return (np.abs(edges[0] - edges[1]) <= allowed).all(1)


def _has_area(boxes: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Return which boxes (n, 4) have the areas (n,)."""
    return (boxes[:, 2:] > 0).all(1) & np.isclose(boxes[:, 2:].prod(1), areas, rtol=0.01)


def _inside(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return which boxes (n, 4) have a size and lie inside of their images (n, 2)."""
    ends = boxes[:, :2] + boxes[:, 2:]
    return (boxes[:, 2:] > 0).all(1) & (boxes[:, :2] > -1).all(1) & (ends < sizes + 1).all(1)


def form_rules(objects: list[tuple[dict, tuple[float, float]]]) -> Iterator[Breach]:
    """Check the boxes of annotations, each with (width, height) of its image."""
    objects = [
        (annotation, size)
        for annotation, size in objects[:: len(objects) // LOOKED_AT + 1]
        if isinstance(annotation["bbox"], list)
        and len(annotation["bbox"]) == 4
        and all(map(is_number, [*annotation["bbox"], annotation["area"], *size]))
    ]
    if len(objects) < LEAST:
        return
    boxes = np.array([a["bbox"] for a, _ in objects], dtype=float)
    sizes = np.array([size for _, size in objects], dtype=float)
    areas = np.array([a["area"] for a, _ in objects], dtype=float)
    ids = [a["id"] for a, _ in objects]
    if boxes.max() <= SHARE and sizes.min() > 1:
        yield ERROR, "has boxes that are shares of the image's sides", f"all {len(boxes)}", REMEDY
        return
    others = {name: np.stack(form(*boxes.T), 1) for name, form in FORMS.items()}
    found = [mask_extent(a) for a, _ in objects]
    masked = np.array([extent is not None for extent in found])
    extents = np.array([extent or [0.0] * 4 for extent in found])
    if masked.sum() >= LEAST and extents.max() <= SHARE:
        kind = "has polygons that are shares of the image's sides"
        yield ERROR, kind, f"all {masked.sum()}", "write coordinates in px"
        return
    everything = np.full(len(boxes), True)
    evidence = [
        ("do not fit their masks", masked, lambda b: _near(b, extents)),
        ("do not fit their areas", ~masked, lambda b: _has_area(b, areas)),
        ("reach outside of their images", everything, lambda b: _inside(b, sizes)),
    ]
    for what, known, fits in evidence:
        wrong = known & ~fits(boxes)
        if wrong.sum() < max(LEAST, MANY * known.sum()):
            continue
        # Boxes that fit in both forms, such as squares with their sides exchanged, tell nothing.
        # Any box may lie inside by chance, so that all of them have to.
        judged = known if known is everything else wrong
        shares = {name: fits(other)[judged].mean() for name, other in others.items()}
        form = max(shares, key=shares.get)
        detail = f"{wrong.sum()} of {known.sum()}, the first in annotation {ids[wrong.argmax()]}"
        if shares[form] >= (1 if known is everything else MOST):
            severity = WARNING if known is everything else ERROR
            yield severity, f"has boxes that {what} and seem to be {form}", detail, REMEDY
            return
        if known is masked:
            yield WARNING, f"has boxes that {what}", detail, REMEDY
