"""Synthetic scenes of textured shapes, written in the COCO, ADE20K or ImageNet layout.

A scene is fixed by (seed, split, index) and the size range, so a longer set starts with the
images of a shorter one. The class of an object is its shape; colour and texture say nothing.
"""
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import index as as_integer
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from pycocotools import mask as mask_api

CLASSES = ('disc', 'square', 'triangle', 'star', 'cross', 'crescent')
CATEGORY_IDS = (1, 2, 3, 5, 7, 8)  # with gaps, as in COCO
SPLITS = ('train', 'val')
BUCKETS = ('small', 'medium', 'large')
BUCKET_LIMITS = (32**2, 96**2)  # mask area in px, the limits of COCO evaluation
# Probability and diameter in px. Most shapes fill about half of their bounding box.
DIAMETERS = ((0.2, 18, 38), (0.5, 44, 96), (0.3, 112, 160))
MIN_VISIBLE, MIN_AREA = 0.25, 40
DONE, PARTIAL = 'scenes.json', 'scenes.partial.json'
VERSION = 1  # raise it when the drawing changes: older sets are then no longer taken for equal


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
    def polar(angles: np.ndarray, radii: Any = 1.0) -> np.ndarray:
        return np.stack([np.cos(angles), np.sin(angles)], 1) * np.reshape(radii, (-1, 1))

    if name == 'crescent':
        inner, offset = rng.uniform(0.75, 0.85), rng.uniform(0.45, 0.6)
        x = (1 - inner**2 + offset**2) / (2 * offset)  # where the two circles meet
        outer_end, inner_end = np.arccos(x), np.arctan2(np.sqrt(1 - x**2), x - offset)
        outer = polar(np.linspace(outer_end, 2 * np.pi - outer_end, 48))
        inner_arc = polar(np.linspace(2 * np.pi - inner_end, inner_end, 48), inner)
        points = np.concatenate([outer, inner_arc[1:-1] + (offset, 0)])
    elif name == 'cross':
        arm = rng.uniform(0.26, 0.38)
        quarter = np.array([(1, -arm), (1, arm), (arm, arm)])
        turn = np.array([(0, 1), (-1, 0)])  # row vectors, by 90 degrees
        points = np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])
    else:
        corners = {'disc': 64, 'square': 4, 'triangle': 3, 'star': 10}[name]
        radii = np.ones(corners)
        if name == 'star':
            radii[1::2] = rng.uniform(0.4, 0.5)
        points = polar(2 * np.pi * np.arange(corners) / corners + np.pi / 4, radii)
    return points - (points.min(0) + points.max(0)) / 2


def _polygon(name: str, rng: np.random.Generator, centre: Sequence[float],
             diameter: float) -> np.ndarray:
    """Return the (N, 2) polygon in px of a shape with random aspect and rotation."""
    outline = _outline(name, rng) * (1, rng.uniform(0.7, 1)) * diameter / 2
    cos, sin = np.cos(angle := rng.uniform(0, 2 * np.pi)), np.sin(angle)
    return outline @ np.array([(cos, sin), (-sin, cos)]) + centre


def _first_reaching(scores: np.ndarray, threshold: float) -> int:
    """Return the first index with a score of at least `threshold`, else that of the best."""
    return int(np.argmax(np.minimum(scores, threshold)))


def _place(rng: np.random.Generator, taken: list[tuple], radius: float, margin: float,
           size: np.ndarray) -> np.ndarray:
    """Return a centre (x, y) whose disc overlaps those in `taken` partly at most, if possible."""
    margin = np.minimum(margin, size / 2)
    centres = rng.uniform(margin, size - margin, (10, 2))
    gaps = [np.hypot(*(centres - xy).T) / (radius + other) for xy, other in taken]
    centre = centres[_first_reaching(np.min(gaps, 0), 0.7) if gaps else 0]
    taken.append((centre, radius))
    return centre


def _crowd(rng: np.random.Generator, name: str, taken: list[tuple],
           size: np.ndarray) -> list[np.ndarray]:
    """Return the polygons of a tight cluster of 7 to 14 tiny shapes of one class."""
    count, diameter = rng.integers(7, 15), rng.uniform(11, 17)
    # A sunflower spiral spreads the members evenly: a cluster without members hidden by others.
    radii = 0.5 * diameter * np.sqrt(np.arange(count) + 0.5)
    angles = np.arange(count) * np.pi * (3 - 5**0.5) + rng.uniform(0, 2 * np.pi)
    radius = radii[-1] + diameter / 2
    centre = _place(rng, taken, radius, radius, size)
    spots = centre + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
    return [_polygon(name, rng, spot + rng.uniform(-1, 1, 2), diameter) for spot in spots]


