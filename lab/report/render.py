"""The report as a table on the terminal and as Markdown."""

import html
import shlex

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from lab.report.collect import UNITS, DeltaReport, RowReport, TableReport
from lab.report.schema import Metric

NOT_RUN, NOT_STATED = "not run", "not stated"
DELTA_COLUMNS = ("Difference", "Paper", "Ours", "Remark")
QUANTITIES = {"params": "params", "macs": "FLOPs"}
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


def columns(mini: bool = False) -> tuple[str, ...]:
    """The names of a table's columns."""
    measured = "On mini data" if mini else "Measured here"
    return ("Model and config", "Params, M", "FLOPs, G", "Budget", "Paper", measured, "Run")


def summary(reports: list[TableReport]) -> str:
    """One line: how many budgets are met, how many rows were run."""
    rows = [row for report in reports for row in report.rows if row.row.config]
    checks = [check for row in rows for check in row.checks]
    met = sum(check.ok for check in checks)
    finished = sum(bool(row.run and row.run.finished) for row in rows)
    return (
        f"{met} of {len(checks)} budgets met within 1 %; {finished} of {len(rows)} rows have a "
        "finished run."
    )


def _accuracy(value: float | None, metric: Metric, evaluated: bool = False) -> str:
    if value is None:  # COCO evaluation gives nothing where nothing was detected
        return f"{metric.label} {'without result' if evaluated else NOT_RUN}"
    # COCO evaluation gives -1 where there is nothing to find.
    return f"{metric.label} " + ("undefined" if value < 0 else f"{value:.1f}{metric.unit}")


def _budgets(row: RowReport) -> list[str]:
    lines = []
    for check in row.checks:
        budget, unit = check.budget, UNITS[check.budget.quantity][1]
        about = "about " * budget.about
        verdict = "" if check.ok else " OFF"
        lines.append(
            f"{about}{budget.figure} {unit}, {budget.source} ({check.deviation:+.2%}){verdict}"
        )
    return lines


def paper_figures(row: RowReport, metrics: tuple[Metric, ...]) -> list[str]:
    """What is stated of a row, a line per figure, with the source where it is not the text."""
    stated = row.row.stated
    lines = [
        f"{m.label} " + (f"{stated[m.name]}{m.unit}" if m.name in stated else NOT_STATED)
        for m in metrics
    ]
    lines += [f"{QUANTITIES[q]} {stated[q]} {UNITS[q][1]}" for q in QUANTITIES if q in stated]
    return lines + ([f"({row.row.source})"] if stated else [])


def run_state(row: RowReport, metrics: tuple[Metric, ...]) -> list[str]:
    """How far the run came, by what it was measured, and what was set otherwise."""
    if row.error:
        return [f"ERROR: {row.error}"]
    if row.row.config is None:
        return ["quoted for comparison"]
    run = row.run
    if run is None:
        return [NOT_RUN]
    unit, total = run.schedule.unit, run.schedule.total
    if run.finished:
        lines = [f"finished ({run.measured_by or 'not evaluated'}), {run.start}"]
    else:
        lines = [f"partial, {unit} {run.step} of {total}, {run.start}"]
        if run.measured_by:
            found = [m for m in metrics if m.key in run.metrics]
            figures = [_accuracy(run.metrics[m.key] * m.scale, m) for m in found]
            lines.append(f"{run.measured_by}: {', '.join(figures)}")
    if run.differs:
        more = f" and {len(run.differs) - 2} more" if len(run.differs) > 2 else ""
        lines.append(f"not the config's settings: {', '.join(run.differs[:2])}{more}")
    return lines


def cells(row: RowReport, metrics: tuple[Metric, ...]) -> list[list[str]]:
    """The lines of each cell of a row, in the order of `columns`."""
    run = row.row.config is not None  # else the row is only quoted
    evaluated = bool(row.run and row.run.finished and row.run.measured_by)
    measured = [_accuracy(row.accuracy(m), m, evaluated) for m in metrics if run]
    counts = [[], []]
    if row.complexity:
        macs = row.counted("macs")
        counts = [[f"{row.counted('params'):.2f}"], [f"{macs:.{3 if macs < 10 else 1}f}"]]
    return [
        [row.row.label, *filter(None, [row.row.config, row.row.remark])],
        *counts,
        _budgets(row),
        paper_figures(row, metrics),
        measured,
        run_state(row, metrics),
    ]


