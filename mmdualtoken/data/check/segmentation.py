"""Check of semantic segmentation data: images and their maps of labels."""

import math
from collections import Counter
from contextlib import suppress
from functools import partial

import numpy as np
from mmengine import fileio
from mmengine.fileio import list_from_file

from mmdualtoken.config_files import type_name
from mmdualtoken.data.check.classes import heads_of, num_labels
from mmdualtoken.data.check.dataset import NO_USE, DatasetCheck, Inspection, is_own
from mmdualtoken.data.check.findings import ERROR, WARNING, name_list
from mmdualtoken.data.check.images import UPRIGHT, Add, read_and_decode
from mmdualtoken.data.layout import evaluators_of
from mmdualtoken.data.loading import JPEG_START, size_mismatch

SIZE = "has another size than its image"
SAME = "label map and image must show the same pixels"
QUICK_MAPS = 20  # maps that the quick look reads, spread over all of them


class SegmentationCheck(DatasetCheck):
    """BaseSegDataset of mmseg, and data sets that read their folders as it does."""

    unit = "pixels"

    def __init__(self, *args) -> None:
        super().__init__(*args)
        heads = [head for _, key, head in heads_of(self.model) if key == "num_classes"]
        # Labels that every head can learn, and those that every head leaves out.
        self.num_classes = min(map(num_labels, heads), default=len(self.class_names()) or 255)
        ignored = ({head.get("ignore_index", 255)} for head in heads or [{}])
        self.ignored = set.intersection(*ignored)
        #: Pixels of each label in all maps that were read, as the heads get them.
        self.labels: Counter = Counter()

    @property
    def allowed(self) -> str:
        """Values that a file may have, in words."""
        names = ", ".join(map(str, sorted(self.ignored))) or "none"
        if self.dataset.reduce_zero_label:
            return f"1 to {self.num_classes}, ignored 0 and {names} (reduce_zero_label=True)"
        return f"0 to {self.num_classes - 1}, ignored {names} (reduce_zero_label=False)"

    def look(self, quick: bool) -> None:
        """Check files, folders and classes; if quick, also the labels of some maps."""
        super().look(quick)
        file = getattr(self.dataset, "ann_file", "")
        if file and not self.has_errors() and not all(map(str.strip, list_from_file(file))):
            self.add(ERROR, "has empty lines, which mmseg takes for images", "", "remove them")
        if self.report.split != "train" and self.dataset is not None:
            self._check_evaluation()
        if not quick or self.has_errors():
            return
        self.samples = self.toolbox_samples()
        self._check_evaluated_size(quick)
        self._check_unused_images()
        self.check_first_image()
        samples = [s for s in self.samples if s.get("seg_map_path")]
        chosen = samples[:: math.ceil(len(samples) / QUICK_MAPS) or 1]
        for sample in chosen if self.annotation_loaders else ():
            path, self.counts = sample["seg_map_path"], Counter()
            # Training stops at a broken file, or takes another, as its pipeline says.
            own = is_own(self.annotation_loaders[0])
            if own or self._check_map(path, lambda *breach: None) is not None:
                try:
                    self.inspect_annotations(sample, self.annotation_loaders[0](dict(sample)))
                except Exception as error:  # of any kind
                    self.add_failure(error, self.file_of(sample))
                    return
                self.labels += self.counts
        self._check_labels(len(chosen), len(samples))

    def _check_evaluation(self) -> None:
        """Check what the evaluation needs and counts."""
        if not self.class_names():
            remedy = "set metainfo=dict(classes=..., palette=...) as for training"
            self.add(ERROR, "has no names of classes, which the evaluation needs", "", remedy)
        for evaluator in evaluators_of(self.cfg, f"{self.report.split}_dataloader"):
            lost = self.ignored & {*range(self.num_classes)} - {evaluator.get("ignore_index", 255)}
            if lost and type_name(evaluator) == "IoUMetric":
                kind = f"labels that the heads ignore are counted by {self.report.split}_evaluator"
                remedy = "set reduce_zero_label=True to ignore 0, or ignore_index of the evaluator"
                self.add(WARNING, kind, name_list(sorted(lost)), remedy)

    def _check_evaluated_size(self, quick: bool) -> None:
        """Check that the pipeline keeps the size of the first label map, which is evaluated.

        The quick look also compares it with the image's.
        """
        if self.report.split == "train" or not self.samples or not self.annotation_loaders:
            return
        with suppress(Exception):  # reported where the files are checked
            results = self.dataset.pipeline({**self.samples[0], "sample_idx": 0})
            found = results["data_samples"]
            size, own = found.gt_sem_seg.shape, tuple(found.ori_shape)
            path = self.samples[0]["seg_map_path"]
            loaded = self.annotation_loaders[0](dict(self.samples[0]))["gt_seg_map"].shape
            if own != loaded:  # the whole check says it of each file
                detail = f"{loaded[1]}x{loaded[0]}, the image {own[1]}x{own[0]} as it is loaded"
                if quick:
                    self.add(ERROR, SIZE, detail, f"{SAME}; if EXIF turns it, {UPRIGHT}", path)
            elif size != own:
                detail = f"{size[1]}x{size[0]}, the first image {own[1]}x{own[0]}"
                remedy = "put LoadAnnotations behind Resize: the image's own size is evaluated"
                self.add(ERROR, "has label maps that its pipeline resizes", detail, remedy)

    def read(self) -> None:
        dataset = self.dataset
        self.samples = self.toolbox_samples()
        self._check_evaluated_size(quick=False)
        images, maps = (dataset.data_prefix.get(k) for k in ("img_path", "seg_map_path"))
        if not self.samples and not self.has_errors():
            there = name_list(path.removeprefix(images).strip("/") for path in _files(images))
            detail = f"no file ends in {dataset.img_suffix!r}; there are {there or 'no files'}"
            remedy = "set img_suffix of the data set, or move the images there"
            self.add(ERROR, "holds no image", detail, remedy)
            return
        listed = Counter(sample["img_path"] for sample in self.samples)
        for path, number in listed.items():
            if number > 1:
                remedy = f"remove the repeated lines from {dataset.ann_file}"
                self.add(WARNING, "image is listed more than once", f"{number} times", remedy, path)
        if dataset.ann_file:
            return
        remedy = self._check_unused_images()
        expected = {sample.get("seg_map_path") for sample in self.samples}
        for path in _files(maps, dataset.seg_map_suffix):
            if path not in expected:
                self.add(WARNING, "has no image", "", remedy, path)

    def _check_unused_images(self) -> str:
        """Check for files beside the images that mmseg does not list; return what to do."""
        dataset = self.dataset
        remedy = f"images end in img_suffix={dataset.img_suffix!r}; rename, remove or ignore it"
        listed = {sample["img_path"] for sample in self.samples}
        for path in () if dataset.ann_file else _files(dataset.data_prefix.get("img_path")):
            if path not in listed:
                self.add(WARNING, "is left out", "", remedy, path)
        return remedy

    def inspect_files(self, sample: dict, image: np.ndarray, turned: str) -> None:
        path = sample.get("seg_map_path")
        if not path or not self.annotation_loaders or is_own(self.annotation_loaders[0]):
            return
        add = partial(self.add, file=path)
        values = self._check_map(path, add)
        if values is not None and values.shape[:2] != image.shape[:2]:
            remedy = SAME
            detail = size_mismatch(values, image).removeprefix("is ")
            if turned:
                detail, remedy = f"{detail}; EXIF {turned}", f"{remedy}; or {UPRIGHT}"
            add(ERROR, SIZE, detail, remedy)

    def _check_map(self, path: str, report_broken: Add) -> np.ndarray | None:
        """Check a map as the file holds it; return its values if they may be labels."""
        found = read_and_decode(path, self.annotation_loaders[0], "unchanged", report_broken)
        if found is None:
            return None
        add = partial(self.add, file=path)
        content, values = found
        if values.ndim > 2 and values.shape[2] > 1:
            remedy = "write one channel with the index of the class; a palette may be attached"
            detail = f"{values.shape[2]} channels"
            add(ERROR, "is a colour image, not a map of labels", detail, remedy)
            return None
        if content.startswith(JPEG_START):
            remedy = "write PNG from the original labels; JPEG mixes neighbouring labels"
            add(ERROR, "is a JPEG, which does not keep labels", "", remedy)
        if values.min() < 0 or values.max() > 255:
            detail = f"values {values.min()} to {values.max()}, allowed {self.allowed}"
            remedy = "mmseg wraps them at 256 to other labels; write 8-bit labels"
            add(ERROR, "has values that 8 bits cannot hold", detail, remedy)
        return values

    def inspect_annotations(self, sample: dict, results: dict) -> None:
        labels = results.get("gt_seg_map")
        if labels is None:
            return
        add = partial(self.add, file=sample["seg_map_path"])
        values, numbers = np.unique(labels, return_counts=True)
        self.counts = Counter(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
        found = {k: n for k, n in self.counts.items() if k not in self.ignored}
        wrong = {label: n for label, n in found.items() if label >= self.num_classes}
        if wrong and not self.has_errors():
            shift = int(bool(self.dataset.reduce_zero_label))
            values = name_list(f"{label + shift} ({n} px)" for label, n in wrong.items())
            remedy = "correct the labels, num_classes of the heads, or reduce_zero_label"
            severity = WARNING if self.has_own else ERROR
            add(severity, "has labels out of range", f"{values}; allowed {self.allowed}", remedy)
        elif len(wrong) == len(found):
            add(WARNING, "has ignored labels only", "", "the model learns nothing from it")

    def merge(self, inspection: Inspection) -> None:
        found, size, labels = inspection
        self.labels += labels  # those of no class, too
        super().merge((found, size, Counter()))

    def finish(self) -> None:
        self._check_labels(len(self.samples), len(self.samples))

    def _check_labels(self, read: int, number: int) -> None:
        """Check the labels of all maps together, of which `read` of `number` were read."""
        counted, ignored = set(self.labels) - self.ignored, set(self.labels) & self.ignored
        names, reduced = self.class_names(), bool(self.dataset.reduce_zero_label)
        if read == number:
            self.report.classes = {name: self.labels[i] for i, name in enumerate(names)}
        if self.labels and len(counted) < 2 <= self.num_classes:
            values = sorted({label + reduced for label in counted} | ignored)
            detail = f"{name_list(values)} in {read} of {number} maps; allowed {self.allowed}"
            remedy = NO_USE
            if ignored:
                remedy = f"{name_list(ignored)} is no class: write 1 for objects and 0 for the rest"
                if reduced:
                    remedy = f"labels from 0 need reduce_zero_label=False; {remedy}"
            # A small set for evaluation may well have one class.
            wrong = read == number and (self.report.split == "train" or not counted)
            kind = "has one label that counts" if counted else "has no label that counts"
            self.add(ERROR if wrong and not self.has_own else WARNING, kind, detail, remedy)
        elif read == number:
            remedy, counts = NO_USE, list(self.report.classes.values())
            if reduced and counts and not counts[-1]:
                remedy += "; if the labels count from 0, set reduce_zero_label=False"
            self.warn_of_empty_classes("pixel", remedy)


def _files(folder: str | None, suffix: str = "") -> list[str]:
    """Return the paths of all files below a folder."""
    if not folder:
        return []
    found = fileio.list_dir_or_file(folder, list_dir=False, suffix=suffix, recursive=True)
    return [fileio.join_path(folder, name) for name in sorted(found)]