def _plan(rng: np.random.Generator, size: np.ndarray, classes: Sequence[str],
          main_object: bool) -> list[_Item]:
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


def _pattern(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a float32 (height, width) pattern of a random kind, in about [-1, 1]."""
    kind = rng.integers(5)
    if kind == 0:  # smoothed noise at several scales
        grids = [rng.uniform(-1, 1, (n, n)).astype(np.float32) for n in (3, 6, 12, 24, 48)]
        return sum(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.7**k
                   for k, grid in enumerate(grids)) / 1.5
    if kind == 1:  # speckle
        noise = rng.standard_normal((height, width), dtype=np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), sigma := rng.uniform(0.8, 2.5))
        return np.tanh(noise * np.float32(4 * sigma))
    cos, sin = np.cos(angle := rng.uniform(0, np.pi)), np.sin(angle)
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None] * np.float32(width)
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None] * np.float32(height)
    along, across = (np.float32(cos) * x + np.float32(sin) * y,
                     np.float32(cos) * y - np.float32(sin) * x)
    if kind == 2:  # gradient
        return along * np.float32(2 / np.hypot(height, width))
    rate = np.float32(2 * np.pi / (rng.uniform(0.06, 0.3) * max(height, width)))
    sharpness = np.float32(rng.uniform(1, 4))
    waves = np.sin(along * rate)
    if kind == 4:  # checker; kind 3 is stripes
        waves = waves * np.sin(across * rate)
    return np.tanh(waves * sharpness)


def _texture(rng: np.random.Generator, height: int, width: int, colour: np.ndarray,
             spread: float) -> np.ndarray:
    """Return float32 (height, width, 3): `colour` varied by a pattern of about `spread`."""
    direction = rng.normal(0, spread, 3).astype(np.float32)
    return _pattern(rng, height, width)[..., None] * direction + colour.astype(np.float32)


def _paint(image: np.ndarray, alpha: np.ndarray, rng: np.random.Generator) -> None:
    """Blend one textured, shaded shape into `image` (float32 RGB) where `alpha` (uint8) is set."""
    x, y, width, height = cv2.boundingRect(alpha)
    if not width:  # wholly outside of the image
        return
    crop, weight = image[y:y + height, x:x + width], alpha[y:y + height, x:x + width, None]
    colours = rng.uniform(15, 240, (10, 3))
    contrasts = np.linalg.norm(colours - crop.mean((0, 1)), axis=1)
    colour = colours[_first_reaching(contrasts, rng.uniform(55, 120))]
    paint = _texture(rng, height, width, colour, rng.uniform(8, 32))
    slope_x, slope_y = rng.uniform(-0.2, 0.2, 2)
    shade = (1 + np.linspace(-slope_x, slope_x, width, dtype=np.float32)[None]
             + np.linspace(-slope_y, slope_y, height, dtype=np.float32)[:, None])
    crop += (paint * shade[..., None] - crop) * (weight * np.float32(1 / 255))


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a textured ground, float32 (height, width, 3) RGB in about [0, 255]."""
    image = _texture(rng, height, width, rng.uniform(40, 215, 3), rng.uniform(12, 32))
    return image + _texture(rng, height, width, np.zeros(3), rng.uniform(5, 15))


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


def _check_integer(name: str, value: Any, low: int, high: int = 2**31 - 1) -> int:
    try:
        number = as_integer(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not low <= number <= high:
        raise ValueError(f'{name} is {value!r}; it must be an integer from {low} to {high}')
    return number


def _check_size_range(size_range: Any) -> tuple[int, int]:
    if not isinstance(size_range, (tuple, list)) or len(size_range) != 2:
        raise ValueError(f'size_range is {size_range!r}; it must be two integers (low, high)')
    low = _check_integer('size_range[0]', size_range[0], 64, 4096)
    return low, _check_integer('size_range[1]', size_range[1], low, 4096)


def render_scene(seed: int, split: str, index: int, size_range: Sequence[int] = (192, 288),
                 classes: Sequence[str] = CLASSES, main_object: bool = False) -> Scene:
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
        raise ValueError(f'split is {split!r}; it must be one of {SPLITS}')
    if isinstance(classes, str) or not classes or not set(classes) <= set(CLASSES):
        raise ValueError(f'classes is {classes!r}; it must be a non-empty part of {CLASSES}')
    low, high = _check_size_range(size_range)
    rng = np.random.default_rng([_check_integer('seed', seed, 0), SPLITS.index(split),
                                 _check_integer('index', index, 0)])
    size = rng.integers(low, high + 1, 2)
    items = _plan(rng, size, classes, main_object)
    alphas = [[_draw(polygon, size) for polygon in item.polygons] for item in items]
    # What is hardly visible is taken out before painting, so no unlabelled rest stays behind.
    kept = [k for k, mask in enumerate(_visible(alphas)) if mask.sum() >= max(
        MIN_AREA, MIN_VISIBLE * sum(cv2.contourArea(p.astype(np.float32))
                                    for p in items[k].polygons))]
    items, alphas = [items[k] for k in kept], [alphas[k] for k in kept]
    image = _background(rng, *size[::-1])
    for parts in alphas:
        for alpha in parts:
            _paint(image, alpha, rng)
    masks = _visible(alphas) if alphas else []
    return Scene(_expose(image, rng), [SceneObject(item.label, mask, item.iscrowd)
                                       for item, mask in zip(items, masks, strict=True)])


def bucket(area: float) -> str:
    """Return the COCO size bucket ('small', 'medium' or 'large') of a mask area in px."""
    return BUCKETS[int(np.searchsorted(BUCKET_LIMITS, area, 'right'))]


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """Return the COCO polygons [x1, y1, x2, y2, ...] of a bool (H, W) mask.

    COCO polygons have no holes, so a mask with holes is cut into pieces through each hole.
    """
    if not mask.any():
        return []
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    # Contours run through pixel centres: enlarged, they lie within 1/8 px of the pixels' edges.
    enlarged = mask[y:y + height, x:x + width].astype(np.uint8).repeat(4, 0).repeat(4, 1)
    contours, hierarchy = cv2.findContours(enlarged, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for contour, parent in zip(contours, hierarchy[0][:, 3], strict=True):
        if parent >= 0:
            left, _, hole_width, _ = cv2.boundingRect(contour)
            cut = x + (left + hole_width // 2) // 4
            columns = np.arange(mask.shape[1]) < cut
            return mask_to_polygons(mask & columns) + mask_to_polygons(mask & ~columns)
    contours = [cv2.approxPolyDP(contour, 1.5, True)[:, 0] for contour in contours]
    return [np.round((contour + 0.5) / 4 + (x, y), 2).ravel().tolist()
            for contour in contours if len(contour) >= 3]


def mask_to_rle(mask: np.ndarray) -> dict[str, list[int]]:
    """Return the uncompressed COCO RLE of a bool (H, W) mask (pycocotools has compressed only)."""
    pixels = mask.ravel(order='F')
    changes = np.flatnonzero(np.diff(pixels, prepend=False))
    counts = np.diff(np.concatenate([[0], changes, [pixels.size]]))
    return {'size': list(mask.shape), 'counts': counts.tolist()}


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
    unfinished = path.with_name(path.name + '.tmp')
    unfinished.write_text(json.dumps(content))
    os.replace(unfinished, path)


def _annotation(item: SceneObject, number: int, image_id: int) -> dict[str, Any]:
    """Return the COCO annotation of one object; its box and area are those of the mask."""
    rle = mask_api.encode(np.asfortranarray(item.mask, np.uint8))
    outline = mask_to_rle(item.mask) if item.iscrowd else mask_to_polygons(item.mask)
    return {'id': number, 'image_id': image_id, 'category_id': CATEGORY_IDS[item.label],
            'bbox': mask_api.toBbox(rle).tolist(), 'area': float(mask_api.area(rle)),
            'segmentation': outline, 'iscrowd': int(item.iscrowd)}


def _save_coco(out: Path, split: str, scenes: Iterable[Scene]) -> None:
    images, annotations = [], []
    for image_id, scene in enumerate(scenes, 1):
        name = f'{image_id:012d}.jpg'
        _write_image(out / f'{split}2017' / name, scene.image)
        height, width = scene.image.shape[:2]
        images.append({'id': image_id, 'file_name': name, 'height': height, 'width': width,
                       'license': 1})
        for item in scene.objects:
            annotations.append(_annotation(item, len(annotations) + 1, image_id))
    categories = [{'id': number, 'name': name, 'supercategory': 'shape'}
                  for number, name in zip(CATEGORY_IDS, CLASSES, strict=True)]
    _write_json(out / 'annotations' / f'instances_{split}2017.json', {
        'info': {'description': 'Synthetic scenes of shapes', 'version': str(VERSION)},
        'licenses': [{'id': 1, 'name': 'Generated data, no restrictions', 'url': ''}],
        'images': images, 'annotations': annotations, 'categories': categories})


def _save_ade20k(out: Path, split: str, scenes: Iterable[Scene]) -> None:
    folder = {'train': 'training', 'val': 'validation'}[split]
    for number, scene in enumerate(scenes, 1):
        name = f'ADE_{split}_{number:08d}'
        _write_image(out / 'images' / folder / f'{name}.jpg', scene.image)
        _write_image(out / 'annotations' / folder / f'{name}.png', label_map(scene))


def _save_imagenet(out: Path, split: str, scenes: Iterable[Scene]) -> None:
    for number, scene in enumerate(scenes, 1):
        name = CLASSES[scene.objects[0].label]
        _write_image(out / split / name / f'{name}_{number:08d}.jpg', scene.image)


LAYOUTS = {'coco': _save_coco, 'ade20k': _save_ade20k, 'imagenet': _save_imagenet}


def _scenes(arguments: dict[str, Any], split: str, tally: Counter) -> Iterator[Scene]:
    """Yield the scenes of a split, counting images, classes, buckets and crowds into `tally`."""
    single = arguments['layout'] == 'imagenet'
    for index in range(arguments[f'num_{split}']):
        classes = (CLASSES[index % len(CLASSES)],) if single else CLASSES  # balanced
        scene = render_scene(arguments['seed'], split, index, arguments['size_range'], classes,
                             single)
        tally['images'] += 1
        for item in scene.objects:
            tally.update(['crowds'] if item.iscrowd else
                         [CLASSES[item.label], bucket(item.mask.sum())])
        yield scene


def _read_record(path: Path) -> dict[str, Any]:
    """Return the record at `path`, empty if there is none that this module wrote."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    ours = isinstance(record, dict) and isinstance(record.get('arguments'), dict)
    return record if ours else {}


def _claim(out: Path, arguments: dict[str, Any]) -> dict[str, int] | None:
    """Return the counts of the complete set in `out`, or None once `out` is marked as ours.

    Raises:
        FileExistsError: if `out` holds anything but a set with the same arguments.
    """
    advice = 'nothing was changed: give another directory, or move this one away'
    if out.exists() and not out.is_dir():
        raise FileExistsError(f'{out} is a file, not a directory; {advice}')
    found = sorted(path.name for path in out.iterdir()) if out.exists() else []
    for name in (DONE, PARTIAL):
        if recorded := _read_record(out / name):
            if recorded['arguments'] == arguments:
                return recorded.get('counts')
            other = {key: value for key, value in recorded['arguments'].items()
                     if arguments.get(key) != value}
            raise FileExistsError(f'{out} holds scenes made with other arguments ({other}, asked '
                                  f'for {({key: arguments.get(key) for key in other})}); {advice}')
    if set(found) - {PARTIAL + '.tmp'}:  # that one is left when the first write is interrupted
        raise FileExistsError(f'{out} is not empty and not from this generator (it holds '
                              f'{len(found)} entries, such as {found[0]!r}); {advice}')
    _write_json(out / PARTIAL, {'arguments': arguments})
    return None


def write_scenes(layout: str, out: str | os.PathLike, num_train: int = 600, num_val: int = 100,
                 seed: int = 0, size_range: Sequence[int] = (192, 288)) -> dict[str, Any]:
    """Write a train and a val set of scenes below the directory `out`.

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
        raise ValueError(f'layout is {layout!r}; it must be one of {tuple(LAYOUTS)}')
    arguments = {'layout': layout, 'num_train': _check_integer('num_train', num_train, 1),
                 'num_val': _check_integer('num_val', num_val, 1),
                 'seed': _check_integer('seed', seed, 0),
                 'size_range': list(_check_size_range(size_range)), 'version': VERSION}
    out = Path(out)
    if counts := _claim(out, arguments):
        return {'written': False, 'counts': counts}
    tally = Counter(dict.fromkeys(('images', *CLASSES, *BUCKETS, 'crowds'), 0))
    for split in SPLITS:
        LAYOUTS[layout](out, split, _scenes(arguments, split, tally))
    _write_json(out / DONE, {'arguments': arguments, 'counts': tally})
    (out / PARTIAL).unlink(missing_ok=True)
    return {'written': True, 'counts': dict(tally)}


def write_coco(out: str | os.PathLike, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Write {train,val}2017/*.jpg and annotations/instances_*.json; see `write_scenes`."""
    return write_scenes('coco', out, *args, **kwargs)


def write_ade20k(out: str | os.PathLike, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Write {images,annotations}/{training,validation}/*; see `write_scenes` and `label_map`."""
    return write_scenes('ade20k', out, *args, **kwargs)


def write_imagenet(out: str | os.PathLike, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Write {train,val}/CLASS/*.jpg with one object an image; see `write_scenes`."""
    return write_scenes('imagenet', out, *args, **kwargs)
