"""What is kept of each training, and the table and plot that are made of it."""

import fcntl
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean, median, stdev

RESULTS = Path(__file__).resolve().parent / "results"
MIN_SEEDS = 3
MAX_SPREAD = 2.0  # points
RIVAL_FLOPS = 1.5  # a rival may cost so many times as much
#: What the names of rows of ours begin with.
OURS = ("dualtoken", "small-", "tiny-")
#: What the names of rows trained by Muon end with.
MUON = "-muon"
#: Columns of a table that are set flush left.
WORDS = ("row", "start", "says", "among rivals")

#: Keys of a record and their types.
SCHEMA = {
    "task": str,
    "row": str,
    "budget": str,
    "choosing_lr": bool,
    "lr": float,
    "seed": int,
    "trained_on": str,
    "evaluated_on": str,
    "iters": int,
    "batch": int,
    "metric": str,
    "value": float,
    "curve": list,
    "losses": list,
    "ms_per_image": (float, type(None)),
    "wall_s": float,
    "memory_mb": (float, int),
    "noisy": bool,
    "start": (str, type(None)),
    "command": str,
    "commit": str,
    "hardware": str,
    "versions": str,
    "threads": int,
    "date": str,
}
#: Key of trials alone: the learning rate ended in NaN.
DIVERGED = "diverged"


class Kept:
    """The records below a folder: one file TASK/BUDGET.jsonl for each run of the benchmark.

    A line is one training or the figures of one model, with its ``name``:
    TASK/BUDGET/ROW/{lrX,seedN,model}.
    """

    def __init__(self, folder: Path = RESULTS):
        self.folder = folder

    def path(self, name: str) -> Path:
        """File of the training of this name."""
        task, budget = name.split("/")[:2]
        return self.folder / task / f"{budget}.jsonl"

    def read(self, task: str, budget: str) -> dict[str, dict]:
        """All records of a file by name, sorted; none without a file."""
        path = self.path(f"{task}/{budget}")
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        found = [json.loads(line) for line in lines]
        return {record.pop("name"): record for record in sorted(found, key=lambda r: r["name"])}

    def get(self, name: str) -> dict | None:
        """A record, None if there is none yet."""
        return self.read(*name.split("/")[:2]).get(name)

    def put(self, name: str, record: dict | None) -> None:
        """Keep a record, complete or not at all, or remove it (None).

        Rows that other processes train at the same time keep theirs: the file is locked.
        """
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            records = {**self.read(*name.split("/")[:2]), name: record}
            lines = [json.dumps({"name": n, **r}) for n, r in sorted(records.items()) if r]
            part = path.with_suffix(".part")
            part.write_text("\n".join([*lines, ""]), encoding="utf-8")
            part.replace(path)

    def _of_row(self, task: str, budget: str, row: str, kind: str) -> list[dict]:
        beginning = f"{task}/{budget}/{row}/{kind}"
        return [r for n, r in self.read(task, budget).items() if n.startswith(beginning)]

    def seeds(self, task: str, budget: str, row: str) -> list[dict]:
        """Reported trainings of a row."""
        return self._of_row(task, budget, row, "seed")

    def choices(self, task: str, budget: str, row: str) -> list[dict]:
        """Trainings of a row that chose its learning rate."""
        return self._of_row(task, budget, row, "lr")

    def rows(self, task: str, budget: str) -> list[str]:
        """Names of the rows with at least one reported training."""
        names = [name.split("/") for name in self.read(task, budget)]
        return sorted({row for _, _, row, record in names if record.startswith("seed")})


def check(record: dict) -> list[str]:
    """What is wrong with a record: keys that lack, are too many, or of another type."""
    faults = [f"{key} is missing" for key in SCHEMA if key not in record]
    known = {*SCHEMA, DIVERGED} if record.get("choosing_lr") else SCHEMA
    faults += [f"{key} is not known" for key in record if key not in known]
    for key, kind in SCHEMA.items():
        if key in record and not isinstance(record[key], kind):
            faults.append(f"{key} is {record[key]!r}")
    expected = ["fit", "select"] if record.get("choosing_lr") else ["train", "val"]
    if [record.get("trained_on"), record.get("evaluated_on")] != expected:
        faults.append(f"trained and evaluated on other parts than {expected}")
    return faults


def best_lr(choices: Iterable[dict]) -> float:
    """The learning rate of the best choice; the smaller one of equals, what ended in NaN last."""
    return max(choices, key=lambda r: (not r.get(DIVERGED), r["value"], -r["lr"]))["lr"]


def search(lrs: Sequence[float], trial: Callable[[float], dict]) -> list[dict]:
    """Train with the three middle rates of a grid, then beyond the best while it is at an end.

    Args:
        lrs: the grid, ascending, of three rates or more.
        trial: trains with a rate and returns the record.

    Returns:
        The records, by rate.
    """
    low, high = len(lrs) // 2 - 1, len(lrs) // 2 + 1
    tried = {lr: trial(lr) for lr in lrs[low : high + 1]}
    while True:
        best = best_lr(tried.values())
        if best == lrs[low] and low > 0:
            low -= 1
            tried[lrs[low]] = trial(lrs[low])
        elif best == lrs[high] and high < len(lrs) - 1:
            high += 1
            tried[lrs[high]] = trial(lrs[high])
        else:
            return [tried[lr] for lr in sorted(tried)]


def lr_text(chosen: float, choices: list[dict]) -> str:
    """A learning rate, marked where the grid ends: a better one may lie beyond."""
    tried = {r["lr"] for r in choices}
    edge = " (edge)" if len(tried) > 1 and chosen in (min(tried), max(tried)) else ""
    return f"{chosen:g}{edge}"


