"""Synthetic scenes of textured shapes, drawn together with the mask of each object.

A scene is fixed by (seed, split, index) and the size range, so a longer set starts with the
images of a shorter one. Shape and kind of surface tell the class of an object; colour, scale and
direction of the surface say nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index as as_integer
from typing import Any, NamedTuple

import cv2
import numpy as np

CLASSES = ("disc", "square", "triangle", "star")
CATEGORY_IDS = (1, 2, 3, 5)  # with a gap, as in COCO
PATTERNS = ("noise", "speckle", "gradient", "stripes", "checker")
# As things in photos, each class has a surface of its own beside its shape.
SURFACES = dict(disc="gradient", square="checker", triangle="stripes", star="speckle")
SPLITS = ("train", "val")
# Probability and diameter in px. Most shapes fill about half of their bounding box.
DIAMETERS = ((0.2, 20, 38), (0.5, 48, 96), (0.3, 108, 160))
MIN_VISIBLE, MIN_AREA = 0.25, 40
VERSION = 2  # raise it when the drawing changes: older sets are then no longer taken for equal


@dataclass
class SceneObject:
    """One object: `label` indexes CLASSES, `mask` is bool (H, W) and True where it is visible."""

    label: int
    mask: np.ndarray
    iscrowd: bool = False


@dataclass
class Scene:
    """`image` is uint8 (H, W, 3) RGB; the masks of `objects` do not overlap."""

    image: np.ndarray
    objects: list[SceneObject]


class _Item(NamedTuple):
    label: int
    polygons: list[np.ndarray]  # each (N, 2) xy in px; a crowd has one per member
    iscrowd: bool


def _outline(name: str, rng: np.random.Generator) -> np.ndarray:
    """Return the (N, 2) outline of a shape, about 2 units across and centred on its box."""
    corners = {"disc": 64, "square": 4, "triangle": 3, "star": 10}[name]
    radii = np.ones(corners)
    if name == "star":
        radii[1::2] = rng.uniform(0.4, 0.5)
    angles = 2 * np.pi * np.arange(corners) / corners + np.pi / 4
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
    return points - (points.min(0) + points.max(0)) / 2


def _polygon(
    name: str, rng: np.random.Generator, centre: Sequence[float], diameter: float
) -> np.ndarray:
    """Return the (N, 2) polygon in px of a shape with random aspect, turned by up to 30 degrees."""
    outline = _outline(name, rng) * (1, rng.uniform(0.7, 1)) * diameter / 2
    cos, sin = np.cos(angle := rng.uniform(-1, 1) * np.pi / 6), np.sin(angle)
    return outline @ np.array([(cos, sin), (-sin, cos)]) + centre


def _first_reaching(scores: np.ndarray, threshold: float) -> int:
    """Return the first index with a score of at least `threshold`, else that of the best."""
    return int(np.argmax(np.minimum(scores, threshold)))


def _place(
    rng: np.random.Generator, taken: list[tuple], radius: float, margin: float, size: np.ndarray
) -> np.ndarray:
    """Return a centre (x, y) whose disc overlaps those in `taken` partly at most, if possible."""
    margin = np.minimum(margin, size / 2)
    centres = rng.uniform(margin, size - margin, (10, 2))
    gaps = [np.hypot(*(centres - xy).T) / (radius + other) for xy, other in taken]
    centre = centres[_first_reaching(np.min(gaps, 0), 0.7) if gaps else 0]
    taken.append((centre, radius))
    return centre


def _crowd(
    rng: np.random.Generator, name: str, taken: list[tuple], size: np.ndarray
) -> list[np.ndarray]:
    """Return the polygons of a tight cluster of 7 to 14 tiny shapes of one class."""
    count, diameter = rng.integers(7, 15), rng.uniform(11, 17)
    # A sunflower spiral spreads the members evenly: a cluster without members hidden by others.
    radii = 0.5 * diameter * np.sqrt(np.arange(count) + 0.5)
    angles = np.arange(count) * np.pi * (3 - 5**0.5) + rng.uniform(0, 2 * np.pi)
    radius = radii[-1] + diameter / 2
    centre = _place(rng, taken, radius, radius, size)
    spots = centre + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
    return [_polygon(name, rng, spot + rng.uniform(-1, 1, 2), diameter) for spot in spots]


def _plan(
    rng: np.random.Generator, size: np.ndarray, classes: Sequence[str], main_object: bool
) -> list[_Item]:
    """Return the items of a scene in drawing order; `size` is (W, H)."""
    short, taken = size.min(), []
    if main_object:
        diameter = rng.uniform(0.5, 0.85) * short
        centre = size / 2 + rng.uniform(-0.1, 0.1, 2) * size
        name = classes[rng.integers(len(classes))]
        return [_Item(CLASSES.index(name), [_polygon(name, rng, centre, diameter)], False)]
    chances, lows, highs = np.transpose(DIAMETERS)
    ranges = rng.choice(len(DIAMETERS), rng.integers(2, 7), p=chances)
    diameters = np.minimum(rng.uniform(lows[ranges], highs[ranges]), 0.7 * short)
    # Larger objects mostly come first: in any order they would hide most of the small ones.
    order = np.argsort(-diameters * rng.uniform(0.5, 1.5, len(diameters)))
    items = []
    for diameter in diameters[order]:
        name = classes[rng.integers(len(classes))]
        centre = _place(rng, taken, diameter / 2, diameter / 3, size)
        polygon = _polygon(name, rng, centre, diameter)
        items.append(_Item(CLASSES.index(name), [polygon], False))
    if rng.random() < 0.1:
        name = classes[rng.integers(len(classes))]
        items.append(_Item(CLASSES.index(name), _crowd(rng, name, taken, size), True))
    return items


def _pattern(rng: np.random.Generator, kind: str, height: int, width: int) -> np.ndarray:
    """Return a float32 (height, width) pattern, one of PATTERNS, in about [-1, 1]."""
    if kind == "noise":  # smoothed, at several scales
        grids = [rng.uniform(-1, 1, (n, n)).astype(np.float32) for n in (3, 6, 12, 24, 48)]
        layers = [cv2.resize(g, (width, height), interpolation=cv2.INTER_CUBIC) for g in grids]
        return sum(layer * 0.7**k for k, layer in enumerate(layers)) / 1.5
    if kind == "speckle":
        noise = rng.standard_normal((height, width), dtype=np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), sigma := rng.uniform(0.8, 2.5))
        return np.tanh(noise * np.float32(4 * sigma))
    cos, sin = np.cos(angle := rng.uniform(0, np.pi)), np.sin(angle)
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None] * np.float32(width)
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None] * np.float32(height)
    along, across = (
        np.float32(cos) * x + np.float32(sin) * y,
        np.float32(cos) * y - np.float32(sin) * x,
    )
    if kind == "gradient":
        return along * np.float32(2 / np.hypot(height, width))
    rate = np.float32(2 * np.pi / (rng.uniform(0.06, 0.3) * max(height, width)))
    sharpness = np.float32(rng.uniform(1, 4))
    waves = np.sin(along * rate)
    if kind == "checker":
        waves = waves * np.sin(across * rate)
    return np.tanh(waves * sharpness)


def _texture(
    rng: np.random.Generator,
    kind: str,
    height: int,
    width: int,
    colour: np.ndarray,
    spread: float,
) -> np.ndarray:
    """Return float32 (height, width, 3): `colour` varied by a pattern of about `spread`."""
    direction = rng.normal(0, spread, 3).astype(np.float32)
    return _pattern(rng, kind, height, width)[..., None] * direction + colour.astype(np.float32)


def _paint(image: np.ndarray, alpha: np.ndarray, kind: str, rng: np.random.Generator) -> None:
    """Blend one textured, shaded shape into `image` (float32 RGB) where `alpha` (uint8) is set."""
    x, y, width, height = cv2.boundingRect(alpha)
    if not width:  # wholly outside of the image
        return
    crop, weight = image[y : y + height, x : x + width], alpha[y : y + height, x : x + width, None]
    colours = rng.uniform(15, 240, (10, 3))
    contrasts = np.linalg.norm(colours - crop.mean((0, 1)), axis=1)
    colour = colours[_first_reaching(contrasts, rng.uniform(80, 140))]
    paint = _texture(rng, kind, height, width, colour, rng.uniform(20, 40))
    slope_x, slope_y = rng.uniform(-0.2, 0.2, 2)
    shade = (
        1
        + np.linspace(-slope_x, slope_x, width, dtype=np.float32)[None]
        + np.linspace(-slope_y, slope_y, height, dtype=np.float32)[:, None]
    )
    crop += (paint * shade[..., None] - crop) * (weight * np.float32(1 / 255))


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a textured ground, float32 (height, width, 3) RGB in about [0, 255]."""
    kinds = rng.choice(PATTERNS, 2)
    image = _texture(rng, kinds[0], height, width, rng.uniform(40, 215, 3), rng.uniform(8, 20))
    return image + _texture(rng, kinds[1], height, width, np.zeros(3), rng.uniform(3, 8))


