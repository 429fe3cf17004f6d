"""Check of detection and instance segmentation data in COCO's format."""

import codecs
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from mmdualtoken.data.check import anchors
from mmdualtoken.data.check import coco_rules as rules
from mmdualtoken.data.check.box_forms import form_rules
from mmdualtoken.data.check.classes import NO_BOM, head_rules, names_in
from mmdualtoken.data.check.dataset import NO_USE, DatasetCheck
from mmdualtoken.data.check.findings import ERROR, WARNING, name_list
from mmdualtoken.data.check.images import UPRIGHT
from mmdualtoken.data.layout import file_evaluators

SHOWN = 3  # annotations of an image that a finding describes
QUICK_BYTES = 64 * 2**20  # COCO's own 450 MB would be parsed twice otherwise
UNLISTED = "annotation of a category that 'categories' does not list"
NEW_COPY = "copy or download it again"


class CocoCheck(DatasetCheck):
    """CocoDataset of mmdet, and data sets that read their annotations as it does."""

    unit = "objects"

    def __init__(self, *args) -> None:
        super().__init__(*args)
        file = os.path.realpath(self.dataset.ann_file)
        loaders = ("val_dataloader", "test_dataloader")
        evaluators = [e for loader in loaders for e in file_evaluators(self.cfg, loader)]
        evaluators = [e for e in evaluators if not e.get("format_only")]
        mine = [e for e in evaluators if os.path.realpath(e["ann_file"]) == file]
        #: The classes that the file has, in its order; None before it is read.
        self.present: list[str] | None = None
        #: Whether COCO's evaluation reads this file; and what of it, such as 'bbox' and 'segm'.
        self.evaluated = bool(mine)
        metrics = [e.get("metric", "bbox") for e in mine]
        self.metrics = {m for n in metrics for m in ([n] if isinstance(n, str) else n)}

    def look(self, quick: bool) -> None:
        """Check annotation file, classes and first image; no large file is parsed."""
        super().look(quick)
        path = Path(self.dataset.ann_file)
        if not quick:  # `read` does the same and more
            return
        if path.stat().st_size > QUICK_BYTES:
            with path.open("rb") as file:
                start = file.read(16)
                file.seek(-16, os.SEEK_END)
                end = file.read().rstrip()
            if start.startswith(codecs.BOM_UTF8):
                self.add(ERROR, "begins with a byte order mark (BOM)", "", NO_BOM)
            elif not start.lstrip().startswith(b"{") or not end.endswith(b"}"):
                self.add(ERROR, "is cut off", "annotation file", NEW_COPY)
            return
        content = self._load(path)
        if not content["images"]:
            return
        images, categories, annotations = self._lists(content)
        self.samples = [dict(img_path=self._path(image["file_name"])) for image in images[:1]]
        self.check_first_image()
        self._check_together(images, categories, annotations)
        known, listed = ({entry["id"] for entry in entries} for entries in (categories, images))
        read = [a for a in annotations if a["image_id"] in listed and not a.get("ignore")]
        stray = [a for a in read if a["category_id"] not in known]
        if stray:  # the whole check names their images
            first = f"{len(stray)} of {len(annotations)}, the first of {stray[0]['category_id']!r}"
            self.add(ERROR, UNLISTED, first, rules.BACKGROUND)

    def check_heads(self) -> None:
        """Compare the heads with classes of the config; mmdet numbers others by the file."""
        if names_in(self.config):
            super().check_heads()

    def numbered_classes(self) -> Sequence[str]:
        """Return the names of the classes as mmdet numbers them: in the order of the file."""
        return self.class_names() if self.present is None else self.present

    def _load(self, path: Path) -> dict[str, list]:
        """Return the annotation file's lists, with no images if broken; check its classes."""
        if not path.is_file():
            self.add(ERROR, "has no annotation file", "", "set ann_file of the data set")
            return dict(images=[])
        try:
            text = path.read_text()  # in the encoding that pycocotools reads it in
            if text.startswith("\ufeff"):
                self.add(ERROR, "begins with a byte order mark (BOM)", "", NO_BOM)
                return dict(images=[])
            content = json.loads(text)
        except UnicodeDecodeError as error:
            self.add(ERROR, f"is not encoded in {error.encoding.upper()}", str(error), NO_BOM)
            return dict(images=[])
        except json.JSONDecodeError as error:
            self.add(ERROR, "is not valid JSON, perhaps cut off", str(error), NEW_COPY)
            return dict(images=[])
        keys = ["images", "categories"]
        if self.evaluated or not self.config.get("test_mode"):
            keys.append("annotations")
        lists = content if isinstance(content, dict) else {}
        if missing := [k for k in keys if not lists.get(k) or not isinstance(lists[k], list)]:
            remedy = f"a COCO annotation file has the lists {keys}"
            if missing == ["annotations"] and self.evaluated:
                remedy += "; set format_only=True of the evaluator to write results alone"
            self.add(ERROR, f"lacks or has empty {missing}", "", remedy)
            return dict(images=[])
        self._check_classes(content)
        return content

    def _check_classes(self, content: dict[str, list]) -> None:
        """Compare the classes and masks of the config with those of the annotation file."""
        objects = [a for a in content.get("annotations") or [] if isinstance(a, dict)]
        if self._reads_masks and objects and not any(a.get("segmentation") for a in objects):
            use, remedy = "measures masks (metric 'segm')", "set metric='bbox' of the evaluator"
            if self._loads_masks:
                use = "trains masks (LoadAnnotations with_mask=True)"
                remedy = "use a config without a mask head"
            kind = f"has boxes only (no 'segmentation'), but the config {use}"
            self.add(ERROR, kind, "", remedy)
        categories = [c for c in content["categories"] if isinstance(c, dict)]
        names = [c.get("name") for c in categories]
        classes, own = self.class_names(), names_in(self.config)
        missing = [c for c in classes if c not in names]
        known = f"the config has {list(classes)[:8]}, the file has {names[:8]}"
        present = self.present = [name for name in names if name in classes]
        if not own:
            for breach in head_rules(self.cfg, present, False):
                self.add(*breach)
        if classes and len(missing) == len(classes):
            remedy = "set metainfo.classes of the data sets and num_classes of the heads to yours"
            self.add(ERROR, "has no class of the config", known, remedy)
        elif twice := [name for name, count in Counter(present).items() if count > 1]:
            numbers = [c.get("id") for c in categories if c.get("name") in twice]
            detail = f"{name_list(map(repr, twice))}, ids {name_list(numbers)}"
            remedy = (
                "remove the category that has no objects, or rename it: mmdet looks classes up by "
                "name, numbers both, and objects become background"
            )
            self.add(ERROR, "has categories of the same name", detail, remedy)
        elif missing and (own or len(present) < len(names)):  # the file names them otherwise
            kind = f"has no category {' nor '.join(map(repr, missing[:3]))}, a class of the config"
            remedy = (
                "name the classes as the file does, or add the category to the file's 'categories' "
                "(objects it needs none): mmdet would number the other classes without it, and its "
                "evaluation would stop"
            )
            self.add(ERROR, kind, known, remedy)
        elif missing:  # mmdet numbers the classes that it finds
            detail = f"{len(missing)} of {len(classes)}, {missing[:3]}..."
            remedy = (
                "set metainfo.classes to those of the file: classes after a missing one get other "
                "labels than in the config"
            )
            self.add(WARNING, "lacks classes of the config", detail, remedy)
        elif present != list(classes):
            remedy = f"mmdet numbers them as the file does; write metainfo.classes={tuple(present)}"
            self.add(ERROR, "has the classes in another order than the config", known, remedy)

    @property
    def _loads_masks(self) -> bool:
        return any(getattr(t, "with_mask", False) for t in self.annotation_loaders)

    @property
    def _reads_masks(self) -> bool:
        return self._loads_masks or "segm" in self.metrics

    def read(self) -> None:
        content = self._load(Path(self.dataset.ann_file))
        if not content["images"]:  # it is broken
            return
        sizes = self._check(content)
        del content  # several GB of COCO; mmdet reads the file itself
        self.samples = self.toolbox_samples()
        if not self.samples:  # mmdet cannot read the annotations: images are still checked
            self.annotation_loaders = []
            keys = ("img_path", "width", "height")
            self.samples = [dict(zip(keys, (self._path(n), *s), strict=True)) for n, *s in sizes]

    def _path(self, file_name: str) -> str:
        return os.path.join(self.dataset.data_prefix["img"], file_name)  # as mmdet joins them

    def _check(self, content: dict[str, list]) -> list[tuple]:
        """Check all entries; return name, width and height of the images."""
        images, categories, annotations = lists = self._lists(content)
        self._check_together(*lists)
        by_image = defaultdict(list)
        for annotation in annotations:
            by_image[annotation["image_id"]].append(annotation)
        self._check_names(images, by_image)
        if self.report.split == "train":
            self._check_anchors()
        bare = sum(image["id"] not in by_image for image in images)
        if bare:
            filtered = (self.config.get("filter_cfg") or {}).get("filter_empty_gt")
            left_out = ", left out in training (filter_cfg.filter_empty_gt)" if filtered else ""
            self.report.notes.append(f"{bare} images without objects{left_out}")
        known = {c["id"] for c in categories}
        for image in images:
            self._check_image(image, by_image.pop(image["id"], []), known)
        # Images whose entry lacks something are listed all the same.
        listed = {repr(i.get("id")) for i in content["images"] if isinstance(i, dict)}
        for image_id, stray in by_image.items():
            if repr(image_id) not in listed:
                remedy = "mmdet leaves them out; add the image, or remove them"
                kind = f"annotations of image {image_id!r}, which 'images' does not list"
                self.add(WARNING, kind, name_list(a["id"] for a in stray), remedy)
        return [(i["file_name"], i["width"], i["height"]) for i in images]

    def _lists(self, content: dict[str, list]) -> list[list[dict]]:
        """Return images, categories and annotations that have all keys; check keys and ids."""
        keys = dict(image="images", category="categories", annotation="annotations")
        return [self._entries(kind, content.get(key) or []) for kind, key in keys.items()]

    def _check_together(
        self, images: list[dict], categories: list[dict], annotations: list[dict]
    ) -> None:
        """Check what all annotations have in common, and collect those that mmdet trains on."""
        for breach in rules.flag_rules(annotations, self.evaluated):
            self.add(*breach)
        self._count(images, annotations, categories)
        ids = {image["id"] for image in images}
        if images and annotations and not any(a["image_id"] in ids for a in annotations):
            detail = f"image_id {annotations[0]['image_id']!r}, where images have {[*ids][0]!r}"
            remedy = "write the ids of the images, numbers as numbers: mmdet finds no objects"
            self.add(ERROR, "has annotations of no image that it lists", detail, remedy)
        sizes = {i["id"]: (i["width"], i["height"]) for i in images if not [*rules.image_rules(i)]}
        known = {c["id"] for c in categories if c["name"] in self.class_names()}
        objects = [
            (a, sizes[a["image_id"]])
            for a in annotations
            if a["image_id"] in sizes and a["category_id"] in known
        ]
        for breach in form_rules(objects):
            self.add(*breach)
        reasons = [rules.reason_left_out(a, *size) for a, size in objects]
        self.learnt = [pair for pair, reason in zip(objects, reasons, strict=True) if not reason]
        if not (self.has_errors() or self.config.get("test_mode") or self.learnt) and objects:
            detail = ", ".join(f"{reason} ({n})" for reason, n in Counter(reasons).items())
            self.add(ERROR, "has no object to learn from", detail, "mmdet leaves all of them out")

    def _entries(self, kind: str, entries: list) -> list[dict]:
        """Return the entries of a list that have all keys; check keys and ids."""
        whole, found = [], defaultdict(list)
        for number, entry in enumerate(entries):
            breaches = list(rules.key_rules(kind, entry))
            for severity, what, detail, remedy in breaches:
                place = f"entry {number} of the list" + (f", {detail}" if detail else "")
                found[severity, what, remedy].append(place)
            if not breaches:
                whole.append(entry)
        for (severity, what, remedy), places in found.items():
            self.add(severity, what, name_list(places, SHOWN), remedy)
        if twice := [i for i, n in Counter(e["id"] for e in whole).items() if n > 1]:
            effect = {
                "image": "mmdet keeps the last image of an id and gives it all annotations",
                "category": "mmdet keeps the last category of an id",
                "annotation": "mmdet refuses the file",
            }[kind]
            remedy = f"{effect}; give each a unique number"
            self.add(ERROR, f"{kind} ids occur more than once", name_list(twice), remedy)
        return whole

    def _check_names(self, images: list[dict], by_image: dict[int, list]) -> None:
        entries = defaultdict(list)
        for image in images:
            entries[image["file_name"]].append(image["id"])
        for name, ids in entries.items():
            boxes = [sorted(repr(a["bbox"]) for a in by_image.get(i, [])) for i in ids]
            severity, what, remedy = WARNING, "image is listed more than once", "merge the entries"
            if any(b != boxes[0] for b in boxes):
                severity, what = ERROR, f"{what}, with other boxes"
                remedy += "; in each, mmdet takes the objects of the others for background"
            if len(ids) > 1:
                self.add(severity, what, f"ids {name_list(ids)}", remedy, self._path(name))

    def _check_image(self, image: dict, annotations: list[dict], categories: set) -> None:
        """Check the annotations of an image; one finding for each kind of breach."""
        file = self._path(image["file_name"])
        breaches = defaultdict(list)
        for severity, kind, detail, remedy in rules.image_rules(image):
            breaches[severity, kind, remedy].append(detail)
        for annotation in () if breaches else annotations:
            for severity, kind, detail, remedy in self._breaches(image, annotation, categories):
                found, number = breaches[severity, kind, remedy], annotation["id"]
                detail = f": {detail}" if detail else ""
                found.append(f"annotation {number}{detail}" if len(found) < SHOWN else str(number))
        for (severity, kind, remedy), found in breaches.items():
            detail = f"{', '.join(found)}, in {self.dataset.ann_file}"
            self.add(severity, kind, detail, remedy, file)
            if severity == ERROR:
                self.explained.add(file)

    def _breaches(self, image: dict, annotation: dict, categories: set) -> Iterator[rules.Breach]:
        if annotation.get("ignore"):  # mmdet leaves it out
            return
        if annotation["category_id"] not in categories:
            yield ERROR, UNLISTED, f"category {annotation['category_id']!r}", rules.BACKGROUND
        size = (image["width"], image["height"])
        yield from rules.box_rules(annotation, *size)
        if self._reads_masks:
            yield from rules.mask_rules(annotation, *size, self.evaluated)

    def _check_anchors(self) -> None:
        """Compare the anchors with the objects that mmdet trains on."""
        pairs = [(size, annotation["bbox"][2:]) for annotation, size in self.learnt]
        image_sizes, boxes = np.array(pairs, dtype=float).reshape(-1, 2, 2).swapaxes(0, 1)
        pipeline = self.config.get("pipeline") or []
        if not anchors.scales_of(pipeline):  # random sizes: take those of the evaluation
            val = (self.cfg.get("val_dataloader") or {}).get("dataset") or {}
            pipeline = val.get("pipeline") or []
        if found := anchors.unmatched(self.cfg, pipeline, image_sizes, boxes):
            self.add(WARNING, "no anchor can match many objects", *found)

    def _count(self, images: list[dict], annotations: list[dict], categories: list[dict]) -> None:
        counts = Counter(a["category_id"] for a in annotations)
        listed = {c["name"]: counts[c["id"]] for c in categories}
        classes = self.class_names() or tuple(listed)
        self.report.classes = {name: listed.get(name, 0) for name in classes}
        if empty := [name for name in classes if listed.get(name) == 0 and annotations]:
            self.add(WARNING, "classes have no object", name_list(empty), NO_USE)
        if others := [name for name in listed if name not in classes and listed[name]]:
            kind = "objects of classes that the config leaves out"
            remedy = "the model learns them as background; add them to metainfo.classes to avoid it"
            self.add(WARNING, kind, name_list(others), remedy)

    def inspect_files(self, sample: dict, image: np.ndarray, turned: str) -> None:
        add = partial(self.add, file=sample["img_path"])
        # Scripts may write numbers as 64.0.
        declared, loaded = ("{:g}x{:g}".format(*s) for s in (self._declared(sample), self.size))
        if declared != loaded:
            detail = f"declared {declared}, loaded {loaded}"
            remedy = "write the size of the image as loaded, and boxes that fit it"
            if turned:
                detail, remedy = f"{detail}; EXIF {turned}", f"{remedy}; or {UPRIGHT}"
            add(ERROR, "width and height in the annotation file are wrong", detail, remedy)
        if not self.is_used(sample):
            detail = f"{declared} px, filter_cfg.min_size={self._least}"
            add(WARNING, "is left out in training, being small", detail)

    @staticmethod
    def _declared(sample: dict) -> tuple[float, float]:
        return sample["width"], sample["height"]

    @property
    def _least(self) -> float:
        return (self.config.get("filter_cfg") or {}).get("min_size", 0)

    def is_used(self, sample: dict) -> bool:
        return self.config.get("test_mode") or min(self._declared(sample)) >= self._least
