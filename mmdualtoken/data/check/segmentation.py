"""Check of semantic segmentation data: images with maps of labels beside them."""

from collections import Counter
from functools import cached_property

import numpy as np
from mmengine import fileio

from mmdualtoken.data.loading import JPEG_START, BrokenFileError, decode, read_file, size_mismatch

from mmdualtoken.data.check.base import DatasetCheck
from mmdualtoken.data.check.coco import name_list
from mmdualtoken.data.check.findings import ERROR, WARNING, Finding, Inspection
from mmdualtoken.data.check.images import UPRIGHT, split_problem


class SegmentationCheck(DatasetCheck):
    """BaseSegDataset of mmseg, and data sets that read their folders as it does."""

    unit = "pixels"

    @cached_property
    def heads(self) -> list[dict]:
        """Configs of the heads that learn from the maps."""
        model = self.cfg.get("model", {})
        heads = [model.get("decode_head"), model.get("auxiliary_head")]
        flat = [h for head in heads if head for h in (head if isinstance(head, list) else [head])]
        return [head for head in flat if head.get("num_classes")]

    @cached_property
    def num_classes(self) -> int:
        """Number of labels that every head can learn."""
        return min([h["num_classes"] for h in self.heads], default=len(self.class_names()) or 255)

    @cached_property
    def ignored(self) -> set[int]:
        """Labels that every head leaves out; 255 is the heads' default."""
        return set.intersection(*({h.get("ignore_index", 255)} for h in self.heads or [{}]))

    @property
    def allowed(self) -> str:
        """Values that a file may have, in words."""
        names = ", ".join(map(str, sorted(self.ignored))) or "none"
        if self.dataset.reduce_zero_label:
            return f"1 to {self.num_classes}, ignored 0 and {names} (reduce_zero_label=True)"
        return f"0 to {self.num_classes - 1}, ignored {names} (reduce_zero_label=False)"

    def read(self) -> None:
        self.samples = self.toolbox(lambda: self.dataset.load_data_list()) or []
        self.report.classes = dict.fromkeys(self.class_names(), 0)
        if self.heads and len(self.class_names()) != self.num_classes:
            detail = f"{len(self.class_names())} classes, num_classes={self.num_classes}"
            remedy = "set num_classes of every head to the number of metainfo.classes"
            self.add(WARNING, "classes and heads differ in number", detail, remedy)
        images, maps = (self.dataset.data_prefix.get(k) for k in ("img_path", "seg_map_path"))
        if not self.samples and not self.report.findings:
            found = name_list(self._files(images, "")) or "nothing"
            detail = f"no file ends in {self.dataset.img_suffix!r}; {found} is there"
            remedy = "set img_suffix of the data set, or move the images there"
            self.add(ERROR, "holds no image", detail, remedy)
        names = Counter(sample["img_path"] for sample in self.samples)
        for path, number in names.items():
            if number > 1:
                remedy = f"remove the repeated lines from {self.dataset.ann_file}"
                self.add(WARNING, "image is listed more than once", f"{number} times", remedy, path)
        if images and not self.dataset.ann_file:
            self._check_strays(images, set(names), "it is left out", "")
        if maps and not self.dataset.ann_file:
            expected = {s["seg_map_path"] for s in self.samples if "seg_map_path" in s}
            self._check_strays(maps, expected, "has no image", self.dataset.seg_map_suffix)

    def _files(self, folder: str, suffix: str) -> list[str]:
        found = fileio.list_dir_or_file(folder, list_dir=False, suffix=suffix, recursive=True)
        return sorted(found)

    def _check_strays(self, folder: str, expected: set[str], kind: str, suffix: str) -> None:
        for name in self._files(folder, suffix):
            path = fileio.join_path(folder, name)
            if path not in expected:
                wanted = self.dataset.img_suffix
                remedy = f"images end in img_suffix={wanted!r}; rename, remove or ignore it"
                self.add(WARNING, kind, "", remedy, path)

    def inspect_files(
        self, sample: dict, image: np.ndarray, turned: str, inspection: Inspection
    ) -> None:
        path = sample.get("seg_map_path")
        if not path or not self.annotation_loaders:
            return
        loader = self.annotation_loaders[0]
        try:
            content = read_file(path, loader.backend_args)
            values = decode(path, content, "unchanged", loader.imdecode_backend)
        except BrokenFileError as error:
            inspection.findings.append(split_problem(path, error))
            return
        add = inspection.findings.append
        if values.ndim > 2 and values.shape[2] > 1:
            remedy = "write one channel with the index of the class; a palette may be attached"
            detail = f"{values.shape[2]} channels"
            add(Finding(ERROR, path, "is a colour image, not a map of labels", detail, remedy))
            return
        if values.shape[:2] != image.shape[:2]:
            remedy = "label map and image must show the same pixels"
            detail = size_mismatch(values, image).removeprefix("is ")
            if turned:
                detail, remedy = f"{detail}; EXIF {turned}", f"{remedy}; or {UPRIGHT}"
            add(Finding(ERROR, path, "has another size than its image", detail, remedy))
        if content.startswith(JPEG_START):
            remedy = "write PNG from the original labels; JPEG mixes neighbouring labels"
            add(Finding(ERROR, path, "is a JPEG, which does not keep labels", "", remedy))
        if values.min() < 0 or values.max() > 255:
            detail = f"values {values.min()} to {values.max()}, allowed {self.allowed}"
            remedy = "mmseg wraps them at 256 to other labels; write 8-bit labels"
            add(Finding(ERROR, path, "has values that 8 bits cannot hold", detail, remedy))

    def inspect_annotations(self, sample: dict, results: dict, inspection: Inspection) -> None:
        labels = results.get("gt_seg_map")
        if labels is None:
            return
        path = sample["seg_map_path"]
        values, numbers = np.unique(labels, return_counts=True)
        found = dict(zip(values.tolist(), numbers.tolist(), strict=True))
        known = {v: n for v, n in found.items() if v < self.num_classes and v not in self.ignored}
        wrong = {v: n for v, n in found.items() if v not in known and v not in self.ignored}
        errors = any(f.severity == ERROR for f in inspection.findings)
        if wrong and not errors:
            shift = int(bool(self.dataset.reduce_zero_label))
            values = name_list([f"{v + shift} ({n} px)" for v, n in wrong.items()])
            remedy = "correct the labels, num_classes of the heads, or reduce_zero_label"
            detail = f"{values}; allowed {self.allowed}"
            inspection.findings.append(
                Finding(ERROR, path, "has labels out of range", detail, remedy)
            )
        elif not known:
            remedy = "nothing can be learnt from it"
            inspection.findings.append(
                Finding(WARNING, path, "has ignored labels only", "", remedy)
            )
        names = self.class_names()
        inspection.counts.update({v: n for v, n in known.items() if v < len(names)})

    def finish(self) -> None:
        empty = [name for name, count in self.report.classes.items() if not count]
        if empty and any(self.report.classes.values()):
            remedy = "nothing can be learnt or measured for them"
            if self.dataset.reduce_zero_label and empty[-1] == self.class_names()[-1]:
                remedy += "; if the labels count from 0, set reduce_zero_label=False"
            self.add(WARNING, "classes have no pixel", name_list(empty), remedy)
