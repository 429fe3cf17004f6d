"""Check of any data set of mmdet, mmseg or mmpretrain: every sample through its own loaders."""

import contextlib
import copy
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS

from mmdualtoken.data.loading import CheckedLoadImageFromFile
from mmdualtoken.data import preflight
from mmdualtoken.errors import InputError

from mmdualtoken.data.check.findings import ERROR, Finding, Inspection, Report
from mmdualtoken.data.check.images import ImageCheck, is_unusual

TRIALS = 3  # runs of a pipeline with random steps on an unusual image


def build(dataset: ConfigDict) -> Any:
    """Build a data set without reading its annotations, where its class can.

    Raises:
        InputError: its class or a transform is unknown, or an argument is wrong.
    """
    settings = copy.deepcopy(dataset)
    try:
        try:
            return DATASETS.build({**settings, "lazy_init": True})
        except TypeError:
            return DATASETS.build(settings)
    except Exception as error:  # a config may be wrong in any way
        raise InputError(
            f"The data set {settings.get('type')} cannot be built from the config "
            f"({type(error).__name__}: {error})"
        ) from error


class DatasetCheck:
    """Check of one data set; kinds of data sets add rules of their own.

    Args:
        cfg: the complete config.
        config: the part of it that describes the data set.
        dataset: the data set, built; None if its files are not there.
        split: 'train', 'val' or 'test'.
    """

    unit = ""

    def __init__(self, cfg: Config, config: ConfigDict, dataset: Any, split: str) -> None:
        self.cfg, self.config, self.dataset = cfg, config, dataset
        self.report = Report(split, self.name(), unit=self.unit)
        self.samples: list[dict] = []
        # Findings about samples from the annotations; the loaders need not repeat them.
        self.explained: set[str] = set()
        steps = getattr(getattr(dataset, "pipeline", None), "transforms", [])
        loaders = [t for t in steps if isinstance(t, LoadImageFromFile)]
        for loader in loaders:
            if isinstance(loader, CheckedLoadImageFromFile):
                loader.on_error = "raise"
        self.loader = loaders[0] if loaders else LoadImageFromFile()
        self.annotation_loaders = [t for t in steps if isinstance(t, LoadAnnotations)]
        model = cfg.get("model") or {}
        # mmpretrain takes it from the top level where the model has none.
        preprocessor = model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
        self.check_image = ImageCheck(self.loader, len(preprocessor.get("mean") or "RGB"))

    def name(self) -> str:
        """The class of the data set and the file or folder that defines it."""
        if self.dataset is None:
            return (
                f"{preflight.type_name(self.config)} {self.config.get('data_root') or ''}".strip()
            )
        where = getattr(self.dataset, "ann_file", "")
        prefixes = getattr(self.dataset, "data_prefix", None) or {}
        where = where or next((p for p in prefixes.values() if isinstance(p, str)), "")
        return f"{type(self.dataset).__name__} {where}".strip()

    @property
    def main_file(self) -> str:
        """The file or folder to name where a finding is about the whole data set."""
        return self.report.name.partition(" ")[2] or self.report.name

    def add(self, severity: str, kind: str, detail: str = "", remedy: str = "", file: str = ""):
        """Add a finding, about the data set as a whole unless `file` is given."""
        finding = Finding(severity, file or self.main_file, kind, detail, remedy)
        self.report.findings.append(finding)

    def prepare(self) -> None:
        """Check the annotations, and find the samples; runs before any image is read."""
        if self.dataset is None:
            self._tell_layout()
            return
        self.read()
        self.report.images = len(self.samples)

    def _tell_layout(self) -> None:
        remedy = preflight.layout_advice(self.cfg, self.config)
        for path, what in preflight.layout_problems(self.config):
            kind = what.replace(f" {path}", "")
            self.add(ERROR, kind, f"working directory {Path.cwd()}", remedy, str(path))
            remedy = ""  # the same for all

    def read(self) -> None:
        """Fill `samples` and check annotations."""
        self.samples = self.toolbox(lambda: self.dataset.load_data_list()) or []
        if not self.samples and not self.report.findings:
            self.add(ERROR, "holds no image")

    def toolbox(self, call: Callable[[], Any]) -> Any:
        """What the toolbox makes of the annotations; None if it fails, which is a finding."""
        MMLogger.get_current_instance()  # else it would be made in, and bound to, the redirection
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells its progress
                return call()
        except Exception as error:  # of any kind, as the annotations are
            toolbox = type(self.dataset).__module__.split(".")[0]
            kind = f"{toolbox} cannot read it, and training cannot start"
            self.add(ERROR, kind, f"{type(error).__name__}: {error}")
            return None

    def inspect(self, index: int) -> Inspection:
        """Check the files of one sample; runs in another process and raises nothing."""
        sample = {**self.samples[index], "sample_idx": index}
        inspection = Inspection()
        try:
            self.inspect_sample(sample, inspection)
        except Exception as error:  # of any kind: transforms do not expect broken data
            self._loader_failed(sample, inspection, error)
        return inspection

    def _loader_failed(self, sample: dict, inspection: Inspection, error: Exception) -> None:
        file = self.file_of(sample)
        known = any(f.severity == ERROR for f in inspection.findings)
        if not known and file not in self.explained:
            detail = f"{type(error).__name__}: {error}"
            inspection.findings.append(
                Finding(ERROR, file, "the loading part of the pipeline fails on it", detail)
            )

    def file_of(self, sample: dict) -> str:
        """The file to name where a finding is about a sample."""
        path = sample.get("img_path")
        return path if isinstance(path, str) else f"{self.main_file} sample {sample['sample_idx']}"

    def inspect_sample(self, sample: dict, inspection: Inspection) -> None:
        """Check one sample; an exception becomes a finding."""
        path = sample.get("img_path")
        if not isinstance(path, str):  # in memory, as in CIFAR10, or several files
            self._inspect_pipeline(sample, inspection, "the pipeline fails on it")
            return
        found, image, turned = self.check_image(path)
        inspection.findings += found
        if image is None:
            return
        inspection.size = (image.shape[1], image.shape[0])
        self.inspect_files(sample, image, turned, inspection)
        self.inspect_annotations(sample, self.load_annotations(sample, image), inspection)
        if is_unusual(image) and self.is_used(sample):
            self._inspect_pipeline(sample, inspection, "its shape breaks the pipeline")

    def load_annotations(self, sample: dict, image: np.ndarray) -> dict:
        """Run the transforms that load annotations, as they stand in the pipeline."""
        results = copy.deepcopy(sample)
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        for transform in self.annotation_loaders:
            results = transform(results)
        return results

    def inspect_files(
        self, sample: dict, image: np.ndarray, turned: str, inspection: Inspection
    ) -> None:
        """Check what goes with the image, before the pipeline's transforms load it.

        `turned` tells what the loader made of an EXIF orientation; it is '' without one.
        """

    def inspect_annotations(self, sample: dict, results: dict, inspection: Inspection) -> None:
        """Check what the pipeline's transforms loaded."""

    def is_used(self, sample: dict) -> bool:
        """Whether the data set hands out the sample, and not only lists it."""
        return True

    def _inspect_pipeline(self, sample: dict, inspection: Inspection, kind: str) -> None:
        """Run the whole pipeline; `kind` is what an exception means."""
        for seed in range(TRIALS):
            random.seed(seed)
            np.random.seed(seed)
            try:
                self.dataset.pipeline(copy.deepcopy(sample))
            except Exception as error:  # of any kind, by transform
                size = "{}x{} px, ".format(*inspection.size) if inspection.size else ""
                detail = f"{size}{type(error).__name__}: {error}"
                remedy = "take it out of the data set, or choose transforms that can take it"
                file = self.file_of(sample)
                inspection.findings.append(Finding(ERROR, file, kind, detail, remedy))
                return

    def lost(self, index: int, reason: str) -> Inspection:
        """The result for a sample whose process took too long or died."""
        remedy = "try `python -c 'import cv2; cv2.imread(FILE)'`; replace the file if that fails"
        file = self.file_of({**self.samples[index], "sample_idx": index})
        return Inspection([Finding(ERROR, file, "could not be checked", reason, remedy)])

    def merge(self, inspection: Inspection) -> None:
        """Add the result of a sample to the report."""
        report = self.report
        report.findings += inspection.findings
        for label, number in inspection.counts.items():
            name = self.class_names()[label]
            report.classes[name] = report.classes.get(name, 0) + number
        if size := inspection.size:
            area = size[0] * size[1]
            low, high = report.smallest, report.largest
            # Ties go by width, so that the order of the work does not show.
            if low is None or (area, size) < (low[0] * low[1], low):
                report.smallest = size
            if high is None or (area, size) > (high[0] * high[1], high):
                report.largest = size

    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels; may be empty."""
        return tuple((getattr(self.dataset, "metainfo", None) or {}).get("classes") or ())

    def finish(self) -> None:
        """Add what only the whole data set shows; runs after all samples."""
