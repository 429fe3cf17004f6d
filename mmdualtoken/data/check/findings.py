"""What a check of a data set hands back."""

from collections import Counter
from dataclasses import dataclass, field

ERROR, WARNING = "error", "warning"


def printable(text: str) -> str:
    """`text` in one line that any terminal can print; file names may hold anything."""
    return " ".join(text.encode(errors="backslashreplace").decode().split())


@dataclass(frozen=True)
class Finding:
    """One fault of one file.

    Attributes:
        severity: ERROR if training would fail or be wrong, WARNING if it works, but look.
        file: path of the file.
        kind: what the fault is, in the same words for all files that have it.
        detail: what is special to this file; may be empty.
        remedy: what to do; may be empty.
    """

    severity: str
    file: str
    kind: str
    detail: str = ""
    remedy: str = ""

    @property
    def reason(self) -> str:
        """What the fault is, with its details."""
        return f"{self.kind}: {self.detail}" if self.detail else self.kind

    def line(self) -> str:
        """The finding in one line."""
        return printable(
            f"{self.file}: {self.reason}" + (f" ({self.remedy})" if self.remedy else "")
        )


@dataclass
class Inspection:
    """What was found out about one sample.

    Attributes:
        findings: faults of its files.
        size: (width, height) in px as loaded; None if it could not be loaded.
        counts: what the sample adds to each class, by label.
    """

    findings: list[Finding] = field(default_factory=list)
    size: tuple[int, int] | None = None
    counts: Counter = field(default_factory=Counter)


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
        same_as: an earlier split with the very same data set, which was not read again.
        notes: what is worth knowing and no fault.
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
        """Number of findings of a severity."""
        return sum(f.severity == severity for f in self.findings)

    def sort(self) -> None:
        """Bring the findings into an order that does not depend on the order of the work."""
        self.findings = sorted(
            dict.fromkeys(self.findings), key=lambda f: (f.severity != ERROR, f.file, f.line())
        )
