"""The paper's tables with this project's own figures: counting, comparing, and their text."""

import html
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from lab.report.jobs import Options, make_job, read_config
from lab.report.paper import Metric, Row, Table
from mmdualtoken.errors import InputError
from mmdualtoken.export.breakdown import Breakdown, break_down

TOLERANCE = 0.01
UNITS = {"params": "M", "macs": "G"}
NAMES = {"params": "params", "macs": "FLOPs"}
NOT_RUN, NOT_STATED = "not run", "not stated"
DIFFERENCES = "Differences, not checked"
TITLE = "The paper's tables, and what this project measures"
MINI = (
    "Mini data: every accuracy and curve below comes from a few iterations on a few generated "
    "scenes. They show that the rows train and test; they are not the paper's figures, nor "
    "comparable with them."
)
LEGEND = (
    "FLOPs are multiply-accumulates, attention included; parameters and FLOPs were counted for "
    "this report. Of the paper's figures only those are given that its text states. A budget is "
    "stated there, derived from what is stated, or chosen by this project; it is met within 1 % "
    "('about': 1 % of what rounds to it). 'not run': nobody measured it here. Differences are "
    "compared only between finished runs with the configs' own settings."
)


@dataclass(frozen=True)
class TableReport:
    """A table of the paper with this project's own figures.

    Args:
        table: the table.
        rows: a line for each of its rows: the `row`; its `job`, newest `run` and `error`, None
            without any; params in millions, macs in billions and accuracies, NaN where unknown.
            Only finished runs have accuracies.
        checks: a line for each budget of a row: counted, deviation, ok.
        deltas: a line for each figure of a difference: stated, ours, agrees (None where there is
            nothing to compare).
    """

    table: Table
    rows: pd.DataFrame
    checks: pd.DataFrame
    deltas: pd.DataFrame

    @property
    def failed(self) -> list[str]:
        """Rows without a config, and budgets that are missed."""
        place = f"Table {self.table.number}, "
        errors = self.rows[self.rows.error.notna()]
        lines = [f"{place}{row.label}: {row.error}" for row in errors.itertuples()]
        for check in self.checks[~self.checks.ok].itertuples():
            unit = UNITS[check.quantity]
            lines.append(
                f"{place}{check.label}: {check.counted:.4g} {unit} instead of {check.figure} "
                f"{unit} ({check.source}), {check.deviation:+.2%}"
            )
        return lines

    @property
    def wrong(self) -> list[bool]:
        """Whether each row has an error or misses a budget."""
        missed = self.checks.label[~self.checks.ok]
        return list(self.rows.error.notna() | self.rows.label.isin(missed))

    @property
    def commands(self) -> list[str]:
        """The commands of each row that has a job, after a comment with the row's name."""
        return [
            f"# {row.label}\n{shlex.join(row.job.train())}\n{shlex.join(row.job.test())}"
            for row in self.rows[self.rows.job.notna()].itertuples()
        ]


@cache
def _count(config: str) -> Breakdown:
    return break_down(read_config(config)[1])


def _collect_row(row: Row, metrics: Iterable[Metric], options: Options) -> dict:
    line = dict(label=row.label, config=row.config, row=row, job=None, run=None, error=None)
    if row.config is None:
        return line
    try:
        job = make_job(row, options)
        counted, run = _count(row.config), job.run()
    except InputError as error:
        return {**line, "error": str(error)}
    except Exception as error:  # a config is code: one that is broken must not hide the others
        return {**line, "error": f"{type(error).__name__}: {error}"}
    line |= dict(job=job, run=run, params=counted.params / 1e6, macs=counted.macs / 1e9)
    if run and run.finished:
        line |= {m.name: run.metrics[m.key] * m.scale for m in metrics if m.key in run.metrics}
    return line


def check_budget(figure: str, counted: float) -> tuple[float, bool]:
    """Return the deviation from a budget's figure, and whether it is within 1 %.

    Where the figure is 'about' a number, 1 % counts from the nearest one that rounds to it.
    """
    text = figure.removeprefix("about ")
    slack = 0.5 * 10 ** -len(text.partition(".")[2]) if text != figure else 0
    number = float(text)
    return counted / number - 1, abs(counted - number) <= TOLERANCE * number + slack


def agrees(stated: str, ours: float) -> bool | None:
    """Return whether ours rounds to a stated difference, None where nothing can be compared."""
    if pd.isna(ours) or stated[0] not in "+-":
        return None
    return round(ours, len(stated.partition(".")[2])) == float(stated)


