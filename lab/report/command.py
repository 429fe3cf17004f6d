"""The paper's tables: what it states, what this project counts and measured, and how to run it.

Without --run, --dry-run or --data, nothing is trained: parameters and FLOPs are counted, and
accuracies are read from finished runs below work_dirs/. Exit status 1: a budget is missed by more
than 1 %, a config is missing, or a run failed.
"""

import argparse
import shlex
import sys
from pathlib import Path

import torch
from rich.console import Console

from lab.report import paper
from lab.report.files import check_own, write_own
from lab.report.jobs import Job, Options, make_jobs, pending, read_config, run_jobs
from lab.report.mini import write_mini_config, write_mini_data
from lab.report.tables import TableReport, collect, markdown, print_reports
from mmdualtoken.cli import number
from mmdualtoken.errors import InputError
from mmdualtoken.files import check_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--table",
        type=int,
        action="append",
        choices=sorted(paper.TABLES),
        metavar="N",
        help="only this table, 2 to 9; may be given more than once",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write it as Markdown")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also as a page with plots")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a FILE that this tool did not write"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands, do nothing")
    parser.add_argument(
        "--run", action="store_true", help="train and test every row that has no finished run"
    )
    parser.add_argument(
        "--data",
        choices=["mini"],
        help="run the rows on a few generated scenes, in work_dirs/mini: minutes on a CPU",
    )
    parser.add_argument("--resume", action="store_true", help="continue unfinished runs")
    parser.add_argument(
        "--gpus",
        type=number(int, 1),
        metavar="N",
        help="train on N GPUs and scale the learning rate; 1 also means a CPU (by default as many "
        "as the config's batch size is meant for)",
    )
    parser.add_argument(
        "--from-imagenet",
        action="store_true",
        help="start DualToken-ViT in Tables 3-5 from the checkpoints of Table 2",
    )
    parser.add_argument(
        "--work-dirs", type=Path, default=Path("work_dirs"), help="folder of the work dirs"
    )
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> None:
    """Check what can be wrong before anything is counted or run."""
    if args.resume and not (args.run or args.data or args.dry_run):
        raise InputError("--resume continues runs: give it with --run or --data mini.")
    if args.dry_run and (args.markdown or args.html):
        raise InputError("--dry-run prints commands only; leave out --markdown and --html.")
    for path in filter(None, (args.markdown, args.html)):
        check_own(path, args.overwrite)


def check_jobs(jobs: list[Job]) -> None:
    """Check that what the jobs need is there."""
    need, there = max(job.gpus for job in jobs), torch.cuda.device_count()
    if need > 1 and need > there:
        raise InputError(
            f"The recipe's batch size takes {need} GPUs, {there} were found. --gpus N trains on N "
            "with the learning rate scaled; --gpus 1 also runs on a CPU; --data mini only shows "
            "that everything works."
        )
    for job in jobs:
        if job.pretrained:
            check_file(job.pretrained, "--from-imagenet:", "Train it first: --table 2 --run")


def run_rows(tables: list[paper.Table], options: Options, args: argparse.Namespace) -> list[str]:
    """Run what is not finished; returns what failed."""
    jobs = make_jobs(tables, options)
    check_jobs(jobs)
    if options.mini:
        write_mini_data(options.root, {job.cfg.default_scope for job in jobs})
        for row in (row for table in tables for row in table.rows if row.config):
            write_mini_config(*read_config(row.config), options.root)
    try:
        return run_jobs(jobs, args.resume)
    except KeyboardInterrupt:
        print("\nInterrupted. Run it again with --resume: it skips finished runs.")
        sys.exit(130)


def print_commands(jobs: list[Job], resume: bool) -> None:
    """Print the commands that would run, and as comments why others would not."""
    for job in jobs:
        todo, reason = pending(job, resume)
        if reason:
            print(f"# {reason}")
        for words in todo:
            print(shlex.join(words))


def write_files(reports: list[TableReport], args: argparse.Namespace) -> None:
    """Write the files asked for."""
    if args.markdown:
        text = markdown(reports, bool(args.data))
        write_own(args.markdown, text, "<!-- {} -->", args.overwrite)
        print(f"Written: {args.markdown}")
    if args.html:
        from lab.report.page import render_page  # slow to import

        write_own(args.html, render_page(reports, bool(args.data)), "<!-- {} -->", args.overwrite)
        print(f"Written: {args.html}")


def main() -> None:
    args = parse_args()
    check_arguments(args)
    tables = [paper.TABLES[number] for number in sorted(set(args.table or paper.TABLES))]
    options = Options(args.work_dirs, args.gpus, args.from_imagenet, args.data == "mini")
    if args.dry_run:
        print_commands(make_jobs(tables, options), args.resume)
        return
    failed = run_rows(tables, options, args) if args.run or args.data else []
    # Output that goes to a file or pipe has no width of its own.
    console = Console(width=None if sys.stdout.isatty() else 180, highlight=False)
    status = Console(stderr=True)
    with status.status("Counting") as spinner:

        def progress(name: str) -> None:
            spinner.update(f"Counting {name}")

        reports = [collect(table, options, progress) for table in tables]
    print_reports(reports, console, options.mini)
    write_files(reports, args)
    for line in failed:
        console.print(f"failed: {line}", style="bold red", markup=False)
    if failed or any(report.failed for report in reports):
        sys.exit(1)
