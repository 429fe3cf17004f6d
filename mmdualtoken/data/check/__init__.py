"""Check of the data of a config, before training.

`check_data` takes a quick look, as tools/train.py does each time. `check_config` begins with the
same look and then reads every file and every annotation, for tools/check_data.py.
"""

import copy
import os
from collections.abc import Callable, Iterable
from itertools import chain, product

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmdualtoken.data.check import official, pool
from mmdualtoken.data.check.anchors import stride_rules
from mmdualtoken.data.check.classes import loss_rules, name_rules, names_in
from mmdualtoken.data.check.classification import ClassificationCheck, compare_folders
from mmdualtoken.data.check.coco import CocoCheck
from mmdualtoken.data.check.dataset import DatasetCheck, build
from mmdualtoken.data.check.findings import ERROR, WARNING, Finding, Report
from mmdualtoken.data.check.segmentation import SegmentationCheck
from mmdualtoken.data.layout import (
    evaluator_problems,
    file_evaluators,
    layout_problems,
    locate_data,
)
from mmdualtoken.errors import InputError, log_warning
from mmdualtoken.weights.fitting import moved_class

__all__ = ["ERROR", "SPLITS", "WARNING", "Finding", "Report", "check_config", "check_data"]

SPLITS = ("train", "val", "test")
#: The check for a class of a toolbox; one that reads annotations otherwise gets the general check.
KINDS = {
    ("mmdet", "CocoDataset"): CocoCheck,
    ("mmseg", "BaseSegDataset"): SegmentationCheck,
    ("mmpretrain", "CustomDataset"): ClassificationCheck,
}
LOGGED = 3  # warnings of a kind that the quick look shows
READERS = ("load_data_list", "parse_data_info")


def kind_of(dataset: object) -> type[DatasetCheck]:
    """Return the check for a data set: that of the class whose way of reading it inherits."""
    own = type(dataset)
    for parent in own.__mro__:
        check = KINDS.get((parent.__module__.partition(".")[0], parent.__name__))
        if check:
            same = all(getattr(own, r, None) is getattr(parent, r, None) for r in READERS)
            return check if same else DatasetCheck
    return DatasetCheck


def _look(cfg: Config, splits: Iterable[str], quick: bool) -> tuple[list[DatasetCheck], list]:
    """Look at files, folders and classes; return a check and a report for each data set.

    A data set that several splits share has one check.
    """
    init_default_scope(cfg.get("default_scope") or "mmengine")
    checks, reports = [], []
    for split in splits:
        loader, files = f"{split}_dataloader", set()
        for config in locate_data(cfg, loader):
            check = next((c for c in checks if c.config == config), None)
            if check:
                reports.append(Report(split, check.report.name, same_as=check.report.split))
            else:
                names = names_in(config)
                breaches = list(name_rules(names, cfg.get("default_scope")))
                # Without their files or classes some data sets cannot even be built.
                broken = any(breach[0] == ERROR for breach in breaches)
                broken = broken or any(layout_problems(config))
                dataset = None if broken else build(config, quick)
                check = kind_of(dataset)(cfg, config, dataset, split)
                checks.append(check)
                reports.append(check.report)
                named = isinstance(names, str) and os.path.isfile(names)
                for breach in breaches:
                    check.add(*breach, file=names if named else "")
                check.look(quick)
                if split != "train" and cfg[loader].get("drop_last"):
                    kind = "drop_last=True excludes an incomplete last batch from the evaluation"
                    check.add(WARNING, kind, "", f"set {loader}.drop_last=False")
            for path, problem in evaluator_problems(cfg, loader):
                check.add_missing(path, problem)
            if isinstance(check, CocoCheck):
                files.add(os.path.realpath(check.dataset.ann_file))
        for file in (evaluator["ann_file"] for evaluator in file_evaluators(cfg, loader)):
            if files and os.path.realpath(file) not in files:
                kind = f"is not the file that {split}_evaluator compares the results with"
                remedy = "set its ann_file to that of the data set, unless it lists the same images"
                check.add(WARNING, kind, file, remedy)
    if checks and (problem := preprocessor_problem(cfg)):
        remedy = "give 1 or 3 values, or mean=None and std=None for other numbers of channels"
        checks[0].add(ERROR, "cannot build the data_preprocessor", problem, remedy, cfg.filename)
    model = cfg.get("model") or {}
    breaches = chain(loss_rules(model, cfg.get("default_scope")), stride_rules(model))
    for breach in breaches if checks else ():
        checks[0].add(*breach, file=cfg.filename)
    return checks, reports