def drop_changed(rows: pd.DataFrame, metrics: Iterable[Metric]) -> pd.DataFrame:
    """Return rows without the accuracies of runs whose settings were not the config's."""
    changed = [bool(run and run.differs) for run in rows.run]
    rows = rows.copy()
    rows.loc[changed, [m.name for m in metrics]] = float("nan")
    return rows


def collect(
    table: Table, options: Options, progress: Callable[[str], None] = lambda name: None
) -> TableReport:
    """Count and read everything that is known of a table's rows; each model is counted once."""
    names, lines = ["params", "macs", *(m.name for m in table.metrics)], []
    for row in table.rows:
        progress(row.config or row.label)
        lines.append(_collect_row(row, table.metrics, options))
    rows = pd.DataFrame(lines)
    rows = rows.reindex(columns=[*rows.columns.difference(names, sort=False), *names])
    checks = [
        (row.label, source, quantity, figure, counted, *check_budget(figure, counted))
        for row in rows[rows.params.notna()].itertuples()
        for source, figures in row.row.budgets.items()
        for quantity, figure in figures.items()
        for counted in [getattr(row, quantity)]
    ]
    columns = ["label", "source", "quantity", "figure", "counted", "deviation", "ok"]
    checks = pd.DataFrame(checks, columns=columns).astype({"ok": bool})
    own = drop_changed(rows, table.metrics).set_index("label")[names].astype(float)
    deltas = [
        (d.label, name, stated, ours, agrees(stated, ours), d.why)
        for d in table.deltas
        for name, stated in d.stated.items()
        for ours in [own.at[d.rows[0], name] - own.at[d.rows[1], name]]
    ]
    deltas = pd.DataFrame(deltas, columns=["label", "name", "stated", "ours", "agrees", "why"])
    return TableReport(table, rows, checks, deltas)


def summary(reports: list[TableReport]) -> str:
    """Return one line: how many budgets are met, how many rows were run."""
    checks = pd.concat([report.checks.ok for report in reports])
    jobs = [row for report in reports for row in report.rows.itertuples() if row.config]
    finished = sum(bool(row.run and row.run.finished) for row in jobs)
    return (
        f"{checks.sum()} of {len(checks)} budgets met within 1 %; {finished} of {len(jobs)} rows "
        "have a finished run."
    )


def _accuracy(value: float, metric: Metric, missing: str) -> str:
    if pd.isna(value):
        return f"{metric.label} {missing}"
    # COCO evaluation gives -1 where there is nothing to find.
    return f"{metric.label} " + ("undefined" if value < 0 else f"{value:.1f}{metric.unit}")


def _budget(check: tuple) -> str:
    text = f"{check.figure} {UNITS[check.quantity]}, {check.source} ({check.deviation:+.2%})"
    return text if check.ok else f"{text} OFF"


def _stated(row: Row, metrics: Iterable[Metric]) -> list[str]:
    """List the paper's figures of a row, with the source where there are any."""
    lines = [
        f"{m.label} " + (f"{row.stated[m.name]}{m.unit}" if m.name in row.stated else NOT_STATED)
        for m in metrics
    ]
    lines += [f"{NAMES[q]} {row.stated[q]} {UNITS[q]}" for q in NAMES if q in row.stated]
    return lines + ([f"({row.source})"] if row.stated else [])


def _run_state(row: tuple, metrics: Iterable[Metric]) -> list[str]:
    """Say how far a run came, by what it was measured, and which settings were changed."""
    if row.error or not row.config:
        return [f"ERROR: {row.error}" if row.error else "quoted for comparison"]
    if not (run := row.run):
        return [NOT_RUN]
    lines = [f"finished ({run.measured_by or 'not evaluated'}), {run.start}"]
    if not run.finished:
        schedule = run.schedule
        lines = [f"partial, {schedule.unit} {run.step} of {schedule.total}, {run.start}"]
        if run.measured_by:
            found = [m for m in metrics if m.key in run.metrics]
            figures = [_accuracy(run.metrics[m.key] * m.scale, m, "") for m in found]
            lines.append(f"{run.measured_by}: {', '.join(figures)}")
    if run.differs:
        more = f" and {len(run.differs) - 2} more" if len(run.differs) > 2 else ""
        lines.append(f"not the config's settings: {', '.join(run.differs[:2])}{more}")
    return lines


