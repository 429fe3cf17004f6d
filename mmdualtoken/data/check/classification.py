"""Check of classification data: folders of classes, or a list of files with labels."""

import os
from collections import Counter, defaultdict
from itertools import zip_longest
from pathlib import Path

from mmdualtoken.config_files import type_name
from mmdualtoken.data.check.classes import names_in
from mmdualtoken.data.check.dataset import DatasetCheck
from mmdualtoken.data.check.findings import ERROR, WARNING, name_list
from mmdualtoken.data.layout import evaluators_of
from mmdualtoken.weights.fitting import moved_class

FLAT = (
    "sort the images into one folder per class, or list them as lines 'FILE LABEL' in an ann_file "
    "(ImageNet: meta/train.txt, meta/val.txt); docs/data.md describes it for ImageNet"
)


class ClassificationCheck(DatasetCheck):
    """CustomDataset and ImageNet of mmpretrain, and data sets that read their files as they do."""

    unit = "images"

    def look(self, quick: bool) -> None:
        """Check the folders of the classes, not the files in them; if quick, the list of files."""
        file = self.dataset.ann_file
        if not file and self.dataset.with_label:
            self._look_at_folders()
        super().look(quick)
        self._check_accuracies()
        if quick and file and not self.has_errors():
            self.samples = self._check_lines(file, self.dataset.img_prefix)
            self._check_labels()
            self.check_first_image()

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, by default those of their folders."""
        return super().class_names() or tuple(self.folders)

    def check_heads(self) -> None:
        """Compare the model's heads with the classes; `compare_folders` does so for val's."""
        if names_in(self.config) or self.report.split != "val":
            super().check_heads()

    def _check_accuracies(self) -> None:
        """Check that there are enough classes for the accuracies that are measured."""
        head, split = self.model.get("head") or {}, self.report.split
        number = head.get("num_classes") or len(self.class_names())
        measured = [("model.head", head)] if split == "train" and head.get("cal_acc") else []
        for evaluator in evaluators_of(self.cfg, f"{split}_dataloader"):
            if type_name(evaluator) == "Accuracy":
                measured.append((f"{split}_evaluator", evaluator))
        for path, settings in measured:
            topk = settings.get("topk", 1)
            most = topk if isinstance(topk, int) else max(topk, default=1)
            if 0 < number < most:
                remedy = f"set {path}.topk to numbers up to {number}, such as (1,)"
                self.add(ERROR, f"{path} measures top-{most} of {number} classes", "", remedy)

    def _look_at_folders(self) -> None:
        entries = sorted(Path(self.dataset.img_prefix).iterdir())
        folders = self.folders = [entry.name for entry in entries if entry.is_dir()]
        is_image = self.dataset.is_valid_file
        flat = [e for e in entries if is_image(e.name) and not e.is_dir()]
        if flat and not folders:
            detail = f"{len(flat)} images lie in it, the first is {flat[0].name}"
            self.add(ERROR, "has no class folders", detail, FLAT)
        for path in flat if folders else ():
            self.add(WARNING, "lies in no class folder and is left out", "", FLAT, path)
        for name in folders:
            if name.startswith("."):
                remedy = "remove it: mmpretrain numbers it as a class, before the others"
                path = os.path.join(self.dataset.img_prefix, name)
                self.add(ERROR, "is a hidden folder among the classes", "", remedy, path)
        names = self.dataset.CLASSES
        if names and len(names) != len(folders):
            detail = f"{len(folders)} folders, {len(names)} classes"
            remedy = "complete the folders, or set metainfo.classes: mmpretrain refuses them"
            self.add(ERROR, "has another number of folders than of classes", detail, remedy)
        elif names and moved_class(*([n.casefold() for n in given] for given in (folders, names))):
            remedy = "write metainfo.classes in the order of the sorted folders: labels follow them"
            detail = f"classes {name_list(names)}, folders {name_list(folders)}"
            self.add(ERROR, "has classes in another order than their folders", detail, remedy)

    def read(self) -> None:
        root, file = self.dataset.img_prefix, self.dataset.ann_file
        for name in self.folders:
            self._check_folder(os.path.join(root, name))
        lines = self._check_lines(file, root) if file else []
        self.samples = self.toolbox_samples() or lines
        if not self.samples and not file:  # mmpretrain cannot read the folders: images are checked
            paths = [Path(parent, name) for parent, _, names in os.walk(root) for name in names]
            valid = [p for p in sorted(paths) if self.dataset.is_valid_file(p.name) and p.is_file()]
            self.samples = [dict(img_path=str(path)) for path in valid]
        self._check_labels()

    def _check_folder(self, folder: str) -> None:
        paths = [
            Path(parent, name)
            for parent, _, names in os.walk(folder, followlinks=True)
            for name in sorted(names)
        ]
        if not sum(map(self._check_file, paths)):
            remedy = "it still takes a label; fill or remove it"
            self.add(WARNING, "class folder holds no image", "", remedy, folder)

    def _check_file(self, path: Path) -> bool:
        """Check a file in a class folder; True if mmpretrain takes it for an image."""
        if not self.dataset.is_valid_file(path.name):
            kinds = " ".join(sorted(self.dataset.extensions))
            remedy = f"images end in {kinds}; rename, remove or ignore it"
            self.add(WARNING, "is left out, being no image by its name", "", remedy, path)
        elif path.name.startswith("."):
            self.add(WARNING, "is left out, being hidden", "", "rename or remove it", path)
        elif not path.is_file():
            link = "a link that leads nowhere" if path.is_symlink() else "no regular file"
            remedy = "mmpretrain leaves it out silently; replace or remove it"
            self.add(ERROR, f"is {link}", "", remedy, path)
        else:
            return True
        return False

    def _check_lines(self, file: str, root: str) -> list[dict]:
        """Check the lines of the ann_file, and return samples of those that can be read."""
        samples, labels = [], defaultdict(list)
        for number, line in enumerate(Path(file).read_text("utf-8", "replace").splitlines(), 1):
            name, _, label = line.strip().rpartition(" ")
            if not self.dataset.with_label:
                name, label = line, "0"
            elif not name or not label.lstrip("-").isdigit():
                remedy = "write 'FILE LABEL', the label being the number of the class from 0"
                detail = f"line {number}: {line[:60]!r}"
                self.add(ERROR, "line is no file name and label", detail, remedy)
                continue
            path = os.path.join(root, name)
            labels[path].append(int(label))
            samples.append(dict(img_path=path, gt_label=int(label)))
        remedy = f"keep one of the lines in {file}"
        for path, found in labels.items():
            if len(set(found)) > 1:
                kind = "is listed with different labels"
                self.add(ERROR, kind, name_list(found), remedy, path)
            elif len(found) > 1:
                self.add(WARNING, "is listed more than once", f"{len(found)} times", remedy, path)
        if not samples:
            self.add(ERROR, "lists no image")
        return samples

    def _check_labels(self) -> None:
        counts = Counter(s["gt_label"] for s in self.samples if isinstance(s.get("gt_label"), int))
        if not counts:
            return
        names = self.class_names() or tuple(str(label) for label in range(len(counts)))
        self.report.classes = {name: counts[label] for label, name in enumerate(names)}
        num_classes = (self.model.get("head") or {}).get("num_classes")
        limit = num_classes or len(names)
        for label in sorted(counts):
            if not 0 <= label < limit:
                name = f", class {names[label]}" if 0 <= label < len(names) else ""
                first = next(s["img_path"] for s in self.samples if s.get("gt_label") == label)
                detail = f"label {label}{name}: {counts[label]} images, the first is {first}"
                remedy = f"labels go from 0 to {limit - 1}, num_classes of the head is {limit}"
                self.add(ERROR, "label is out of range", detail, remedy)
        if self.dataset.ann_file:  # of folders, each has a line of its own
            self.warn_of_empty_classes("image")


def compare_folders(first: DatasetCheck, check: DatasetCheck) -> None:
    """Check that class folders number the classes of two data sets in the same way.

    mmpretrain numbers the folders of each set by themselves: where one lacks a class, those after
    it get other labels, and the accuracy is that of other classes.
    """
    names, expected = check.folders, first.folders
    pairs = enumerate(zip_longest(expected, names))
    differing = next(((i, want, own) for i, (want, own) in pairs if own and want != own), None)
    if differing:
        label, want, own = differing
        there = repr(want) if want else "no class"
        kind = f"gives label {label} to {own!r}, but {first.main_file} to {there}"
        detail = f"{len(names)} and {len(expected)} class folders, of which only one has "
        detail += name_list(sorted(set(names) ^ set(expected)))
        remedy = (
            "give both the same folders, empty where a class has no image: labels are the "
            "numbers of the class folders in alphabetical order"
        )
        check.add(ERROR, kind, detail, remedy)
    elif len(names) < len(expected):
        kind = f"has no folders for the last classes of {first.main_file}"
        detail = name_list(expected[len(names) :])
        check.add(WARNING, kind, detail, "add them, empty if need be")
