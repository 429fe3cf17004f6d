"""Results on the screen and in files: a table, a CSV and a plot; nothing is overwritten."""

import csv
import datetime
import json
from pathlib import Path

import matplotlib
from rich.console import Console
from rich.table import Table

from mmdualtoken.files import check_new_folder

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 the backend comes first

RESULTS = Path(__file__).resolve().parent.parent / "results"


def new_folder(name: str, out: str | None = None) -> Path:
    """A folder for this run: `out`, or one named by the question and the time.

    Raises:
        InputError: it holds something, which would be overwritten.
    """
    stamp = datetime.datetime.now().strftime("%Y%m%d_%H%M%S")
    folder = check_new_folder(out or RESULTS / f"{name}_{stamp}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def show(title: str, rows: list[dict], notes: list[str]) -> None:
    """Print rows as a table, columns in the order of the first row's keys."""
    table = Table(title=title, title_justify="left")
    for key in rows[0]:
        table.add_column(key, justify="left" if isinstance(rows[0][key], str) else "right")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console(width=max(160, Console().width))
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value}"


def keep(folder: Path, name: str, rows: list[dict], machine: dict[str, str]) -> None:
    """Write NAME.csv, and machine.json with date, command, hardware and versions."""
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    record = {"date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}", **machine}
    (folder / "machine.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def plot_ratios(file: Path, rows: list[dict], key: str, title: str) -> None:
    """Horizontal bars of `key` with the quartiles '<key> low' and '<key> high', a line at 1."""
    rows = [row for row in rows if row.get(key) is not None][::-1]
    values = [row[key] for row in rows]
    errors = [
        [row[key] - row[f"{key} low"] for row in rows],
        [row[f"{key} high"] - row[key] for row in rows],
    ]
    ours = ["#c44e52" if row["model"].startswith("dualtoken") else "#8c9db5" for row in rows]
    figure, axes = plt.subplots(figsize=(8, 0.32 * len(rows) + 1.3), layout="constrained")
    axes.barh([row["model"] for row in rows], values, color=ours, xerr=errors, ecolor="#444444")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel(title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
    plt.close(figure)
