"""The tables of the pages about learning, made of the kept records."""

import csv
import re
from pathlib import Path

from . import records
from .rows import GROUPS, ROWS
from .tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]
PAGES = tuple(
    ROOT / "docs" / name for name in ("learning.md", "learning-tables.md", "light-systems.md")
)
IMAGES = ROOT / "docs" / "images"
SECTION = re.compile(r"(<!-- table: (\w+) (\w+) -->\n).*?(<!-- end -->)", re.S)
OVERVIEW = re.compile(r"(<!-- overview: (\w+) -->\n).*?(<!-- end -->)", re.S)
LIGHT = re.compile(r"(<!-- light: (\w+) -->\n).*?(<!-- end -->)", re.S)
#: Costs of whole light systems, by benchmarks/systems.py, and the tasks that have the same heads.
COSTS = ROOT / "benchmarks" / "results" / "cpu_systems_light" / "systems.csv"
LIGHT_TASKS = dict(
    rtmdet=("bccd_rtmdet", "coco2k_rtmdet"), segformer=("segformer", "voc_segformer")
)
LATENCIES = {"eager": "eager", "openvino": "OpenVINO", "openvino-int8": "OpenVINO, 8 bits"}
TITLES = dict(
    backbones="Backbones",
    ablations="Ablations of the paper's tables, `small`",
    choices="Choices that nothing in the paper fixes",
    muon="Muon in place of AdamW",
    weights="From the shipped weights",
    transfer="From a classifier trained on cifar10",
    checks="A rival without its map at stride 4",
)
#: Rows of the backbones as they are, by what the names of rows on them begin with.
PLAIN = dict(tiny="dualtoken_t", small="dualtoken_s")
#: Rows that a group is compared with.
BESIDE = dict(
    backbones=(),
    ablations=("dualtoken_s",),
    choices=("dualtoken_s", "dualtoken_t"),
    muon=("dualtoken_s", "dualtoken_t"),
    weights=("dualtoken_s", "dualtoken_t"),
    transfer=("dualtoken_s", "resnet18"),
    checks=("dualtoken_s", "mobilevit_s"),
)


def rows_of(kept: records.Kept, task: str, budget: str, group: str) -> list[str]:
    """Finished rows of a group, with those it is compared with; none if it has none itself."""
    there = kept.rows(task, budget)
    own = [name for name in there if name in ROWS and ROWS[name].group == group]
    return [*(name for name in BESIDE[group] if name in there and own), *own]


def section(kept: records.Kept, task: str, budget: str) -> str:
    """All tables of a task and budget in Markdown, and the picture of its backbones' curves."""
    parts = []
    for group in GROUPS:
        names = rows_of(kept, task, budget, group)
        if not names:
            continue
        lines = records.table(kept, task, budget, names)
        if group not in ("backbones", "choices", "muon"):  # nothing to choose instead of a rival
            lines = [{k: v for k, v in line.items() if k != "among rivals"} for line in lines]
        parts.append(f"**{TITLES[group]}**\n\n{records.markdown(lines)}")
        if group == "backbones":
            picture = f"learning_{task}_{budget}.png"
            parts.append(f"![Curves of {task}](images/{picture})\n")
    return "\n" + "\n".join(parts or ["Nothing is finished yet.\n"]) + "\n"


def _standing(line: dict, metric: str) -> str:
    """One row in short: what it has, and how it stands among rivals."""
    said = line["among rivals"] or line["says"]
    return f"{line[metric]}, {said}" if said else line[metric]


def _best_option(kept: records.Kept, task: str, budget: str) -> tuple[str, str] | None:
    """The best choice above the same backbone without it, conclusive ones first; by how much."""
    found = {
        name: records.summary(kept.seeds(task, budget, name)) for name in kept.rows(task, budget)
    }
    means = {name: one["mean"] for name, one in found.items()}
    gains = {}
    for name in means:
        plain = PLAIN.get(name.split("-")[0])
        if name in ROWS and ROWS[name].group == "choices" and plain in means:
            gains[name] = means[name] - means[plain]
    better = [name for name, gain in gains.items() if gain > 0]
    if not better:
        return None
    best = max(better, key=lambda name: (found[name]["conclusive"], means[name]))
    short = best.split("-")[0]
    spread = max(one["spread"] or 0 for one in (found[best], found[PLAIN[short]]))
    within = ", within the spread" if gains[best] <= spread else ""
    return best, f"{gains[best]:+.1f} over {short}{within}"


