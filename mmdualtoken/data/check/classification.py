"""Check of classification data: folders of classes, or a list of files with labels."""

import os
from collections import Counter, defaultdict
from functools import cached_property
from pathlib import Path

from mmdualtoken.data.check.base import DatasetCheck
from mmdualtoken.data.check.coco import name_list
from mmdualtoken.data.check.findings import ERROR, WARNING

FLAT = (
    "sort the images into one folder per class, or list them as lines 'FILE LABEL' in an ann_file "
    "(ImageNet: meta/train.txt, meta/val.txt); docs/data.md tells how for ImageNet"
)


class ClassificationCheck(DatasetCheck):
    """CustomDataset and ImageNet of mmpretrain, and data sets that read their files as they do."""

    unit = "images"

    @cached_property
    def num_classes(self) -> int | None:
        """Number of labels that the head can learn, if it says so."""
        return (self.cfg.get("model", {}).get("head") or {}).get("num_classes")

    def read(self) -> None:
        if not self.dataset.ann_file:
            self._check_folders()
            self.samples = self.toolbox(lambda: self.dataset.load_data_list()) or self._all_images()
        else:
            lines = self._check_lines()
            self.samples = self.toolbox(lambda: self.dataset.load_data_list()) or lines
        self._check_labels()

    # Folders of classes

    def _check_folders(self) -> None:
        root = Path(self.dataset.img_prefix)
        entries = sorted(root.iterdir())
        if not self.dataset.with_label:
            return
        self.folders = [entry.name for entry in entries if entry.is_dir()]
        valid = self.dataset.is_valid_file
        flat = [e for e in entries if not e.is_dir() and valid(e.name)]
        if flat and not self.folders:
            detail = f"{len(flat)} images lie in it, the first is {flat[0].name}"
            self.add(ERROR, "has no class folders", detail, FLAT)
        for path in flat if self.folders else ():
            self.add(WARNING, "lies in no class folder and is left out", "", FLAT, str(path))
        for name in self.folders:
            self._check_folder(root / name)
        names = self.dataset.CLASSES
        if names and len(names) != len(self.folders):
            detail = f"{len(self.folders)} folders, {len(names)} classes"
            remedy = "mmpretrain refuses them; complete the folders, or set metainfo.classes"
            self.add(ERROR, "number of folders and classes differ", detail, remedy)
        elif names and sorted(names) == self.folders != list(names):
            remedy = "labels follow the sorted folders: sort metainfo.classes, too"
            detail = f"classes {name_list(list(names))}, folders {name_list(self.folders)}"
            self.add(ERROR, "classes are named in another order than their folders", detail, remedy)

    def _check_folder(self, folder: Path) -> None:
        if folder.name.startswith("."):
            remedy = (
                "mmpretrain takes it for a class, which moves the labels of the others; remove it"
            )
            self.add(ERROR, "is a hidden folder among the classes", "", remedy, str(folder))
        count = 0
        for parent, _, names in os.walk(folder, followlinks=True):
            for name in sorted(names):
                path = Path(parent, name)
                count += self._check_file(path)
        if not count:
            remedy = "it still takes a label; fill or remove it"
            self.add(WARNING, "class folder holds no image", "", remedy, str(folder))

    def _check_file(self, path: Path) -> bool:
        """Check a file in a class folder; True if mmpretrain takes it for an image."""
        if not self.dataset.is_valid_file(path.name):
            kinds = " ".join(sorted(self.dataset.extensions))
            remedy = f"images end in {kinds}; rename, remove or ignore it"
            self.add(WARNING, "is left out, being no image by its name", "", remedy, str(path))
        elif path.name.startswith("."):
            self.add(WARNING, "is left out, being hidden", "", "rename or remove it", str(path))
        elif not path.is_file():
            link = "a link that leads nowhere" if path.is_symlink() else "no regular file"
            remedy = "mmpretrain leaves it out silently; replace or remove it"
            self.add(ERROR, f"is {link}", "", remedy, str(path))
        else:
            return True
        return False

    def _all_images(self) -> list[dict]:
        """Samples without labels, where mmpretrain cannot read the folders."""
        root, valid = self.dataset.img_prefix, self.dataset.is_valid_file
        paths = [Path(parent, name) for parent, _, names in os.walk(root) for name in names]
        return [dict(img_path=str(p)) for p in sorted(paths) if valid(p.name) and p.is_file()]

    # A list of files with labels

    def _check_lines(self) -> list[dict]:
        """Check the lines of the ann_file, and return samples of those that can be read."""
        file, root = self.dataset.ann_file, self.dataset.img_prefix
        samples, labels = [], defaultdict(list)
        for number, line in enumerate(Path(file).read_text().splitlines(), 1):
            name, _, label = line.strip().rpartition(" ")
            if not self.dataset.with_label:
                name, label = line, "0"
            elif not name or not label.lstrip("-").isdigit():
                remedy = "write 'FILE LABEL', the label being the number of the class from 0"
                what = "line is no file name and label"
                self.add(ERROR, what, f"line {number}: {line[:60]!r}", remedy)
                continue
            path = os.path.join(root, name)
            labels[path].append(int(label))
            samples.append(dict(img_path=path, gt_label=int(label)))
        for path, found in labels.items():
            if len(set(found)) > 1:
                remedy = f"keep one of the lines in {file}"
                detail = name_list(found)
                self.add(ERROR, "is listed with different labels", detail, remedy, path)
            elif len(found) > 1:
                remedy = f"keep one of the lines in {file}"
                self.add(WARNING, "is listed more than once", f"{len(found)} times", remedy, path)
        if not samples:
            self.add(ERROR, "lists no image")
        return samples

    # Labels

    def _check_labels(self) -> None:
        counts = Counter(s["gt_label"] for s in self.samples if isinstance(s.get("gt_label"), int))
        if not counts:
            return
        names = self.class_names() or tuple(str(label) for label in range(len(counts)))
        self.report.classes = {name: counts[label] for label, name in enumerate(names)}
        limit = self.num_classes or len(names)
        for label in sorted(counts):
            if not 0 <= label < limit:
                name = f", class {names[label]}" if 0 <= label < len(names) else ""
                first = next(s["img_path"] for s in self.samples if s.get("gt_label") == label)
                detail = f"label {label}{name}: {counts[label]} images, the first is {first}"
                remedy = f"labels go from 0 to {limit - 1}, num_classes of the head is {limit}"
                self.add(ERROR, "label is out of range", detail, remedy)
        empty = [name for name, count in self.report.classes.items() if not count]
        if empty and self.dataset.ann_file:  # of folders, each has a line of its own
            remedy = "nothing can be learnt or measured for them"
            self.add(WARNING, "classes have no image", name_list(empty), remedy)
        if self.num_classes and len(names) < self.num_classes:
            detail = f"{len(names)} classes, num_classes={self.num_classes}"
            remedy = "set num_classes of the head to the number of classes"
            self.add(WARNING, "has fewer classes than the head", detail, remedy)