def summary(seeds: list[dict]) -> dict:
    """Mean and spread (standard deviation, n - 1) of the metric in points, and what they are worth.

    Returns:
        mean; spread (None for one seed); n; conclusive: at least three seeds within 2 points.
    """
    values = [r["value"] for r in seeds]
    spread = stdev(values) if len(values) > 1 else None
    conclusive = len(values) >= MIN_SEEDS and spread is not None and spread <= MAX_SPREAD
    return dict(mean=mean(values), spread=spread, n=len(values), conclusive=conclusive)


def spread_text(spread: float | None) -> str:
    """A spread with one digit, or two where the limit would hide in rounding: 2.04 is above 2."""
    if spread is None:
        return "–"
    digits = 2 if round(spread, 1) == MAX_SPREAD < spread else 1
    return f"{spread:.{digits}f}"


def verdict(row: str, summaries: dict[str, dict], flops: dict[str, float]) -> str:
    """How a row of ours stands among rivals of up to 1.5 times its FLOPs and its optimizer.

    'first, ahead of NAME by X', 'first, within the spread of NAME', 'within the spread of NAME',
    'behind NAME by X', 'inconclusive', or 'no rival yet'; NAME is the best of these rivals.
    """
    own = summaries[row]
    rivals = {
        name: s
        for name, s in summaries.items()
        if name != row
        and not name.startswith(OURS)
        and not name.endswith("-pretrained")
        and name.endswith(MUON) == row.endswith(MUON)
        and flops.get(name, 0) <= RIVAL_FLOPS * flops.get(row, 0)
    }
    if not rivals:
        return "no rival yet"
    name, best = max(rivals.items(), key=lambda item: item[1]["mean"])
    if not own["conclusive"] or not best["conclusive"]:
        return "inconclusive"
    ahead = own["mean"] - best["mean"]
    first = "first, " if ahead >= 0 else ""
    if abs(ahead) <= max(own["spread"], best["spread"]):
        return f"{first}within the spread of {name}"
    return f"{first}{'ahead of' if ahead > 0 else 'behind'} {name} by {abs(ahead):.1f}"


def table(kept: Kept, task: str, budget: str, rows: Iterable[str] | None = None) -> list[dict]:
    """Rows of the table, the best mean first; each value is text.

    Ours are compared with all rivals that are there, whether they stand in the table or not.
    """
    there = kept.rows(task, budget)
    wanted = set(there if rows is None else rows)
    names = [n for n in there if n in wanted]
    every = {n: kept.seeds(task, budget, n) for n in there}
    summaries = {n: summary(seeds) for n, seeds in every.items()}
    models = {n: kept.get(f"{task}/{budget}/{n}/model") or {} for n in there}
    flops = {n: m.get("flops", 0) for n, m in models.items()}
    lines = []
    for name in sorted(names, key=lambda n: -summaries[n]["mean"]):
        found, model, seeds = summaries[name], models[name], every[name]
        times = [r["ms_per_image"] for r in seeds if r["ms_per_image"]]
        note = " (busy)" if any(r["noisy"] for r in seeds) else ""
        ours = name.startswith(OURS)
        lines.append(
            {
                "row": name,
                seeds[0]["metric"]: f"{found['mean']:.1f} ± {spread_text(found['spread'])}",
                "seeds": str(found["n"]),
                "says": "" if found["conclusive"] else "inconclusive",
                "lr": lr_text(seeds[0]["lr"], kept.choices(task, budget, name)),
                "parameters (M)": f"{model['parameters'] / 1e6:.2f}" if model else "–",
                "FLOPs (G)": f"{model['flops'] / 1e9:.3f}" if model else "–",
                "training (ms/image)": f"{median(times):.0f}{note}" if times else "–",
                "memory (MB)": f"{max(r['memory_mb'] for r in seeds):.0f}",
                "among rivals": verdict(name, summaries, flops) if ours else "",
            }
        )
    return lines


def markdown(lines: list[dict]) -> str:
    """A table in Markdown."""
    heads = list(lines[0])
    rule = ["---" if head in WORDS else "---:" for head in heads]
    rows = [heads, rule, *([str(line[head]) for head in heads] for line in lines)]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in rows) + "\n"


def plot(kept: Kept, task: str, budget: str, rows: Iterable[str], file: Path) -> None:
    """Validation metric and training loss over iterations: mean of the seeds, and their range."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    metric = ""
    for name in rows:
        seeds = kept.seeds(task, budget, name)
        if not seeds:
            continue
        metric = seeds[0]["metric"]
        width = 2.2 if name.startswith("dualtoken") else 1.2
        columns = list(zip(*(r["curve"] for r in seeds), strict=False))
        steps = [column[0][0] for column in columns]
        values = [[point[1] for point in column] for column in columns]
        (drawn,) = left.plot(steps, [mean(v) for v in values], label=name, linewidth=width)
        low, high = [min(v) for v in values], [max(v) for v in values]
        left.fill_between(steps, low, high, alpha=0.15, color=drawn.get_color(), linewidth=0)
        losses = list(zip(*(r["losses"] for r in seeds), strict=False))
        right.plot(
            [column[0][0] for column in losses],
            [mean(point[1] for point in column) for column in losses],
            linewidth=width,
            color=drawn.get_color(),
        )
    left.set(xlabel="iteration", ylabel=metric, title=f"{task}, validation")
    right.set(xlabel="iteration", ylabel="loss", title="training")
    if len(left.lines) <= 12:
        left.legend(fontsize=7)
    else:  # it would cover the curves
        columns = 1 + len(left.lines) // 25
        figure.legend(fontsize=7, loc="outside right upper", ncols=columns)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)
    plt.close(figure)
