"""Check all data of a config before training: every file, every annotation, all faults at once.

Exit status: 0 without errors, 1 with errors, 2 if the arguments or the config are wrong. An error
would stop training or make it learn something wrong; a warning works, but is worth a look.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import Progress

from mmdualtoken.cli import add_config_arguments, load_config, number, run_tool
from mmdualtoken.data import check
from mmdualtoken.data.check.findings import as_json, summary
from mmdualtoken.errors import InputError
from mmdualtoken.files import check_new_file

REFRESH_S = 0.2
MAX_WORKERS = 8


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--split", choices=check.SPLITS, help="check only this one (all that the config has)"
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--workers",
        type=number(int, 0),
        default=min(cores, MAX_WORKERS),
        help="processes that read images; 0 reads them here, without --timeout (%(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=number(float, 0.001),
        default=60,
        help="seconds that one image may take before it counts as broken (%(default)s)",
    )
    parser.add_argument(
        "--max-warnings",
        type=number(int, 0),
        default=20,
        help="warnings of a kind to show for each data set; errors are all shown (%(default)s)",
    )
    parser.add_argument("--json", metavar="FILE", help="write all findings to a new file")
    return parser.parse_args()


def show_progress(inspections: Iterable, count: int, name: str) -> Iterator:
    """Yield the results again, with a progress bar in a terminal."""
    console = Console(stderr=True)
    # Without its thread: new worker processes are forked while this runs.
    with Progress(
        console=console, auto_refresh=False, transient=True, disable=not console.is_terminal
    ) as progress:
        task, last = progress.add_task(name.rpartition("/")[2] or name, total=count), 0.0
        for inspection in inspections:
            progress.advance(task)
            if time.monotonic() - last > REFRESH_S:
                progress.refresh()
                last = time.monotonic()
            yield inspection


def show(reports: list[check.Report], max_warnings: int) -> None:
    """Print the findings, then the data sets and the table."""
    for report in reports:
        for severity, limit in ((check.ERROR, None), (check.WARNING, max_warnings)):
            if number := report.count(severity):
                print(f"\n{report.split}: {number} {severity}{'s' * (number > 1)}")
                for line in report.lines(severity, limit):
                    print(line)
    print("", *(report.heading() for report in reports), sep="\n")
    Console().print(summary(reports))


def main() -> None:
    args = parse_args()
    if args.json is not None:
        check_new_file(args.json, "--json")
    splits = [args.split] if args.split else check.SPLITS
    with contextlib.redirect_stdout(sys.stderr):  # for what imported packages print
        cfg = load_config(args)
        reports = check.check_config(cfg, splits, args.workers, args.timeout, show_progress)
    if not reports:
        wanted = " and ".join(f"{split}_dataloader" for split in splits)
        raise InputError(f"Config {args.config} has no {wanted}: nothing to check.")
    show(reports, args.max_warnings)
    if args.json:
        with open(args.json, "x", encoding="utf-8") as file:
            json.dump(as_json(args.config, reports), file, indent=1)
        print(f"All findings: {args.json}")
    if any(report.count(check.ERROR) for report in reports):
        sys.exit(1)


if __name__ == "__main__":
    run_tool(main)
