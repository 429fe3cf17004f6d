"""Does the backbone train well from scratch, beside the backbones that a user would pick instead?

    python benchmarks/learn.py cifar10                        # all backbones, minutes each
    python benchmarks/learn.py cifar10 --budget long          # four times as long, still on a CPU
    python benchmarks/learn.py nuclei --budget gpu            # real heads, longer
    python benchmarks/learn.py deeplabv3 --rows ablations choices transfer
    python benchmarks/learn.py bccd --table                   # the table of what is there
    python benchmarks/learn.py all --table                    # all tables, and docs/learning.md

Tasks: cifar10 (classifier), bccd and coco2k (RetinaNet), bccd_rtmdet and coco2k_rtmdet (RTMDet),
nuclei (Mask R-CNN), deeplabv3, pspnet and segformer (CamVid), voc_deeplabv3, voc_pspnet and
voc_segformer (Pascal VOC's animals), in the folder that MMDUALTOKEN_DATA names. Each row chooses
its learning rate from the same grid on a part of the training data, then trains once per seed on
all of it. What is finished is kept at once below benchmarks/learning/results/; the same command
continues an interrupted run.
"""

import argparse
import copy
import sys
from pathlib import Path

import torch
from learning import page, records, training
from learning.figures import figures_of
from learning.rows import ROWS, Row, choose
from learning.tasks import BUDGETS, LRS, TASKS, Task
from learning.training import TrainingFailed
from suite.machine import describe
from suite.results import show

from mmdualtoken.cli import run_tool
from mmdualtoken.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=[*sorted(TASKS), "all"], help="what to train for")
    parser.add_argument("--budget", choices=BUDGETS, default="cpu", help="how long")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="rows or groups (backbones)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings per row (3)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of a training (2)")
    parser.add_argument("--table", action="store_true", help="train nothing, show what is there")
    parser.add_argument(
        "--results", type=Path, default=records.RESULTS, help="folder of what is kept"
    )
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=ROOT / "work_dirs" / "learning",
        help="folder of logs, checkpoints and unpacked data",
    )
    return parser.parse_args()


class Bench:
    """The rows of one task at one budget, and where their results are kept."""

    def __init__(self, task: Task, args: argparse.Namespace):
        self.task, self.budget, self.threads = task, args.budget, args.threads
        self.seeds, self.work = args.seeds, args.work_dir.resolve()
        self.kept = records.Kept(args.results.resolve())

    def train(self, one: training.Training, keep: bool = False) -> dict:
        """The record of a training, from earlier or made now."""
        record = self.kept.get(one.name)
        file = f"{one.name} in {self.kept.path(one.name)}"
        if record is not None and record["lr"] != one.lr:
            raise InputError(
                f"{file} was trained with a learning rate of {record['lr']:g}, but {one.lr:g} is "
                "the row's choice now. Remove the row's lines of seeds to train it again."
            )
        if record is not None and (record["iters"], record["batch"]) != (one.iters, one.batch):
            raise InputError(
                f"{file} was trained for {record['iters']} iterations of {record['batch']} images, "
                f"but the budget is {one.iters} of {one.batch} now. Remove the row's lines to "
                "train it again."
            )
        if record is None:
            print(f"{one.name} ...", flush=True)
            with training.alone(self.work / one.name):
                record = training.run(one, self.work / "data", self.work, self.threads, keep)
            machine = describe(torch.device("cuda" if self.budget == "gpu" else "cpu"))
            record |= {key: machine[key] for key in ("hardware", "versions")}
            self.kept.put(one.name, record)
            value = "NaN" if record.get(records.DIVERGED) else f"{record['value']:.2f}"
            print(f"{one.name}: {value} after {record['wall_s']:.0f} s", flush=True)
        return record

    def rate(self, row: Row, start: str | None) -> float:
        """The learning rate of a row: its choice, or that of the row whose it takes over."""
        if row.lr_of:
            return self.rate(ROWS[row.lr_of], None)

        def trial(lr: float) -> dict:
            options = dict(seed=training.LR_SEED, choosing=True, start=start)
            return self.train(training.Training(self.task, row, self.budget, lr, **options))

        return records.best_lr(records.search(LRS, trial))

    def start(self, row: Row) -> str | None:
        """The classifier that a row starts from, trained on cifar10 if it is not there yet."""
        if row.pretrained is None:
            return row.weights
        classifier = copy.copy(self)
        classifier.task = TASKS["cifar10"]
        source = ROWS[row.pretrained]
        lr = classifier.rate(source, None)
        one = training.Training(classifier.task, source, self.budget, lr, 0, pretraining=True)
        file = self.work / one.name / f"iter_{one.iters}.pth"
        if not file.is_file():
            self.kept.put(one.name, None)
        classifier.train(one, keep=True)
        return str(file)

    def run(self, row: Row) -> None:
        """All of a row that is not there yet."""
        name = f"{self.task.name}/{self.budget}/{row.name}/model"
        if self.kept.get(name) is None:
            self.kept.put(name, figures_of(self.task, row, self.budget))
        trained = len(self.kept.seeds(self.task.name, self.budget, row.name)) >= self.seeds
        if trained and row.pretrained:
            return  # its start, which may be gone, need not be trained again
        start = self.start(row)
        lr = self.rate(row, start)
        for seed in range(self.seeds):
            self.train(training.Training(self.task, row, self.budget, lr, seed, start=start))

    def report(self, rows: list[str] | None = None) -> None:
        """Show the table, and write it with the plot beside the records."""
        names = rows or self.kept.rows(self.task.name, self.budget)
        lines = records.table(self.kept, self.task.name, self.budget, names)
        if not lines:
            print(f"{self.task.name}, {self.budget} budget: no row is finished.")
            return
        folder = self.kept.folder / self.task.name / self.budget
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.md").write_text(records.markdown(lines), encoding="utf-8")
        records.plot(self.kept, self.task.name, self.budget, names, folder / "curves.png")
        show(f"{self.task.name}, {self.budget} budget", lines, [f"Written to {folder}"])


def main() -> None:
    args = parse_args()
    if args.seeds < 1 or args.threads < 1:
        raise InputError("--seeds and --threads must be at least 1.")
    if args.budget == "gpu" and not args.table and not torch.cuda.is_available():
        raise InputError("--budget gpu: no GPU was found; --budget cpu takes minutes per row.")
    rows = choose(args.rows)
    tasks = [t for t in TASKS.values() if args.task in (t.name, "all") and args.budget in t.budgets]
    if not tasks:
        raise InputError(
            f"{args.task} has no budget '{args.budget}', but {', '.join(TASKS[args.task].budgets)}."
        )
    failed = []
    for task in tasks:
        bench = Bench(task, args)
        for row in rows:
            if args.table or not row.fits(task):
                continue
            try:
                bench.run(row)
            except TrainingFailed as error:  # the other rows are worth having
                failed.append(f"{task.name} {row.name}")
                print(error, file=sys.stderr, flush=True)
        bench.report()
    if args.table and args.results == records.RESULTS:
        page.write(records.Kept())
    if failed:
        raise InputError(f"These failed, the others are kept: {', '.join(failed)}")


if __name__ == "__main__":
    run_tool(main)
