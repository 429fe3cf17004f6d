"""Check of the data of a config: every file, every annotation, before training.

`mmdualtoken.data.preflight` looks at a few things before each training; this reads all.
"""

import copy
from collections.abc import Callable, Iterable

from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from mmdualtoken.data import preflight

from mmdualtoken.data.check import official, pool
from mmdualtoken.data.check.base import DatasetCheck, build
from mmdualtoken.data.check.classification import ClassificationCheck
from mmdualtoken.data.check.coco import CocoCheck, name_list
from mmdualtoken.data.check.findings import ERROR, WARNING, Finding, Inspection, Report
from mmdualtoken.data.check.segmentation import SegmentationCheck

__all__ = ["ERROR", "SPLITS", "WARNING", "Finding", "Inspection", "Report", "check_config"]

SPLITS = ("train", "val", "test")
# Toolbox and class that a check is for; whoever reads annotations otherwise gets the general one.
KINDS = {
    ("mmdet", "CocoDataset"): CocoCheck,
    ("mmseg", "BaseSegDataset"): SegmentationCheck,
    ("mmpretrain", "CustomDataset"): ClassificationCheck,
}
READERS = ("load_data_list", "parse_data_info")

Watch = Callable[[Iterable, int, str], Iterable]


def kind_of(dataset: object) -> type[DatasetCheck]:
    """The check for a data set: that of the class whose way of reading annotations it has."""
    for parent in type(dataset).__mro__:
        check = KINDS.get((parent.__module__.partition(".")[0], parent.__name__))
        if check:
            same = all(
                getattr(type(dataset), name, None) is getattr(parent, name, None)
                for name in READERS
            )
            return check if same else DatasetCheck
    return DatasetCheck


def check_dataset(
    cfg: Config, config: ConfigDict, split: str, workers: int, timeout: float, watch: Watch
) -> DatasetCheck:
    """Check one data set; see `check_config`."""
    # Without their files some data sets cannot even be built.
    dataset = None if any(preflight.layout_problems(config)) else build(config)
    check = kind_of(dataset)(cfg, config, dataset, split)
    check.prepare()
    official.compare(check)
    count = len(check.samples)
    inspections = pool.run(check.inspect, count, workers, timeout, check.lost)
    for inspection in watch(inspections, count, check.report.name):
        check.merge(inspection)
    check.finish()
    return check


def _compare_classes(checks: list[DatasetCheck]) -> None:
    """Folders of classes number the labels of each split for itself: they must be the same."""
    with_folders = [c for c in checks if getattr(c, "folders", None)]
    for check in with_folders[1:]:
        first = with_folders[0]
        if check.folders != first.folders:
            differing = sorted(set(check.folders) ^ set(first.folders))
            kind = (
                f"has other class folders than {first.report.split}, so labels mean other classes"
            )
            remedy = f"make the folders those of {first.main_file}; one may be empty"
            check.add(ERROR, kind, name_list(differing), remedy)


def check_config(
    cfg: Config,
    splits: Iterable[str] = SPLITS,
    workers: int = 0,
    timeout: float = 60.0,
    watch: Watch = lambda inspections, count, name: inspections,
) -> list[Report]:
    """Check every file and annotation of the data sets of a config.

    Args:
        cfg: a complete config of mmdet, mmseg or mmpretrain; not changed.
        splits: those to check; what the config does not have is passed over.
        workers: number of processes that read images; 0 reads here, without a limit of time.
        timeout: seconds that one sample may take.
        watch: called with the results as they come, their number and the name of the data set,
            and hands them on; for showing progress.

    Returns:
        One report for each data set, in the order of `splits`.

    Raises:
        InputError: a data set cannot be built from the config at all.
    """
    cfg = copy.deepcopy(cfg)
    init_default_scope(cfg.get("default_scope") or "mmengine")
    reports, seen = [], []
    for split in splits:
        loader = f"{split}_dataloader"
        for _, config in preflight.locate_data(cfg, loader):
            check = next((c for c, other in seen if other == config), None)
            if check:
                known = check.report
                reports.append(Report(split, known.name, known.images, same_as=known.split))
            else:
                check = check_dataset(cfg, config, split, workers, timeout, watch)
                seen.append((check, config))
                reports.append(check.report)
            for path, what in preflight.evaluator_problems(cfg, loader):
                check.add(ERROR, what.replace(f" {path}", ""), file=str(path))
    _compare_classes([check for check, _ in seen])
    for report in reports:
        report.sort()
    return reports
