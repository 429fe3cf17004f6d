"""Reports of a check as text for people and as JSON for programs."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from mmdualtoken.data.check.findings import ERROR, WARNING, Finding, Report, printable

MANY_CLASSES = 20
MANY_FILES = 10  # from which on a fault of all files is not repeated for each


def _size(size: tuple[int, int] | None) -> str:
    return f"{size[0]}x{size[1]}" if size else "-"


def _class_cells(report: Report) -> dict[str, str]:
    """Counts of the classes: each of a few, the range of many."""
    counts = report.classes
    total = sum(counts.values())
    if not total:
        return {}
    share = report.unit == "pixels"
    cells = {n: f"{100 * c / total:.2f} %" if share else str(c) for n, c in counts.items()}
    if len(counts) > MANY_CLASSES:
        ranked = sorted(counts, key=counts.get)
        ends = dict(fewest=ranked[0], median=ranked[len(ranked) // 2], most=ranked[-1])
        cells = {"classes": str(len(counts))}
        cells.update({title: f"{counts[name]} ({name})" for title, name in ends.items()})
    rows = {f"  {printable(title)}": printable(cell) for title, cell in cells.items()}
    return rows if report.unit == "images" else {report.unit: str(total), **rows}


def _cells(report: Report) -> dict[str, str]:
    """What the table tells of a data set, by the title of the row."""
    return {
        "images": str(report.images),
        "smallest": _size(report.smallest),
        "largest": _size(report.largest),
        **_class_cells(report),
        "errors": str(report.count(ERROR)),
        "warnings": str(report.count(WARNING)),
    }


def summary(reports: Iterable[Report]) -> Table:
    """A table with a column for each data set that was read."""
    read = [report for report in reports if not report.same_as]
    columns = [_cells(report) for report in read]
    rows = dict.fromkeys(title for cells in columns for title in cells)
    for last in ("errors", "warnings"):  # where data sets differ in classes
        rows.pop(last, None)
        rows[last] = None
    table = Table("", *(report.split for report in read))
    for title in rows:
        row = [title, *(cells.get(title, "-") for cells in columns)]
        table.add_row(*map(escape, row))  # names of classes may look like markup
    return table


def headings(reports: Iterable[Report]) -> Iterator[str]:
    """One line for each data set: where it is, and what else there is to know."""
    for report in reports:
        same = [f"the same as {report.same_as}, not read again"] if report.same_as else []
        yield printable("; ".join([f"{report.split}: {report.name}", *same, *report.notes]))


def _same_for_all(report: Report, findings: list[Finding]) -> bool:
    """Whether every sample of the data set has the finding in the very same words."""
    first = findings[0]
    same = {(f.reason, f.remedy) for f in findings} == {(first.reason, first.remedy)}
    return same and len({f.file for f in findings}) == report.images >= MANY_FILES


def lines(report: Report, severity: str, limit: int | None = None) -> Iterator[str]:
    """One line for each finding of a severity: ``FILE: reason (remedy)``.

    A finding that all of many images share is one line. Of other findings of a kind, the first
    `limit` are shown, and how many there are beyond them.
    """
    kinds = defaultdict(list)
    for finding in report.findings:
        if finding.severity == severity:
            kinds[finding.kind].append(finding)
    for kind, findings in kinds.items():
        if _same_for_all(report, findings):
            line = findings[0].line().replace(findings[0].file, "", 1)
            yield printable(f"{report.name}, each of {len(findings)} images{line}")
            continue
        yield from (finding.line() for finding in findings[:limit])
        if limit is not None and len(findings) > limit:
            yield f"... and {len(findings) - limit} more: {kind}"


def as_json(config: str, reports: Iterable[Report]) -> dict[str, Any]:
    """All that was found, for `json.dump`."""
    reports = list(reports)
    splits = []
    for report in reports:
        content = asdict(report)
        for finding, entry in zip(report.findings, content["findings"], strict=True):
            entry["reason"] = finding.reason
        splits.append({**content, "errors": report.count(ERROR), "warnings": report.count(WARNING)})
    return {
        "config": config,
        "errors": sum(report.count(ERROR) for report in reports),
        "warnings": sum(report.count(WARNING) for report in reports),
        "data_sets": splits,
    }
