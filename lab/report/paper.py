"""The tables of the paper, from paper.yml: only what its text states, and what follows from it."""

from dataclasses import dataclass, field
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Metric:
    """An accuracy: `key` names it in MMEngine's logs, where it is 1/`scale` of the printed one."""

    name: str
    label: str
    key: str
    scale: float = 1
    unit: str = ""


TOP1 = Metric("top1", "top-1", "accuracy/top1", unit=" %")
BOX = Metric("box_ap", "box AP", "coco/bbox_mAP", 100)
MASK = Metric("mask_ap", "mask AP", "coco/segm_mAP", 100)
MIOU = Metric("miou", "mIoU", "mIoU", unit=" %")
METRICS = {metric.name: metric for metric in (TOP1, BOX, MASK, MIOU)}


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        label: the row's name in the table.
        config: the config, from the clone's root; None for a figure quoted for comparison.
        stated: figures from the paper, by metric name or 'params', 'macs'.
        budgets: by their source, parameters (`params`, in millions) and FLOPs (`macs`, in
            billions) that the model's counts must meet; 'about' marks a figure known only rounded.
        source: where `stated` comes from.
        pretrained: the classifier whose checkpoint the paper's recipe starts from.
        remark: a sentence on the row.
    """

    label: str
    config: str | None
    stated: dict[str, str] = field(default_factory=dict)
    budgets: dict[str, dict[str, str]] = field(default_factory=dict)
    source: str = "stated in the text"
    pretrained: str | None = None
    remark: str = ""


@dataclass(frozen=True)
class Delta:
    """What the text says of two rows' difference: the first of `rows`, by label, minus the second.

    `stated` holds signed figures ('+0.06'), or words where the text has only words. The report
    shows `why` where this project's own difference rounds to another figure.
    """

    label: str
    rows: tuple[str, str]
    stated: dict[str, str]
    why: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the paper."""

    number: int
    title: str
    setting: str
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]
    deltas: tuple[Delta, ...] = ()
    remark: str = ""


def _make_rows(entry: dict, backbones: dict[str, str]) -> list[Row]:
    """Make the row of an entry, or one for each backbone where its config has {stem}."""
    if "{stem}" in entry.get("config", ""):
        entry = dict(entry)
        known, only = entry.pop("known", {}), entry.pop("only", backbones)
        rows = []
        for stem, name in backbones.items():
            if stem in only:
                filled = {k: v.format(stem=stem, name=name) for k, v in entry.items()}
                rows += _make_rows({**filled, **known.get(stem, {})}, backbones)
        return rows
    paths = {k: f"configs/{v}" for k, v in entry.items() if k in ("config", "pretrained")}
    return [Row(**{"config": None, **entry, **paths})]


def _read_tables() -> dict[int, Table]:
    """Read paper.yml; returns its tables by their numbers."""
    paper = yaml.safe_load(Path(__file__).with_name("paper.yml").read_text())
    tables = {}
    for entry in paper["tables"]:
        rows = [row for each in entry["rows"] for row in _make_rows(each, paper["backbones"])]
        deltas = tuple(Delta(**delta) for delta in entry.get("deltas", ()))
        metrics = tuple(METRICS[name] for name in entry["metrics"])
        parts = {"metrics": metrics, "rows": tuple(rows), "deltas": deltas}
        tables[entry["number"]] = Table(**{**entry, **parts})
    return tables


TABLES = _read_tables()
