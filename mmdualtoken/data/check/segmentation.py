"""Check of semantic segmentation data: images and their maps of labels."""

from collections import Counter
from functools import partial

import numpy as np
from mmengine import fileio

from mmdualtoken.data.check.dataset import NO_USE, DatasetCheck
from mmdualtoken.data.check.findings import ERROR, WARNING, name_list
from mmdualtoken.data.check.images import UPRIGHT, read_and_decode
from mmdualtoken.data.loading import JPEG_START, size_mismatch


class SegmentationCheck(DatasetCheck):
    """BaseSegDataset of mmseg, and data sets that read their folders as it does."""

    unit = "pixels"

    def __init__(self, *args) -> None:
        super().__init__(*args)
        heads = [self.model.get("decode_head"), self.model.get("auxiliary_head")]
        flat = [h for head in heads if head for h in (head if isinstance(head, list) else [head])]
        self.heads = [head for head in flat if head.get("num_classes")]
        # Labels that every head can learn, and those that every head leaves out.
        numbers = [head["num_classes"] for head in self.heads]
        self.num_classes = min(numbers, default=len(self.class_names()) or 255)
        self.ignored = set.intersection(
            *({head.get("ignore_index", 255)} for head in self.heads or [{}])
        )

    @property
    def allowed(self) -> str:
        """Values that a file may have, in words."""
        names = ", ".join(map(str, sorted(self.ignored))) or "none"
        if self.dataset.reduce_zero_label:
            return f"1 to {self.num_classes}, ignored 0 and {names} (reduce_zero_label=True)"
        return f"0 to {self.num_classes - 1}, ignored {names} (reduce_zero_label=False)"

    def read(self) -> None:
        dataset, names = self.dataset, self.class_names()
        self.samples = self.toolbox_samples()
        self.report.classes = dict.fromkeys(names, 0)
        if self.heads and len(names) != self.num_classes:
            detail = f"{len(names)} classes, num_classes={self.num_classes}"
            remedy = "set num_classes of every head to the number of metainfo.classes"
            self.add(WARNING, "classes and heads differ in number", detail, remedy)
        images, maps = (dataset.data_prefix.get(k) for k in ("img_path", "seg_map_path"))
        if not self.samples and not self.found:
            there = name_list(path.removeprefix(images).strip("/") for path in _files(images))
            detail = f"no file ends in {dataset.img_suffix!r}; {there or 'nothing'} is there"
            remedy = "set img_suffix of the data set, or move the images there"
            self.add(ERROR, "holds no image", detail, remedy)
        listed = Counter(sample["img_path"] for sample in self.samples)
        for path, number in listed.items():
            if number > 1:
                remedy = f"remove the repeated lines from {dataset.ann_file}"
                self.add(WARNING, "image is listed more than once", f"{number} times", remedy, path)
        if dataset.ann_file:
            return
        expected = {sample.get("seg_map_path") for sample in self.samples}
        strays = [("is left out", p) for p in _files(images) if p not in listed]
        suffix = dataset.seg_map_suffix
        strays += [("has no image", p) for p in _files(maps, suffix) if p not in expected]
        remedy = f"images end in img_suffix={dataset.img_suffix!r}; rename, remove or ignore it"
        for kind, path in strays:
            self.add(WARNING, kind, "", remedy, path)

    def inspect_files(self, sample: dict, image: np.ndarray, turned: str) -> None:
        path = sample.get("seg_map_path")
        if not path or not self.annotation_loaders:
            return
        add = partial(self.add, file=path)
        found = read_and_decode(path, self.annotation_loaders[0], "unchanged", add)
        if found is None:
            return
        content, values = found
        if values.ndim > 2 and values.shape[2] > 1:
            remedy = "write one channel with the index of the class; a palette may be attached"
            detail = f"{values.shape[2]} channels"
            add(ERROR, "is a colour image, not a map of labels", detail, remedy)
            return
        if values.shape[:2] != image.shape[:2]:
            remedy = "label map and image must show the same pixels"
            detail = size_mismatch(values, image).removeprefix("is ")
            if turned:
                detail, remedy = f"{detail}; EXIF {turned}", f"{remedy}; or {UPRIGHT}"
            add(ERROR, "has another size than its image", detail, remedy)
        if content.startswith(JPEG_START):
            remedy = "write PNG from the original labels; JPEG mixes neighbouring labels"
            add(ERROR, "is a JPEG, which does not keep labels", "", remedy)
        if values.min() < 0 or values.max() > 255:
            detail = f"values {values.min()} to {values.max()}, allowed {self.allowed}"
            remedy = "mmseg wraps them at 256 to other labels; write 8-bit labels"
            add(ERROR, "has values that 8 bits cannot hold", detail, remedy)

    def inspect_annotations(self, sample: dict, results: dict) -> None:
        labels = results.get("gt_seg_map")
        if labels is None:
            return
        add = partial(self.add, file=sample["seg_map_path"])
        values, numbers = np.unique(labels, return_counts=True)
        found = Counter(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
        for ignored in self.ignored:
            del found[ignored]
        wrong = {label: n for label, n in found.items() if label >= self.num_classes}
        if wrong and not self.has_errors():
            shift = int(bool(self.dataset.reduce_zero_label))
            values = name_list(f"{label + shift} ({n} px)" for label, n in wrong.items())
            remedy = "correct the labels, num_classes of the heads, or reduce_zero_label"
            add(ERROR, "has labels out of range", f"{values}; allowed {self.allowed}", remedy)
        elif len(wrong) == len(found):
            add(WARNING, "has ignored labels only", "", "nothing can be learnt from it")
        usable = min(self.num_classes, len(self.class_names()))
        self.counts = Counter({label: n for label, n in found.items() if label < usable})

    def finish(self) -> None:
        remedy, counts = NO_USE, list(self.report.classes.values())
        if self.dataset.reduce_zero_label and counts and not counts[-1]:
            remedy += "; if the labels count from 0, set reduce_zero_label=False"
        self.warn_of_empty_classes("pixel", remedy)


def _files(folder: str | None, suffix: str = "") -> list[str]:
    """Return the paths of all files below a folder."""
    if not folder:
        return []
    found = fileio.list_dir_or_file(folder, list_dir=False, suffix=suffix, recursive=True)
    return [fileio.join_path(folder, name) for name in sorted(found)]
