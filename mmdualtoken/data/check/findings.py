"""Findings about data, the report of a data set, and their text and JSON."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.markup import escape
from rich.table import Table

ERROR, WARNING = "error", "warning"
MANY_CLASSES = 20
MANY_FILES = 10  # from here on, a fault of all files is one line


def printable(text: str) -> str:
    """Make of `text` one line that any terminal can print; file names may hold anything."""
    return " ".join(text.encode(errors="backslashreplace").decode().split())


def name_list(names: Iterable, limit: int = 8) -> str:
    """Join the first of `names`, and say how many follow."""
    names = list(map(str, names))
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


@dataclass(frozen=True)
class Finding:
    """One fault of one file.

    Attributes:
        severity: ERROR if training would fail or be wrong, WARNING if it works, but look.
        file: path of the file.
        kind: the fault, in the same words for all files that have it.
        detail: facts of this file; may be empty.
        remedy: what to do; may be empty.
    """

    severity: str
    file: str
    kind: str
    detail: str = ""
    remedy: str = ""

    @property
    def reason(self) -> str:
        """The fault with its details."""
        return f"{self.kind}: {self.detail}" if self.detail else self.kind

    def line(self) -> str:
        """Return the finding as one line."""
        remedy = f" ({self.remedy})" if self.remedy else ""
        return printable(f"{self.file}: {self.reason}{remedy}")

    def sentence(self) -> str:
        """Return the finding as a paragraph, for an error."""
        remedy = f" {self.remedy[0].upper()}{self.remedy[1:]}." if self.remedy else ""
        return printable(f"{self.file} {self.reason}.{remedy}")


@dataclass
class Report:
    """The result for one data set of a split.

    Attributes:
        split: 'train', 'val' or 'test'.
        name: class of the data set and where it is.
        images: number of samples.
        unit: what `classes` counts, such as 'objects'.
        classes: count of each class by name, in the order of the labels.
        smallest, largest: (width, height) of the images with the fewest and most pixels.
        same_as: an earlier split with the same data set, which is not read twice.
        notes: facts that are no fault.
        findings: faults; errors come first, then by file.
    """

    split: str
    name: str
    images: int = 0
    unit: str = ""
    classes: dict[str, int] = field(default_factory=dict)
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    same_as: str = ""
    notes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def count(self, severity: str) -> int:
        """Count the findings of a severity."""
        return sum(f.severity == severity for f in self.findings)

    def sort(self) -> None:
        """Order the findings independently of the order of the work."""
        unique = dict.fromkeys(self.findings)
        self.findings = sorted(unique, key=lambda f: (f.severity != ERROR, f.file, f.line()))

    def heading(self) -> str:
        """Return one line: where the data set is, and its notes."""
        same = [f"the same as {self.same_as}, not read again"] if self.same_as else []
        return printable("; ".join([f"{self.split}: {self.name}", *same, *self.notes]))

    def lines(self, severity: str, limit: int | None = None) -> Iterator[str]:
        """Yield one line for each finding of a severity: ``FILE: reason (remedy)``.

        A finding that all of many images share is one line. Of other findings of a kind, the first
        `limit` are shown, and the number of those beyond.
        """
        kinds = defaultdict(list)
        for finding in self.findings:
            if finding.severity == severity:
                kinds[finding.kind].append(finding)
        for kind, found in kinds.items():
            shared = len({(f.reason, f.remedy) for f in found}) == 1
            if shared and len({f.file for f in found}) == self.images >= MANY_FILES:
                line = found[0].line().removeprefix(printable(found[0].file))
                yield printable(f"{self.name}, each of {len(found)} images{line}")
                continue
            yield from (finding.line() for finding in found[:limit])
            if limit is not None and len(found) > limit:
                yield f"... and {len(found) - limit} more: {kind}"

    def cells(self) -> dict[str, str]:
        """Return sizes and classes by title: the count of each of few classes, ends of many."""
        cells = dict(images=str(self.images))
        for title, size in (("smallest", self.smallest), ("largest", self.largest)):
            cells[title] = "{}x{}".format(*size) if size else "-"
        total = sum(self.classes.values())
        if not total:
            return cells
        if self.unit != "images":
            cells[self.unit] = str(total)
        share = self.unit == "pixels"
        shown = {n: f"{c / total:.2%}" if share else str(c) for n, c in self.classes.items()}
        if len(shown) > MANY_CLASSES:
            ranked = sorted(shown, key=self.classes.get)
            ends = dict(fewest=ranked[0], median=ranked[len(ranked) // 2], most=ranked[-1])
            ends = {title: f"{shown[name]} ({name})" for title, name in ends.items()}
            shown = {"classes": str(len(ranked)), **ends}
        return cells | {f"  {printable(title)}": printable(c) for title, c in shown.items()}


def summary(reports: Iterable[Report]) -> Table:
    """Return a table with a column for each data set that was read."""
    read = [report for report in reports if not report.same_as]
    columns = [report.cells() for report in read]
    table = Table("", *(report.split for report in read))
    for title in dict.fromkeys(title for cells in columns for title in cells):
        row = [title, *(cells.get(title, "-") for cells in columns)]
        table.add_row(*map(escape, row))  # names of classes may look like markup
    for severity in (ERROR, WARNING):
        table.add_row(f"{severity}s", *(str(report.count(severity)) for report in read))
    return table


def as_json(config: str, reports: list[Report]) -> dict[str, Any]:
    """Return all findings, for `json.dump`."""
    total, sets = {}, []
    for title, severity in (("errors", ERROR), ("warnings", WARNING)):
        total[title] = sum(report.count(severity) for report in reports)
    for report in reports:
        found = [{**asdict(f), "reason": f.reason} for f in report.findings]
        counts = dict(errors=report.count(ERROR), warnings=report.count(WARNING))
        sets.append({**asdict(report), "findings": found, **counts})
    return {"config": config, **total, "data_sets": sets}
