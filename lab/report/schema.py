"""What a table of the paper consists of, for the data in tables.py and ablations.py.

Only figures that the paper's text states are `stated`. What follows from them is `derived`, what
this project chose itself is `chosen`; docs/architecture.md keeps the same words. Nothing here was
measured: parameters, FLOPs and accuracies of this project are taken anew for every report.
"""

from dataclasses import dataclass, field

PAPER = "stated in the text"


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


@dataclass(frozen=True)
class Budget:
    """Parameters (`params`, in millions) or FLOPs (`macs`, in billions) that a model must meet.

    The figure is text, so that it keeps its precision. `about`: only known as the rounded figure,
    so that the deviation counts from the nearest number that rounds to it.
    """

    quantity: str
    figure: str
    source: str
    about: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        label: the row's name in the table.
        config: the config below configs/, None for a figure quoted for comparison.
        stated: figures from the paper, by metric name or 'params', 'macs', as text.
        source: where `stated` comes from.
        budgets: what the model's counts are checked against.
        pretrained: the classifier whose checkpoint the paper's recipe starts from.
        remark: a sentence on the row.
    """

    label: str
    config: str | None
    stated: dict[str, str] = field(default_factory=dict)
    source: str = PAPER
    budgets: tuple[Budget, ...] = ()
    pretrained: str | None = None
    remark: str = ""


@dataclass(frozen=True)
class Delta:
    """What the text says of two rows' difference, `config` minus `base`.

    `stated` holds signed figures as text ('+0.06'), or words where the text has only words; `why`
    is shown where this project's own difference rounds to another figure.
    """

    label: str
    config: str
    base: str
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


def classifier(stem: str) -> str:
    """The config of a classifier."""
    return f"configs/mmpretrain/{stem}_in1k.py"


def derived(params: str, macs: str) -> tuple[Budget, ...]:
    """The budget of a model whose counts docs/architecture.md derives."""
    return (Budget("params", params, "derived"), Budget("macs", macs, "derived"))