def compare_splits(checks: list[DatasetCheck]) -> None:
    """Check that all data sets give the same labels to the same classes."""
    for first, check in product(checks[:1], checks[1:]):
        if first.folders and check.folders:
            compare_folders(first, check)
        elif moved := moved_class(first.numbered_classes(), check.numbered_classes()):
            kind = f"numbers the classes otherwise than {first.main_file}"
            remedy = "give both the classes in one order; in mmdet that of the files' categories"
            check.add(ERROR, kind, moved, remedy)
        own, other = (getattr(c.dataset, "reduce_zero_label", None) for c in (check, first))
        if own is not None and other is not None and bool(own) != bool(other):
            kind = f"has reduce_zero_label={own}, {first.main_file} has {other}"
            remedy = "set the same, unless their masks are numbered differently"
            check.add(WARNING, kind, "all labels differ by one", remedy)


def preprocessor_problem(cfg: Config) -> str:
    """What the model's data_preprocessor has against its arguments, '' for nothing.

    Which numbers of means it takes differs by toolbox and stack.
    """
    preprocessor = cfg.get("model", {}).get("data_preprocessor") or {}
    try:
        if "type" in preprocessor:
            MODELS.build(copy.deepcopy(preprocessor))
    except AssertionError as error:
        return str(error)
    return ""


def check_data(cfg: Config, *dataloaders: str) -> None:
    """Check that the data of dataloaders is there and fits the config, without reading it all.

    A relative data_root that the working directory lacks is looked for in the project, too; then
    the paths in `cfg` are changed. Dataloaders have names such as 'train_dataloader'.

    Raises:
        InputError: something is missing or broken; the message names the path and the remedy.
    """
    splits = [loader.removesuffix("_dataloader") for loader in dataloaders]
    checks, reports = _look(cfg, splits, True)
    compare_splits(checks)
    for finding in (finding for report in reports for finding in report.findings):
        if finding.severity == ERROR:
            raise InputError(finding.sentence())
    for line in (line for report in reports for line in report.lines(WARNING, LOGGED)):
        log_warning(line)


def check_config(
    cfg: Config,
    splits: Iterable[str] = SPLITS,
    workers: int = 0,
    timeout: float = 60.0,
    show_progress: Callable[[Iterable, int, str], Iterable] | None = None,
) -> list[Report]:
    """Check every file and annotation of the data sets of a config.

    Args:
        cfg: not changed.
        splits: those to check; a split that the config lacks is passed over.
        workers: number of processes that read images; 0 reads here, without a limit of time.
        timeout: seconds that one sample may take.
        show_progress: called with the results as they come, their number and the name of the data
            set; yields them again.

    Returns:
        One report for each data set, in the order of `splits`.

    Raises:
        InputError: a data set cannot be built from the config at all.
    """
    checks, reports = _look(copy.deepcopy(cfg), splits, False)
    for check in checks:
        if check.dataset is None:
            continue
        check.read()
        count = check.report.images = len(check.samples)
        official.compare(check)
        inspections = pool.run(check.inspect, count, workers, timeout, check.lost)
        if show_progress:
            inspections = show_progress(inspections, count, check.report.name)
        for inspection in inspections:
            check.merge(inspection)
        check.finish()
    compare_splits(checks)
    for report in reports:
        report.sort()
        if report.same_as:
            report.images = next(c.report.images for c in checks if c.report.name == report.name)
    return reports
