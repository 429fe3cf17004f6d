"""Check of any data set of mmdet, mmseg or mmpretrain: every sample through its own loaders."""

import contextlib
import copy
import io
import random
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS

from mmdualtoken.config_files import type_name
from mmdualtoken.data.check.classes import head_rules, list_rules, names_in
from mmdualtoken.data.check.findings import ERROR, WARNING, Finding, Report, name_list
from mmdualtoken.data.check.images import UNUSUAL, check_image
from mmdualtoken.data.layout import layout_advice, layout_problems, missing_hint
from mmdualtoken.data.loading import CheckedLoadImageFromFile
from mmdualtoken.errors import InputError

TRIALS = 3  # runs of a pipeline with random steps on an unusual image
NO_USE = "the model cannot learn them, and the metric cannot measure them"
#: Of one sample: its findings, its size as loaded, and what it adds to each class, by label.
Inspection = tuple[list[Finding], tuple[int, int] | None, Counter]
#: Packages whose transforms are known here.
TOOLBOXES = {"mmcv", "mmdet", "mmdualtoken", "mmpretrain", "mmseg"}


def is_own(step: Any) -> bool:
    """Return whether a transform is a user's: what it makes of a file, it alone knows."""
    return type(step).__module__.partition(".")[0] not in TOOLBOXES


def build(dataset: ConfigDict, quick: bool) -> Any:
    """Build a data set without reading its annotations; None if quick and its class cannot.

    Raises:
        InputError: its class or a transform is unknown, or an argument is wrong.
    """
    settings = copy.deepcopy(dataset)
    try:
        try:
            return DATASETS.build({**settings, "lazy_init": True})
        except TypeError:
            return None if quick else DATASETS.build(settings)
    except Exception as error:  # a config may be wrong in any way
        raise InputError(
            f"The data set {settings.get('type')} cannot be built from the config "
            f"({type(error).__name__}: {error})"
        ) from error