def delta_cells(report: DeltaReport, metrics: tuple[Metric, ...]) -> list[list[str]]:
    """The lines of each cell of a difference, in the order of DELTA_COLUMNS."""
    labels = {m.name: (m.label, m.unit, 1) for m in metrics}
    labels |= {"params": ("params", " M", 2), "macs": ("FLOPs", " G", 3)}
    stated, ours = [], []
    for name, figure in report.delta.stated.items():
        label, unit, digits = labels[name]
        stated.append(f"{label} {figure}{unit if figure[0] in '+-' else ''}")
        value = report.ours[name]
        ours.append(f"{label} {NOT_RUN if value is None else f'{value:+.{digits}f}{unit}'}")
    return [[report.delta.label], stated, ours, [report.delta.why] if report.differs else []]


def command_lines(report: TableReport) -> list[tuple[str, str, str]]:
    """Name, training command and test command of each row that has them."""
    return [
        (row.row.label, shlex.join(row.job.train()), shlex.join(row.job.test()))
        for row in report.rows
        if row.job
    ]


def _rich_table(title: str, names: tuple[str, ...]) -> RichTable:
    table = RichTable(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold", expand=False
    )
    for name in names:
        table.add_column(
            name,
            overflow="fold",
            justify="right" if name.startswith(("Params", "FLOPs")) else "left",
        )
    return table


def _style(row: RowReport) -> str | None:
    return "red" if row.error or not all(check.ok for check in row.checks) else None


def print_reports(reports: list[TableReport], console: Console, mini: bool = False) -> None:
    """Print the tables, their differences and their commands."""
    for report in reports:
        table = report.table
        console.print()
        if mini:
            console.print(MINI, style="bold yellow")
        grid = _rich_table(f"Table {table.number}. {table.title} ({table.setting})", columns(mini))
        for row in report.rows:
            texts = (escape("\n".join(lines)) for lines in cells(row, table.metrics))
            grid.add_row(*texts, style=_style(row))
        console.print(grid)
        if table.remark:
            console.print(escape(table.remark))
        if report.deltas:
            grid = _rich_table("Differences, not checked", DELTA_COLUMNS)
            for delta in report.deltas:
                texts = (escape("\n".join(lines)) for lines in delta_cells(delta, table.metrics))
                grid.add_row(*texts)
            console.print(grid)
        console.print("Commands:")
        for label, train, test in command_lines(report):
            console.print(f"# {label}\n{train}\n{test}", markup=False, soft_wrap=True)
    console.print(f"\n{LEGEND}\n")
    for line in [line for report in reports for line in report.failed]:
        console.print(line, style="bold red", markup=False)
    console.print(summary(reports), style="bold")


def _markdown_row(texts: list[list[str]]) -> str:
    lines = ("<br>".join(html.escape(line, quote=False) for line in cell) for cell in texts)
    return "| " + " | ".join(line.replace("|", "\\|") for line in lines) + " |"


def _markdown_table(names: tuple[str, ...], rows: list[list[list[str]]]) -> list[str]:
    head = [_markdown_row([[name] for name in names]), "|" + "---|" * len(names)]
    return [*head, *map(_markdown_row, rows), ""]


def markdown(reports: list[TableReport], mini: bool = False) -> str:
    """The report as one Markdown text."""
    lines = ["# The paper's tables, and what this project measures", "", summary(reports), ""]
    if mini:
        lines += [f"> **{MINI}**", ""]
    failed = [line for report in reports for line in report.failed]
    lines += [*(f"- **{line}**" for line in failed), "", LEGEND, ""]
    for report in reports:
        table = report.table
        lines += [f"## Table {table.number}. {table.title}", "", f"{table.setting}. {table.remark}"]
        lines += [
            "",
            *_markdown_table(columns(mini), [cells(r, table.metrics) for r in report.rows]),
        ]
        if report.deltas:
            rows = [delta_cells(d, table.metrics) for d in report.deltas]
            lines += ["Differences, not checked:", "", *_markdown_table(DELTA_COLUMNS, rows)]
        lines.append("```bash")
        for label, train, test in command_lines(report):
            lines += [f"# {label}", train, test]
        lines += ["```", ""]
    return "\n".join(lines)