def overview(kept: records.Kept, budget: str) -> str:
    """A line per task with tiny or small: these, the best of our options, and rivals."""
    found = []
    for name, task in TASKS.items():
        if not set(PLAIN.values()) & set(kept.rows(name, budget)):
            continue
        lines = {line["row"]: line for line in records.table(kept, name, budget)}
        metric = task.metric[1]
        short = {row: _standing(line, metric) for row, line in lines.items()}
        rivals = set(rows_of(kept, name, budget, "backbones")) - set(PLAIN.values())
        option = _best_option(kept, name, budget)
        cells = {"task": f"{name}, {metric}"}
        cells |= {row: short.get(row, "–") for row in PLAIN.values()}
        cells["best option of ours"] = (
            f"{option[0]} ({option[1]}): {short[option[0]]}" if option else "none is better"
        )
        others = [f"{row} {text}" for row, text in short.items() if row in rivals]
        found.append({**cells, "other backbones": "; ".join(others) or "–"})
    heads = list(found[0])
    rows = [heads, ["---"] * len(heads), *([line[head] for head in heads] for line in found)]
    return "\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in rows) + "\n\n"


def light(kept: records.Kept, system: str) -> str:
    """Accuracy, size and latency of a light system: a line per backbone and start."""
    with COSTS.open(encoding="utf-8") as file:
        costs = {
            (c["model"], c["variant"]): c for c in csv.DictReader(file) if c["system"] == system
        }
    tasks = [task for task in LIGHT_TASKS[system] if kept.rows(task, "cpu")]
    found = {
        task: {line["row"]: line for line in records.table(kept, task, "cpu")} for task in tasks
    }
    rows = dict.fromkeys(row for task in tasks for row in found[task])
    rows = [row for row in rows if ROWS[row].lr_of is None]  # not the variants of a row
    lines = []
    for name in rows:
        short = name.split("-")[0]
        backbone = PLAIN.get(short, short)
        start = "shipped weights" if ROWS[name].weights else "scratch"
        cells = {"row": backbone, "start": f"{start}, {'Muon' if ROWS[name].muon else 'AdamW'}"}
        for task in tasks:
            line, metric = found[task].get(name), TASKS[task].metric[1]
            value = f"{line[metric]} {line['says']}".strip() if line else "–"
            cells[f"{TASKS[task].data}, {metric}"] = value
        eager = costs[backbone, "eager"]
        cells["parameters (M)"] = f"{float(eager['params M']):.1f}"
        cells["GMACs"] = f"{float(eager['GMACs']):.1f}"
        for variant, head in LATENCIES.items():
            cells[head] = f"{float(costs[backbone, variant]['time']):.2f}"
        lines.append(cells)
    return "\n" + records.markdown(lines) + "\n"


def render(text: str, kept: records.Kept) -> str:
    """A page's text with all its tables written again."""

    def written(found: re.Match) -> str:
        return found[1] + section(kept, found[2], found[3]) + found[4]

    text = OVERVIEW.sub(lambda found: found[1] + overview(kept, found[2]) + found[3], text)
    text = LIGHT.sub(lambda found: found[1] + light(kept, found[2]) + found[3], text)
    return SECTION.sub(written, text)


def write(kept: records.Kept) -> None:
    """Rewrite the tables of the pages, and their pictures."""
    for page in PAGES:
        page.write_text(render(page.read_text(encoding="utf-8"), kept), encoding="utf-8")
    for task in TASKS:
        for budget in TASKS[task].budgets:
            names = rows_of(kept, task, budget, "backbones")
            if names:
                file = IMAGES / f"learning_{task}_{budget}.png"
                records.plot(kept, task, budget, names, file)
