"""Check of detection and instance segmentation data in COCO's format."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmdualtoken.data import preflight
from mmdualtoken.errors import InputError

from mmdualtoken.data.check import anchors
from mmdualtoken.data.check import coco_rules as rules
from mmdualtoken.data.check.base import DatasetCheck
from mmdualtoken.data.check.findings import ERROR, WARNING, Finding, Inspection
from mmdualtoken.data.check.images import UPRIGHT

SHOWN = 3  # annotations of an image that a finding describes


def name_list(names: list, limit: int = 8) -> str:
    """The first of `names`, and how many there are beyond them."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(str, names[:limit])) + rest


class CocoCheck(DatasetCheck):
    """CocoDataset of mmdet, and data sets that read their annotations as it does."""

    unit = "objects"

    def read(self) -> None:
        path = Path(self.dataset.ann_file)
        try:
            content = preflight.read_coco(self.config, path)
        except InputError as error:
            self.add(ERROR, "cannot be used", str(error))
            return
        self._check(content)
        del content  # several GB of COCO; mmdet reads the file for itself
        self.samples = self.toolbox(lambda: self.dataset.load_data_list()) or self._images_only()

    def _images_only(self) -> list[dict]:
        """Samples without annotations, where mmdet cannot read them: images are still checked."""
        self.annotation_loaders = []
        return [
            dict(img_path=self._path(name), width=width, height=height)
            for name, width, height in self._sizes
        ]

    def _path(self, file_name: str) -> str:
        return os.path.join(self.dataset.data_prefix["img"], file_name)  # as mmdet joins them

    def _check(self, content: dict[str, list]) -> None:
        images = list(self._entries("image", content["images"], rules.IMAGE_KEYS))
        self._sizes = [(i["file_name"], i["width"], i["height"]) for i in images]
        categories = list(self._entries("category", content["categories"], rules.CATEGORY_KEYS))
        kind = "annotation"
        keys = rules.ANNOTATION_KEYS
        annotations = list(self._entries(kind, content.get("annotations") or [], keys))
        self._check_ids("image", images)
        self._check_ids("category", categories)
        self._check_ids("annotation", annotations)
        self._check_categories(categories, annotations)
        by_image = defaultdict(list)
        for annotation in annotations:
            by_image[annotation["image_id"]].append(annotation)
        self._check_names(images, by_image)
        known = {c["id"] for c in categories}
        for image in images:
            self._check_image(image, by_image.pop(image["id"], []), known)
        broken = {repr(i.get("id")) for i in content["images"] if isinstance(i, dict)}
        for image_id, stray in sorted(by_image.items(), key=lambda item: str(item[0])):
            if repr(image_id) in broken:  # listed, but its entry lacks something
                continue
            ids = name_list([a["id"] for a in stray])
            remedy = "mmdet leaves them out; add the image, or remove them"
            kind = f"annotations of image {image_id!r}, which 'images' does not list"
            self.add(WARNING, kind, ids, remedy)
        self._count(images, annotations, categories)
        if self.report.split == "train":
            self._check_anchors(images, annotations)

    def _check_anchors(self, images: list[dict], annotations: list[dict]) -> None:
        """Objects that no anchor fits, of those that mmdet trains on and that are well-formed."""
        sizes = {i["id"]: (i["width"], i["height"]) for i in images if not [*rules.image_rules(i)]}
        fine = [
            (sizes[a["image_id"]], a["bbox"][2:])
            for a in annotations
            if a["image_id"] in sizes
            and not (a.get("ignore") or a.get("iscrowd"))
            and not any(s == ERROR for s, *_ in rules.box_rules(a, *sizes[a["image_id"]]))
            and min(a["bbox"][2:]) >= 1
        ]
        found = anchors.unmatched(
            self.cfg,
            self.config.get("pipeline") or [],
            np.array([size for size, _ in fine], dtype=float).reshape(-1, 2),
            np.array([box for _, box in fine], dtype=float).reshape(-1, 2),
        )
        if found:
            self.add(WARNING, "no anchor can match many objects", *found)

    def _entries(self, kind: str, entries: list, keys: tuple[str, ...]) -> Iterator[dict]:
        """The entries of a list that have all keys; the others become findings."""
        for number, entry in enumerate(entries):
            broken = False
            for severity, what, detail, remedy in rules.missing_keys(kind, entry, keys):
                place = f"entry {number} of the list"
                self.add(severity, what, f"{place}, {detail}" if detail else place, remedy)
                broken = True
            if not broken:
                yield entry

    def _check_ids(self, kind: str, entries: list[dict]) -> None:
        twice = [i for i, n in Counter(e["id"] for e in entries).items() if n > 1]
        if twice:
            effect = {
                "image": "mmdet keeps the last image of an id and gives it all annotations",
                "category": "mmdet keeps the last category of an id",
                "annotation": "mmdet refuses the file",
            }[kind]
            what = f"{kind} ids occur more than once"
            self.add(ERROR, what, name_list(twice), f"{effect}; number them anew")

    def _check_categories(self, categories: list[dict], annotations: list[dict]) -> None:
        path = Path(self.dataset.ann_file)
        content = dict(categories=categories, annotations=annotations)
        try:
            for warning in preflight.check_coco_classes(self.cfg, self.config, path, content):
                self.add(WARNING, "classes of the config are missing", warning)
        except InputError as error:
            self.add(ERROR, "does not fit the config", str(error))
        names = [c["name"] for c in categories]
        if twice := [n for n, count in Counter(names).items() if count > 1]:
            remedy = "mmdet then numbers the classes otherwise than the config; merge them"
            self.add(ERROR, "category names occur more than once", name_list(twice), remedy)

    def _check_names(self, images: list[dict], by_image: dict[int, list]) -> None:
        entries = defaultdict(list)
        for image in images:
            entries[image["file_name"]].append(image["id"])
        for name, ids in entries.items():
            if len(ids) < 2:
                continue
            boxes = [sorted(repr(a["bbox"]) for a in by_image.get(i, [])) for i in ids]
            differ = any(b != boxes[0] for b in boxes)
            remedy = "merge the entries" + (
                "; in each, mmdet takes the objects of the others for background" if differ else ""
            )
            what = "image is listed more than once" + (", with other boxes" if differ else "")
            detail = f"ids {name_list(ids)}"
            self.add(ERROR if differ else WARNING, what, detail, remedy, self._path(name))

    def _check_image(self, image: dict, annotations: list[dict], categories: set) -> None:
        """Check the annotations of an image; one finding for each kind of breach."""
        file = self._path(image["file_name"])
        breaches = defaultdict(list)
        for severity, kind, detail, remedy in rules.image_rules(image):
            breaches[severity, kind, remedy].append((None, detail))
        if not breaches:
            for annotation in annotations:
                for severity, kind, detail, remedy in self._breaches(image, annotation, categories):
                    breaches[severity, kind, remedy].append((annotation["id"], detail))
        for (severity, kind, remedy), found in breaches.items():
            detail = f"{self._describe(found)}, in {self.dataset.ann_file}"
            self.add(severity, kind, detail, remedy, file)
            if severity == ERROR:
                self.explained.add(file)

    @staticmethod
    def _describe(found: list[tuple]) -> str:
        """Annotations of an image with the same breach: the first ones described, all named."""
        texts = [
            d if i is None else f"annotation {i}: {d}".removesuffix(": ") for i, d in found[:SHOWN]
        ]
        return ", ".join(texts + [str(i) for i, _ in found[SHOWN:]])

    def _breaches(self, image: dict, annotation: dict, categories: set) -> Iterator[rules.Breach]:
        if annotation.get("ignore"):  # mmdet leaves it out
            return
        if annotation["category_id"] not in categories:
            kind = "annotation of a category that 'categories' does not list"
            detail = f"category {annotation['category_id']!r}"
            yield ERROR, kind, detail, rules.BACKGROUND
        yield from rules.box_rules(annotation, image["width"], image["height"])
        if any(getattr(t, "with_mask", False) for t in self.annotation_loaders):
            size = (image["width"], image["height"])
            evaluated = bool(self.config.get("test_mode"))
            yield from rules.segmentation_rules(annotation, *size, evaluated)

    def _count(self, images: list[dict], annotations: list[dict], categories: list[dict]) -> None:
        counts = Counter(a["category_id"] for a in annotations)
        listed = {c["name"]: counts[c["id"]] for c in categories}
        classes = self.class_names() or tuple(listed)
        self.report.classes = {name: listed.get(name, 0) for name in classes}
        empty = [name for name in classes if name in listed and not listed[name]]
        if empty and annotations:
            remedy = "nothing can be learnt or measured for them"
            self.add(WARNING, "classes have no object", name_list(empty), remedy)
        others = [name for name in listed if name not in classes and listed[name]]
        if others:
            remedy = "they are learnt as background; add them to metainfo.classes if not meant so"
            self.add(
                WARNING, "objects of classes that the config leaves out", name_list(others), remedy
            )
        with_objects = {a["image_id"] for a in annotations}
        bare = sum(image["id"] not in with_objects for image in images)
        if bare:
            filtered = (self.config.get("filter_cfg") or {}).get("filter_empty_gt")
            left_out = ", left out in training (filter_cfg.filter_empty_gt)" if filtered else ""
            self.report.notes.append(f"{bare} images without objects{left_out}")

    def inspect_files(
        self, sample: dict, image: np.ndarray, turned: str, inspection: Inspection
    ) -> None:
        file = sample["img_path"]
        declared = (sample.get("width"), sample.get("height"))
        loaded = inspection.size
        if declared != loaded:
            detail = f"declared {declared[0]}x{declared[1]}, loaded {loaded[0]}x{loaded[1]}"
            remedy = "write the size of the image as loaded, and boxes that fit it"
            if turned:
                detail, remedy = f"{detail}; EXIF {turned}", f"{remedy}; or {UPRIGHT}"
            what = "width and height in the annotation file are wrong"
            inspection.findings.append(Finding(ERROR, file, what, detail, remedy))
        if not self.is_used(sample):
            what = "is left out in training, being small"
            detail = f"{declared[0]}x{declared[1]} px, filter_cfg.min_size={self._least}"
            inspection.findings.append(Finding(WARNING, file, what, detail))

    @property
    def _least(self) -> float:
        return (self.config.get("filter_cfg") or {}).get("min_size", 0)

    def is_used(self, sample: dict) -> bool:
        return self.config.get("test_mode") or min(sample["width"], sample["height"]) >= self._least