class DatasetCheck:
    """Check of one data set; kinds of data sets add rules.

    `config` is the part of `cfg` that describes the data set; `dataset` is it, built, or None if
    that is not possible.
    """

    unit = ""

    def __init__(self, cfg: Config, config: ConfigDict, dataset: Any, split: str) -> None:
        self.cfg, self.config, self.dataset = cfg, config, dataset
        self.advice = layout_advice(cfg, config)
        where, name = config.get("data_root") or "", type_name(config)
        if dataset is not None:
            prefixes = getattr(dataset, "data_prefix", None) or {}
            folder = next((p for p in prefixes.values() if isinstance(p, str)), "")
            where, name = getattr(dataset, "ann_file", "") or folder, type(dataset).__name__
        self.report = Report(split, f"{name} {where}".strip(), unit=self.unit)
        #: The file or folder to name where a finding is about the whole data set.
        self.main_file = where or name
        self.samples: list[dict] = []
        #: Folders of classes in the order of their labels.
        self.folders: list[str] = []
        # Files whose annotations have errors; the loaders need not repeat them.
        self.explained: set[str] = set()
        self.found = self.report.findings
        steps = getattr(getattr(dataset, "pipeline", None), "transforms", [])
        loaders = [t for t in steps if isinstance(t, LoadImageFromFile)]
        checked = [t for t in loaders if isinstance(t, CheckedLoadImageFromFile)]
        #: Whether training does without broken images.
        self.skips_broken = any(loader.on_error == "skip" for loader in checked)
        for loader in checked:
            loader.on_error = "raise"
        self.loader = loaders[0] if loaders else LoadImageFromFile()
        #: Steps that read an image in another way than `loader` alone; empty if it does.
        self.leading = [] if steps and steps[0] in loaders and not is_own(steps[0]) else steps
        #: Whether transforms of the user may change what the files hold.
        self.has_own = any(map(is_own, steps))
        self.annotation_loaders = [t for t in steps if isinstance(t, LoadAnnotations)]
        self.model = cfg.get("model") or {}
        # mmpretrain takes it from the top level where the model has none.
        preprocessor = self.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
        own = (self.model.get("backbone") or {}).get("in_channels")
        self.channels = own or len(preprocessor.get("mean") or "RGB")

    def add(self, severity: str, kind: str, detail="", remedy="", file="") -> None:
        """Add a finding, about the data set as a whole unless `file` is given."""
        self.found.append(Finding(severity, str(file or self.main_file), kind, detail, remedy))

    def add_failure(self, error: Exception, file: str) -> None:
        """Add an error about a file at which loading raises."""
        detail = f"{type(error).__name__}: {error}"
        self.add(ERROR, "the loading part of the pipeline fails on it", detail, "", file)

    def add_missing(self, path: str, problem: str, detail: str = "") -> None:
        """Add an error about a file that is not there, with advice on the first of them."""
        known = any(finding.remedy == self.advice for finding in self.found)
        detail = f"{detail}working directory {Path.cwd()}"
        needless = known or "; write " in problem  # by missing_hint: it is there
        self.add(ERROR, problem, detail, "" if needless else self.advice, path)

    def look(self, quick: bool) -> None:
        """Check that files and folders are there, and what needs no reading of all annotations.

        If `quick`, this is all, so that a part of the annotations is to be read.
        """
        for path, problem in layout_problems(self.config):
            self.add_missing(path, problem)
        if self.dataset is not None:
            file = getattr(self.dataset, "ann_file", None)
            if isinstance(file, str) and file.endswith(".txt") and Path(file).is_file():
                for breach in list_rules(file):
                    self.add(*breach)
            self.check_heads()
            self._check_mixes()

    def _check_mixes(self) -> None:
        """Check that no transform of the data set's own pipeline needs several images."""
        for step in getattr(getattr(self.dataset, "pipeline", None), "transforms", ()):
            # As mmdet and mmseg name the method; the cached kinds keep images of their own.
            several = hasattr(step, "get_indexes") or hasattr(step, "get_indices")
            if several and not hasattr(step, "results_cache"):
                kind = f"has {type(step).__name__} in its pipeline, which needs several images"
                remedy = "put it into the pipeline of a MultiImageMixDataset around the data set"
                self.add(ERROR, kind, "", remedy)

    def check_first_image(self) -> None:
        """Check that the first of `samples` is there, as the others will then be."""
        if not self.samples or self.skips_broken:
            return
        path = self.samples[0].get("img_path")
        if isinstance(path, str) and "://" not in path and not Path(path).exists():
            self.add_missing(path, f"does not exist{missing_hint(path)}", "the first image, ")

    def check_heads(self) -> None:
        """Compare the model's heads with the classes."""
        metainfo = getattr(self.dataset, "metainfo", None) or {}
        names = metainfo.get("thing_classes") or self.class_names()  # of panoptic sets
        for breach in head_rules(self.cfg, names, bool(names_in(self.config))):
            self.add(*breach)

    def read(self) -> None:
        """Check all annotations and fill `samples`."""
        self.samples = self.toolbox_samples()
        if not self.samples and not self.has_errors():
            self.add(ERROR, "holds no image")

    def finish(self) -> None:
        """Check the data set as a whole, after all samples."""

    def toolbox_samples(self) -> list[dict]:
        """Return the samples as the toolbox reads them; none if it fails, which is a finding."""
        MMLogger.get_current_instance()  # else it would be made in, and bound to, the redirection
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
                samples = self.dataset.load_data_list() or []
                self.dataset.data_list = samples
                left = self.dataset.filter_data() if samples else None
        except Exception as error:  # of any kind, as the annotations are
            toolbox = type(self.dataset).__module__.split(".")[0]
            kind = f"{toolbox} cannot read it, and training cannot start"
            self.add(ERROR, kind, f"{type(error).__name__}: {error}")
            return []
        if left == []:
            detail = f"filter_cfg={dict(self.dataset.filter_cfg or {})}"
            remedy = "set a smaller min_size, or filter_empty_gt=False"
            self.add(ERROR, "has no image that its filter_cfg leaves in training", detail, remedy)
        return samples

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes in the order of the labels; may be empty."""
        names = (getattr(self.dataset, "metainfo", None) or {}).get("classes") or ()
        return (names,) if isinstance(names, str) else tuple(names)

    def numbered_classes(self) -> Sequence[str]:
        """Return the names of the classes in the order in which the toolbox numbers them."""
        return self.class_names()

    def warn_of_empty_classes(self, thing: str, remedy: str = NO_USE) -> None:
        """Warn of classes without any `thing` in a data set that has some."""
        empty = [name for name, count in self.report.classes.items() if not count]
        if empty and any(self.report.classes.values()):
            self.add(WARNING, f"classes have no {thing}", name_list(empty), remedy)

    def inspect(self, index: int) -> Inspection:
        """Check the files of one sample; runs in another process and raises nothing."""
        sample = {**self.samples[index], "sample_idx": index}
        report_findings, self.found = self.found, []
        self.size, self.counts = None, Counter()
        try:
            self._inspect_sample(sample)
        except Exception as error:  # of any kind: transforms do not expect broken data
            file = self.file_of(sample)
            if not self.has_errors() and file not in self.explained:
                self.add_failure(error, file)
        found, self.found = self.found, report_findings
        return found, self.size, self.counts

    def has_errors(self) -> bool:
        """Return whether the present sample has errors so far."""
        return any(finding.severity == ERROR for finding in self.found)

    def file_of(self, sample: dict) -> str:
        """Return the file to name where a finding is about a sample."""
        path = sample.get("img_path")
        return path if isinstance(path, str) else f"{self.main_file} sample {sample['sample_idx']}"

    def _inspect_sample(self, sample: dict) -> None:
        path = sample.get("img_path")
        if not isinstance(path, str):  # in memory, as in CIFAR10, or several files
            self._run_pipeline(sample, "the pipeline fails on it")
            return
        add = partial(self.add, file=path)
        if self.leading:
            results = copy.deepcopy(sample)
            for step in self.leading:
                if results is not None and "img" not in results:
                    results = step(results)
            image, turned = (results or {}).get("img"), ""
            image = image if isinstance(image, np.ndarray) else None
        else:
            image, turned = check_image(path, self.loader, self.channels, add)
        if image is None:
            return
        self.size = (image.shape[1], image.shape[0])
        self.inspect_files(sample, image, turned)
        results = copy.deepcopy(sample)
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        for transform in self.annotation_loaders:
            results = transform(results)
        self.inspect_annotations(sample, results)
        unusual = any(finding.kind in UNUSUAL for finding in self.found)
        if unusual and self.is_used(sample):
            self._run_pipeline(sample, "its shape breaks the pipeline")

    def inspect_files(self, sample: dict, image: np.ndarray, turned: str) -> None:
        """Check the files that belong to an image, before the transforms load them.

        `turned` describes how the loader treats an EXIF orientation; it is '' without one.
        """

    def inspect_annotations(self, sample: dict, results: dict) -> None:
        """Check the annotations that the pipeline's transforms loaded."""

    def is_used(self, sample: dict) -> bool:
        """Return whether the data set yields the sample, and not only lists it."""
        return True

    def _run_pipeline(self, sample: dict, kind: str) -> None:
        """Run the whole pipeline; an exception is a finding of `kind`."""
        for seed in range(TRIALS):
            random.seed(seed)
            np.random.seed(seed)
            try:
                self.dataset.pipeline(copy.deepcopy(sample))
            except Exception as error:  # of any kind, by transform
                size = "{}x{} px, ".format(*self.size) if self.size else ""
                detail = f"{size}{type(error).__name__}: {error}"
                remedy = "remove it from the data set, or choose transforms that accept it"
                self.add(ERROR, kind, detail, remedy, self.file_of(sample))
                return

    def lost(self, index: int, reason: str) -> Inspection:
        """Return the result for a sample whose process took too long or died."""
        remedy = "try `python -c 'import cv2; cv2.imread(FILE)'`; replace the file if that fails"
        file = self.file_of({**self.samples[index], "sample_idx": index})
        return [Finding(ERROR, file, "could not be checked", reason, remedy)], None, Counter()

    def merge(self, inspection: Inspection) -> None:
        """Add the result of a sample to the report."""
        report = self.report
        found, size, counts = inspection
        report.findings += found
        for label, number in counts.items():
            report.classes[self.class_names()[label]] += number
        if size:
            # Ties go by width, so that the order of the work does not show.
            sizes = [s for s in (report.smallest, report.largest, size) if s]
            sizes.sort(key=lambda s: (s[0] * s[1], s))
            report.smallest, report.largest = sizes[0], sizes[-1]
