"""Bringing together what the paper states, what is counted now, and what runs have left."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from mmengine.config import Config

from lab.report.commands import Job, project_file, recipe_gpus
from lab.report.mini import mini_data, mini_settings
from lab.report.runs import Run
from lab.report.schema import Budget, Delta, Metric, Row, Table
from mmdualtoken.errors import InputError
from mmdualtoken.export.measure import Complexity, measure, quiet

TOLERANCE = 0.01
UNITS = {"params": (1e6, "M"), "macs": (1e9, "G")}


@dataclass(frozen=True)
class Options:
    """What decides the commands.

    Args:
        work_dirs: folder of the work dirs.
        gpus: GPUs to train with, None for as many as each config's batch size is meant for.
        from_imagenet: whether detectors and segmentors start from Table 2's checkpoints.
        mini: whether to use the small versions of the configs, below `work_dirs`/mini.
    """

    work_dirs: Path = Path("work_dirs")
    gpus: int | None = None
    from_imagenet: bool = False
    mini: bool = False

    @property
    def root(self) -> Path:
        return self.work_dirs / "mini" if self.mini else self.work_dirs


@cache
def _load(path: Path) -> Config:
    with quiet():
        return Config.fromfile(path)


def read_config(name: str) -> tuple[Path, Config]:
    """A config of the project by its name from the root; it is read once.

    Raises:
        InputError: it is not there.
    """
    path = project_file(name)
    if not path.is_file():
        raise InputError(f"The config {name} is missing.")
    return path, _load(path)


def make_job(row: Row, options: Options) -> Job:
    """What trains and tests a row.

    Raises:
        InputError: a config is missing.
    """
    path, cfg = read_config(row.config)
    work_dir = options.root / path.stem
    gpus = options.gpus or recipe_gpus(cfg)
    if options.mini:
        cfg = deepcopy(cfg)
        cfg.merge_from_dict(
            mini_settings(cfg, mini_data(options.root, cfg.default_scope), str(work_dir))
        )
        path, gpus = options.root / path.name, 1
    pretrained = None
    if options.from_imagenet and row.pretrained:
        pretrained = make_job(Row(row.label, row.pretrained), options).checkpoint
    return Job(path, cfg, work_dir, gpus, pretrained)


@dataclass(frozen=True)
class Check:
    """A budget and what was counted, both in millions or billions."""

    budget: Budget
    counted: float

    @property
    def deviation(self) -> float:
        """Relative to the budget's figure."""
        return self.counted / float(self.budget.figure) - 1

    @property
    def ok(self) -> bool:
        """Whether the budget is met within 1 %."""
        figure = float(self.budget.figure)
        decimals = len(self.budget.figure.partition(".")[2])
        slack = 0.5 * 10**-decimals if self.budget.about else 0
        return abs(self.counted - figure) <= TOLERANCE * figure + slack


@dataclass(frozen=True)
class RowReport:
    """A row with everything known of it; `error` says why there is nothing."""

    row: Row
    job: Job | None = None
    complexity: Complexity | None = None
    run: Run | None = None
    error: str = ""

    @property
    def checks(self) -> list[Check]:
        if self.complexity is None:
            return []
        return [Check(b, self.counted(b.quantity)) for b in self.row.budgets]

    def counted(self, quantity: str) -> float | None:
        """'params' in millions or 'macs' in billions."""
        if self.complexity is None:
            return None
        return getattr(self.complexity, quantity) / UNITS[quantity][0]

    def accuracy(self, metric: Metric, comparable: bool = False) -> float | None:
        """The measured accuracy of a finished run, None without one.

        Args:
            comparable: leave out runs in which settings were not the config's.
        """
        if self.run is None or not self.run.finished or (comparable and self.run.differs):
            return None
        value = self.run.metrics.get(metric.key)
        return None if value is None else value * metric.scale


@dataclass(frozen=True)
class DeltaReport:
    """A difference of two rows: `ours` by the names of `stated`, None where not measured."""

    delta: Delta
    ours: dict[str, float | None]

    def agrees(self, name: str) -> bool | None:
        """Whether ours rounds to the stated figure, None where there is none to compare."""
        stated, ours = self.delta.stated[name], self.ours[name]
        if ours is None or stated[0] not in "+-":
            return None
        return round(ours, len(stated.partition(".")[2])) == float(stated)

    @property
    def differs(self) -> bool:
        return any(self.agrees(name) is False for name in self.ours)


@dataclass(frozen=True)
class TableReport:
    """A table of the paper with all that is known of its rows."""

    table: Table
    rows: list[RowReport]
    deltas: list[DeltaReport] = field(default_factory=list)

    @property
    def failed(self) -> list[str]:
        """Rows without a config, and budgets that are missed."""
        found = []
        for row in self.rows:
            place = f"Table {self.table.number}, {row.row.label}"
            if row.error:
                found.append(f"{place}: {row.error}")
            for check in row.checks:
                if not check.ok:
                    unit = UNITS[check.budget.quantity][1]
                    found.append(
                        f"{place}: {check.counted:.4g} {unit} instead of {check.budget.figure} "
                        f"{unit} ({check.budget.source}), {check.deviation:+.2%}"
                    )
        return found


def _delta(delta: Delta, table: Table, rows: list[RowReport]) -> DeltaReport:
    by_config = {row.row.config: row for row in rows}
    first, second = by_config[delta.config], by_config[delta.base]
    ours: dict[str, float | None] = {}
    for name in delta.stated:
        metric = next((m for m in table.metrics if m.name == name), None)
        pair = [
            row.accuracy(metric, comparable=True) if metric else row.counted(name)
            for row in (first, second)
        ]
        ours[name] = None if None in pair else pair[0] - pair[1]
    return DeltaReport(delta, ours)


class Collector:
    """Makes reports of tables; a model that occurs in several tables is counted once."""

    def __init__(self, options: Options, progress: Callable[[str], None] = lambda name: None):
        self.options = options
        self.progress = progress
        self._counted: dict[str, Complexity] = {}

    def _row(self, row: Row) -> RowReport:
        if row.config is None:
            return RowReport(row)
        self.progress(row.config)
        try:
            job = make_job(row, self.options)
            if row.config not in self._counted:
                self._counted[row.config] = measure(read_config(row.config)[1])
            return RowReport(row, job, self._counted[row.config], job.run())
        except InputError as error:
            return RowReport(row, error=str(error))
        except Exception as error:  # a config is code: one that is broken must not hide the others
            return RowReport(row, error=f"{type(error).__name__}: {error}")

    def __call__(self, table: Table) -> TableReport:
        rows = [self._row(row) for row in table.rows]
        return TableReport(table, rows, [_delta(d, table, rows) for d in table.deltas])


def make_jobs(tables: Iterable[Table], options: Options) -> list[Job]:
    """The jobs of all rows that have a config, each once.

    Raises:
        InputError: a config is missing.
    """
    jobs = {}
    for table in tables:
        for row in table.rows:
            if row.config and row.config not in jobs:
                jobs[row.config] = make_job(row, options)
    return list(jobs.values())