def _expose(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return `image` as uint8, slightly blurred and with sensor noise."""
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8))
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return np.rint(image + noise * np.float32(rng.uniform(2, 6))).clip(0, 255).astype(np.uint8)


def _draw(polygon: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the anti-aliased coverage of a polygon, uint8 (H, W); `size` is (W, H)."""
    alpha = np.zeros(size[::-1], np.uint8)
    cv2.fillPoly(alpha, [np.rint(polygon * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return alpha


def _visible(alphas: list[list[np.ndarray]]) -> list[np.ndarray]:
    """Return the visible mask of each item, given the coverage of its parts in drawing order."""
    owner = np.full(alphas[0][0].shape, -1, np.int16)
    for k, parts in enumerate(alphas):
        for alpha in parts:
            owner[alpha > 127] = k
    return [owner == k for k in range(len(alphas))]


def check_integer(name: str, value: Any, low: int, high: int = 2**31 - 1) -> int:
    """Return `value` as an int; a ValueError names it if it is none from `low` to `high`."""
    try:
        number = as_integer(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not low <= number <= high:
        raise ValueError(f"{name} is {value!r}; it must be an integer from {low} to {high}")
    return number


def check_size_range(size_range: Any) -> tuple[int, int]:
    """Return (low, high); a ValueError names what is wrong with `size_range`."""
    if not isinstance(size_range, (tuple, list)) or len(size_range) != 2:
        raise ValueError(f"size_range is {size_range!r}; it must be two integers (low, high)")
    low = check_integer("size_range[0]", size_range[0], 64, 4096)
    return low, check_integer("size_range[1]", size_range[1], low, 4096)


def render_scene(
    seed: int,
    split: str,
    index: int,
    size_range: Sequence[int] = (192, 288),
    classes: Sequence[str] = CLASSES,
    main_object: bool = False,
) -> Scene:
    """Draw one scene.

    Args:
        seed, split, index: what the scene is drawn from; `split` is 'train' or 'val'.
        size_range: least and greatest height and width in px, both inclusive.
        classes: names from CLASSES to draw; labels index CLASSES whatever is given here.
        main_object: draw one large object near the centre, not 2 to 6 and at times a crowd.

    Raises:
        ValueError: if an argument is outside of what is allowed.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {SPLITS}")
    if isinstance(classes, str) or not classes or not set(classes) <= set(CLASSES):
        raise ValueError(f"classes is {classes!r}; it must be a non-empty part of {CLASSES}")
    low, high = check_size_range(size_range)
    rng = np.random.default_rng(
        [check_integer("seed", seed, 0), SPLITS.index(split), check_integer("index", index, 0)]
    )
    size = rng.integers(low, high + 1, 2)
    items = _plan(rng, size, classes, main_object)
    alphas = [[_draw(polygon, size) for polygon in item.polygons] for item in items]
    # What is hardly visible is taken out before painting, so no unlabelled rest stays behind.
    full = [sum(cv2.contourArea(p.astype(np.float32)) for p in item.polygons) for item in items]
    seen = [mask.sum() for mask in _visible(alphas)]
    kept = [k for k in range(len(items)) if seen[k] >= max(MIN_AREA, MIN_VISIBLE * full[k])]
    items, alphas = [items[k] for k in kept], [alphas[k] for k in kept]
    image = _background(rng, *size[::-1])
    for item, parts in zip(items, alphas, strict=True):
        for alpha in parts:
            _paint(image, alpha, SURFACES[CLASSES[item.label]], rng)
    masks = _visible(alphas) if alphas else []
    pairs = zip(items, masks, strict=True)
    objects = [SceneObject(item.label, mask, item.iscrowd) for item, mask in pairs]
    return Scene(_expose(image, rng), objects)