def row_grid(report: TableReport, mini: bool = False) -> pd.DataFrame:
    """Return the text of a table's rows; a cell is a list of lines."""
    metrics, grid = report.table.metrics, []
    for row in report.rows.itertuples():
        # COCO evaluation gives nothing where nothing was detected.
        evaluated = row.run and row.run.finished and row.run.measured_by
        missing = "without result" if evaluated else NOT_RUN
        counts = [] if pd.isna(row.params) else [f"{row.params:.2f}"]
        macs = [] if pd.isna(row.macs) else [f"{row.macs:.{3 if row.macs < 10 else 1}f}"]
        checks = report.checks[report.checks.label == row.label].itertuples()
        measured = [_accuracy(getattr(row, m.name), m, missing) for m in metrics if row.config]
        name = [text for text in (row.label, row.config, row.row.remark) if text]
        budgets, stated = [_budget(check) for check in checks], _stated(row.row, metrics)
        grid.append([name, counts, macs, budgets, stated, measured, _run_state(row, metrics)])
    measured = "On mini data" if mini else "Measured here"
    columns = ["Model and config", "Params, M", "FLOPs, G", "Budget", "Paper", measured, "Run"]
    return pd.DataFrame(grid, columns=columns)


def delta_grid(report: TableReport) -> pd.DataFrame:
    """Return the text of a table's differences; a cell is a list of lines."""
    labels = {m.name: (m.label, m.unit, 1) for m in report.table.metrics}
    labels |= {"params": ("params", " M", 2), "macs": ("FLOPs", " G", 3)}
    grid = []
    for label, figures in report.deltas.groupby("label", sort=False):
        stated, ours = [], []
        for figure in figures.itertuples():
            name, unit, digits = labels[figure.name]
            stated.append(f"{name} {figure.stated}{unit if figure.stated[0] in '+-' else ''}")
            text = NOT_RUN if pd.isna(figure.ours) else f"{figure.ours:+.{digits}f}{unit}"
            ours.append(f"{name} {text}")
        why = [figures.why.iloc[0]] if False in set(figures.agrees) else []
        grid.append([[label], stated, ours, why])
    return pd.DataFrame(grid, columns=["Difference", "Paper", "Ours", "Remark"])


def _rich_table(title: str, grid: pd.DataFrame, wrong: list[bool]) -> RichTable:
    table = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for name in grid.columns:
        right = name.startswith(("Params", "FLOPs"))
        table.add_column(name, overflow="fold", justify="right" if right else "left")
    for cells, off in zip(grid.to_numpy(), wrong, strict=True):
        table.add_row(*(escape("\n".join(cell)) for cell in cells), style="red" if off else None)
    return table


def print_reports(reports: list[TableReport], console: Console, mini: bool = False) -> None:
    """Print the tables, their differences and their commands."""
    for report in reports:
        table = report.table
        console.print()
        if mini:
            console.print(MINI, style="bold yellow")
        title = f"Table {table.number}. {table.title} ({table.setting})"
        console.print(_rich_table(title, row_grid(report, mini), report.wrong))
        if table.remark:
            console.print(escape(table.remark))
        if len(deltas := delta_grid(report)):
            console.print(_rich_table(DIFFERENCES, deltas, [False] * len(deltas)))
        console.print("Commands:")
        for lines in report.commands:
            console.print(lines, markup=False, soft_wrap=True)
    console.print(f"\n{LEGEND}\n")
    for line in (line for report in reports for line in report.failed):
        console.print(line, style="bold red", markup=False)
    console.print(summary(reports), style="bold")


def _markdown_table(grid: pd.DataFrame) -> list[str]:
    texts = grid.map(lambda lines: "<br>".join(html.escape(x, quote=False) for x in lines))
    rows = [grid.columns, *texts.replace(r"\|", r"\\|", regex=True).to_numpy()]
    head, *lines = [f"| {' | '.join(row)} |" for row in rows]
    return [head, "|" + "---|" * len(grid.columns), *lines, ""]


def markdown(reports: list[TableReport], mini: bool = False) -> str:
    """Return the report as Markdown."""
    lines = [f"# {TITLE}", "", summary(reports), ""]
    if mini:
        lines += [f"> **{MINI}**", ""]
    lines += [*(f"- **{line}**" for report in reports for line in report.failed), "", LEGEND, ""]
    for report in reports:
        table = report.table
        lines += [f"## Table {table.number}. {table.title}", ""]
        lines += [f"{table.setting}. {table.remark}", "", *_markdown_table(row_grid(report, mini))]
        if len(deltas := delta_grid(report)):
            lines += [f"{DIFFERENCES}:", "", *_markdown_table(deltas)]
        lines += ["```bash", *report.commands, "```", ""]
    return "\n".join(lines)
