"""The learning benchmark's records: which trainings a row has, what is kept, what tables say."""

import argparse
import subprocess
import sys

import cv2
import learn
import pytest
from documents import COMMANDS
from learning import page, records, training
from learning.rows import DEFAULT, ROWS, choose
from learning.tasks import LRS, TASKS

# --- bookkeeping


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A bench whose trainings are invented: lr 1e-3 is best; returns (bench, what was trained)."""
    done = []

    def run(one, prepared, work, threads, keep=False):
        if one.name in stop:
            raise KeyboardInterrupt
        done.append(one.name)
        return record(
            task=one.task.name,
            row=one.row.name,
            lr=one.lr,
            seed=one.seed,
            choosing_lr=one.choosing,
            trained_on=one.parts[0],
            evaluated_on=one.parts[1],
            value=50.0 + one.seed % 7 - (one.lr != 1e-3),
            start=one.start,
            iters=one.iters,
            batch=one.batch,
        )

    stop = set()
    monkeypatch.setattr(training, "run", run)
    monkeypatch.setattr(
        learn, "figures_of", lambda *args: dict(parameters=1e6, flops=1e9, size=[1, 1])
    )
    args = argparse.Namespace(
        budget="cpu", threads=1, seeds=3, work_dir=tmp_path / "work", results=tmp_path / "results"
    )
    made = learn.Bench(TASKS["cifar10"], args)
    made.stop = stop
    return made, done


def record(**values):
    """A record as `training.run` gives it."""
    base = dict.fromkeys(records.SCHEMA, "x") | dict(
        task="cifar10", row="dualtoken_t", budget="cpu", choosing_lr=False, lr=1e-3, seed=0
    )
    base |= dict(trained_on="train", evaluated_on="val", iters=4, batch=2, metric="top-1")
    base |= dict(value=50.0, curve=[[2, 40.0], [4, 50.0]], losses=[[2, 2.0], [4, 1.0]])
    base |= dict(ms_per_image=1.5, wall_s=2.0, memory_mb=100.0, noisy=False, start=None, threads=1)
    return base | values


MIDDLE = LRS[1:4]  # what is tried if none of its ends is best
LR_NAMES = [f"cifar10/cpu/dualtoken_t/lr{lr:g}" for lr in MIDDLE]
SEED_NAMES = [f"cifar10/cpu/dualtoken_t/seed{seed}" for seed in range(3)]


def test_row_chooses_a_rate_then_trains_each_seed(bench):
    bench, done = bench
    bench.run(ROWS["dualtoken_t"])
    assert done == LR_NAMES + SEED_NAMES
    seeds = bench.kept.seeds("cifar10", "cpu", "dualtoken_t")
    assert [r["lr"] for r in seeds] == [1e-3] * 3
    assert [records.check(r) for r in seeds] == [[]] * 3
    assert not list(bench.kept.folder.rglob("*.part"))


def test_interrupted_row_goes_on_with_the_next_seed(bench):
    bench, done = bench
    bench.stop.add(SEED_NAMES[1])
    with pytest.raises(KeyboardInterrupt):
        bench.run(ROWS["dualtoken_t"])
    assert done == LR_NAMES + SEED_NAMES[:1]
    bench.stop.clear()
    done.clear()
    bench.run(ROWS["dualtoken_t"])
    assert done == SEED_NAMES[1:]
    done.clear()
    bench.run(ROWS["dualtoken_t"])
    assert done == []


def test_training_that_another_process_runs_is_left_alone(bench):
    bench, done = bench
    row = ROWS["dualtoken_t"]
    held = pytest.raises(learn.InputError, match=f"{LR_NAMES[1]} is being trained by another")
    with training.alone(bench.work / LR_NAMES[1]), held:
        bench.run(row)
    assert done == LR_NAMES[:1]
    bench.run(row)
    assert done == LR_NAMES + SEED_NAMES


def test_ablation_takes_over_the_rate(bench):
    bench, done = bench
    bench.run(ROWS["small-grid3"])
    chosen = [name.replace("dualtoken_t", "dualtoken_s") for name in LR_NAMES]
    assert done[: len(LR_NAMES)] == chosen
    assert done[len(LR_NAMES) :] == [f"cifar10/cpu/small-grid3/seed{seed}" for seed in range(3)]


def choice(lr, value, **values):
    """A record of a training that chose the rate."""
    budget = TASKS["cifar10"].budgets["cpu"]
    values = dict(iters=budget.lr_iters, batch=budget.batch) | values
    return record(lr=lr, choosing_lr=True, value=value, **values)


def test_rate_of_a_larger_grid_is_not_mixed_with_old_trainings(bench):
    """What is new in the grid is trained; if it is chosen, the row is to be trained anew."""
    bench, done = bench
    low, *_, high = MIDDLE
    bench.kept.put(LR_NAMES[0], choice(low, 60.0))
    bench.run(ROWS["dualtoken_t"])
    assert {r["lr"] for r in bench.kept.seeds("cifar10", "cpu", "dualtoken_t")} == {low}
    bench.kept.put(LR_NAMES[-1], choice(high, 70.0))
    done.clear()
    with pytest.raises(learn.InputError, match=f"rate of {low:g}, but {high:g} is the row"):
        bench.run(ROWS["dualtoken_t"])
    assert done == [f"cifar10/cpu/dualtoken_t/lr{LRS[-1]:g}"]  # no seed


@pytest.mark.parametrize("changed", [dict(iters=80), dict(batch=8)])
def test_trainings_of_another_budget_are_not_mixed(bench, changed):
    bench, done = bench
    bench.kept.put(LR_NAMES[0], choice(MIDDLE[0], 60.0, **changed))
    with pytest.raises(learn.InputError, match="but the budget is 150 of 32 now"):
        bench.run(ROWS["dualtoken_t"])
    assert done == []


def test_transfer_trains_its_classifier_first(bench):
    bench, done = bench
    bench.task = TASKS["bccd"]
    bench.run(ROWS["small-pretrained"])
    source = "cifar10/cpu/dualtoken_s/pretraining"
    chosen = [f"bccd/cpu/small-pretrained/lr{lr:g}" for lr in MIDDLE]
    assert done[len(LR_NAMES) :][: 1 + len(chosen)] == [source, *chosen]
    starts = {r["start"] for r in bench.kept.seeds("bccd", "cpu", "small-pretrained")}
    assert starts == {str(bench.work / source / "iter_1200.pth")}


@pytest.mark.parametrize(
    "best, tried",
    [
        (1e-3, [3e-4, 1e-3, 3e-3]),
        (3e-4, [1e-4, 3e-4, 1e-3, 3e-3]),
        (1e-4, [1e-4, 3e-4, 1e-3, 3e-3]),
        (3e-3, [3e-4, 1e-3, 3e-3, 1e-2]),
        (1e-2, [3e-4, 1e-3, 3e-3, 1e-2]),
    ],
)
def test_search_goes_on_beyond_the_best_rate(best, tried):
    order = []

    def trial(lr):
        order.append(lr)
        return record(lr=lr, value=-abs(LRS.index(lr) - LRS.index(best)))

    found = records.search(LRS, trial)
    assert [r["lr"] for r in found] == tried == sorted(order)
    assert order[:3] == [3e-4, 1e-3, 3e-3] and records.best_lr(found) == best


def test_equal_choices_take_the_smaller_rate():
    choices = [record(lr=lr, value=v) for lr, v in ((1e-4, 3.0), (1e-3, 5.0), (1e-2, 5.0))]
    assert records.best_lr(choices) == 1e-3
    choices[1] |= dict(value=0.0, diverged=True)
    assert records.best_lr(choices) == 1e-2
    worst = [record(lr=1e-4, value=0.0, diverged=True), record(lr=1e-3, value=0.0)]
    assert records.best_lr(worst) == 1e-3  # detectors without a box have 0 as well


def test_commit_tells_of_changed_code_but_not_of_new_results(tmp_path):
    assert training.commit_of(tmp_path) == "unknown"
    code = tmp_path / "benchmarks" / "learning" / "rows.py"
    code.parent.mkdir(parents=True)
    code.write_text("ROWS = {}\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "rows"]):
        subprocess.run([*git, *words], check=True)
    commit = training.commit_of(tmp_path)
    assert len(commit) >= 7 and set(commit) <= set("0123456789abcdef")
    result = code.parent / "results" / "seed0.json"
    result.parent.mkdir()
    result.write_text("{}")
    assert training.commit_of(tmp_path) == commit
    code.write_text("ROWS = {1: 2}\n")
    assert training.commit_of(tmp_path) == commit + "+"


@pytest.mark.parametrize(
    "spread, text",
    [(None, "–"), (0.04, "0.0"), (1.96, "2.0"), (2.0, "2.0"), (2.04, "2.04"), (3, "3.0")],
)
def test_spread_does_not_hide_in_rounding_why_it_is_inconclusive(spread, text):
    assert records.spread_text(spread) == text


def test_rate_at_the_end_of_the_grid_is_marked():
    choices = [record(lr=lr, value=3.0) for lr in (1e-4, 1e-3, 1e-2)]
    texts = [records.lr_text(lr, choices) for lr in (1e-4, 1e-3, 1e-2)]
    assert texts == ["0.0001 (edge)", "0.001", "0.01 (edge)"]
    assert records.lr_text(1e-4, choices[:1]) == "0.0001"


# --- tables


@pytest.mark.parametrize(
    "values, mean, spread, conclusive",
    [
        ([50.0, 51.0, 52.0], 51.0, 1.0, True),
        ([48.0, 51.0, 54.0], 51.0, 3.0, False),  # spread of more than 2 points
        ([50.0, 51.0], 50.5, 0.5**0.5, False),  # fewer than three seeds
        ([50.0], 50.0, None, False),
    ],
)
def test_summary(values, mean, spread, conclusive):
    found = records.summary([record(value=v) for v in values])
    assert found["mean"] == mean and found["conclusive"] is conclusive
    assert found["spread"] == (None if spread is None else pytest.approx(spread))


SURE = dict(spread=1.0, conclusive=True)


@pytest.mark.parametrize(
    "own, rival, flops, says",
    [
        (dict(mean=60.0, **SURE), dict(mean=58.0, **SURE), 1.0, "first, ahead of resnet18 by 2.0"),
        (
            dict(mean=58.5, **SURE),
            dict(mean=58.0, **SURE),
            1.0,
            "first, within the spread of resnet18",
        ),
        (dict(mean=57.5, **SURE), dict(mean=58.0, **SURE), 1.0, "within the spread of resnet18"),
        (dict(mean=55.0, **SURE), dict(mean=58.0, **SURE), 1.0, "behind resnet18 by 3.0"),
        (dict(mean=55.0, **SURE), dict(mean=58.0, **SURE), 1.6, "no rival yet"),
        (dict(mean=60.0, **SURE), dict(mean=9.0, spread=3.0, conclusive=False), 1, "inconclusive"),
    ],
)
def test_verdict(own, rival, flops, says):
    summaries = {"dualtoken_s": own, "dualtoken_t": dict(mean=99.0, **SURE), "resnet18": rival}
    flops = {"dualtoken_s": 1.0, "dualtoken_t": 0.5, "resnet18": flops}
    assert records.verdict("dualtoken_s", summaries, flops) == says


def test_verdict_is_among_rows_of_one_optimizer():
    means = {"dualtoken_t": 50.0, "resnet18": 49.0, "dualtoken_t-muon": 52.0, "resnet18-muon": 54.0}
    summaries = {name: dict(mean=mean, **SURE) for name, mean in means.items()}
    says = [records.verdict(name, summaries, {}) for name in ("dualtoken_t", "dualtoken_t-muon")]
    assert says == ["first, within the spread of resnet18", "behind resnet18-muon by 2.0"]


def test_table_and_plot_are_made_of_the_kept_records(tmp_path):
    kept = records.Kept(tmp_path)
    for row, values in dict(dualtoken_t=(50.0, 51.0, 52.0), resnet18=(40.0, 60.0)).items():
        for seed, value in enumerate(values):
            kept.put(f"cifar10/cpu/{row}/seed{seed}", record(row=row, seed=seed, value=value))
        kept.put(f"cifar10/cpu/{row}/model", dict(parameters=2e6, flops=3e8))
    kept.put("cifar10/cpu/resnet18/lr0.1", record(row="resnet18", value=99.0, choosing_lr=True))
    lines = records.table(kept, "cifar10", "cpu")
    assert [(x["row"], x["top-1"], x["says"]) for x in lines] == [
        ("dualtoken_t", "51.0 ± 1.0", ""),
        ("resnet18", "50.0 ± 14.1", "inconclusive"),
    ]
    assert lines[0]["parameters (M)"] == "2.00" and lines[0]["FLOPs (G)"] == "0.300"
    assert lines[0]["among rivals"] == "inconclusive"
    assert "| dualtoken_t | 51.0 ± 1.0 | 3 |" in records.markdown(lines)
    records.plot(kept, "cifar10", "cpu", kept.rows("cifar10", "cpu"), tmp_path / "c.png")
    assert cv2.imread(str(tmp_path / "c.png")).std() > 5


def test_each_table_stands_on_the_page_once():
    text = "".join(p.read_text(encoding="utf-8") for p in page.PAGES)
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert len(set(headings)) == len(headings)
    shown = sorted((found[2], found[3]) for found in page.SECTION.finditer(text))
    kept = records.Kept()
    finished = [(t.name, b) for t in TASKS.values() for b in t.budgets if kept.rows(t.name, b)]
    assert shown == sorted(finished)


def test_a_row_is_compared_with_rivals_of_other_tables(tmp_path):
    kept = records.Kept(tmp_path)
    rows = {"tiny-stem_contrast": 51.0, "dualtoken_t": 45.0, "resnet18": 50.0, "pvt_v2_b0": 70.0}
    for row, value in rows.items():
        for seed in range(3):
            kept.put(f"bccd/cpu/{row}/seed{seed}", record(row=row, seed=seed, value=value + seed))
        flops = 9e9 if row == "pvt_v2_b0" else 3e8  # too costly to be a rival
        kept.put(f"bccd/cpu/{row}/model", dict(parameters=2e6, flops=flops))
    lines = records.table(kept, "bccd", "cpu", ["dualtoken_t", "tiny-stem_contrast"])
    assert [(x["row"], x["among rivals"]) for x in lines] == [
        ("tiny-stem_contrast", "first, within the spread of resnet18"),
        ("dualtoken_t", "behind resnet18 by 5.0"),
    ]


def test_times_of_a_busy_machine_are_marked(tmp_path):
    kept = records.Kept(tmp_path)
    kept.put("cifar10/cpu/resnet18/seed0", record(row="resnet18", noisy=True))
    assert records.table(kept, "cifar10", "cpu")[0]["training (ms/image)"] == "2 (busy)"


KEPT = {
    name: record
    for file in sorted(records.RESULTS.glob("*/*.jsonl"))
    for name, record in records.Kept().read(file.parent.name, file.stem).items()
}


def test_no_record_is_lost():
    """579 trainings and models were kept when their files became lines."""
    assert len(KEPT) >= 579


@pytest.mark.parametrize("name", KEPT)
def test_kept_records_follow_the_schema(name):
    content = KEPT[name]
    if name.endswith("/model"):
        assert content["parameters"] > 1e5 and content["flops"] > 1e6
        return
    assert records.check(content) == []
    task, budget, row, _ = name.split("/")
    assert (content["task"], content["budget"], content["row"]) == (task, budget, row)
    assert row in ROWS and 0 <= content["value"] <= 100
    last, value = content["curve"][-1]
    assert value == content["value"]
    if content.get(records.DIVERGED):
        assert value == 0 and last < content["iters"]
    else:
        assert last == content["iters"]


def with_muon(*names):
    return {name + end for name in names for end in ("", records.MUON)}


def test_rows_that_say_nothing_about_a_task_are_left_out():
    left_out = {t: {r for r in ROWS if not ROWS[r].fits(TASKS[t])} for t in TASKS}
    for task in TASKS:  # the light heads have no config of two of them
        without = {"pvt_v2_b0", "mobilevit_s"} if task.endswith(("rtmdet", "segformer")) else set()
        assert left_out[task] & set(DEFAULT) == without
    concat = {"small-concat", "small-concat_stride4"}
    cspnext, mit = with_muon("cspnext_t"), with_muon("mit_b0")
    assert left_out["nuclei"] == concat | cspnext | mit
    stride4 = {"small-stride4", "small-stride4_contrast", "small-stride4_deep"}
    stride4 |= {"tiny-stride4_deep", "tiny-stride4_deep_contrast", "mobilevit_s-stride8"}
    assert left_out["bccd"] == concat | stride4 | cspnext | mit
    for segmentor in ("deeplabv3", "pspnet"):
        assert left_out[segmentor] == {"resnet18-pretrained"} | stride4 | cspnext | mit
    dense = {"small-grid14", "small-pretrained", "small-pretrained-out_ln", "resnet18-pretrained"}
    assert left_out["cifar10"] == dense | concat | stride4 | cspnext | mit
    no_config = concat | stride4 | with_muon("pvt_v2_b0", "mobilevit_s", "edgenext_s")
    assert left_out["bccd_rtmdet"] == no_config | mit
    assert left_out["segformer"] == no_config | cspnext | {"resnet18-pretrained"}


def test_budget_that_a_task_lacks_is_refused_with_those_it_has(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["learn.py", "bccd", "--budget", "long"])
    with pytest.raises(learn.InputError, match="bccd has no budget 'long', but cpu, gpu"):
        learn.main()


def test_unknown_rows_are_named():
    with pytest.raises(learn.InputError, match="--rows vgg: unknown; allowed: backbones"):
        choose(["vgg"])
    assert [row.name for row in choose(["transfer", "resnet18"])][-1] == "resnet18"


# --- the page


PAGE = "docs/learning.md"
COMMANDS_ON_PAGE = [words for page, words in COMMANDS if page == PAGE]


@pytest.mark.parametrize("words", COMMANDS_ON_PAGE, ids=" ".join)
def test_commands_on_the_page_are_understood(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", list(words[1:]))
    args = learn.parse_args()
    assert args.task == words[2] and choose(args.rows)


def test_tables_on_the_page_are_those_of_the_records():
    texts = [path.read_text() for path in page.PAGES]
    assert len(texts[0].splitlines()) <= 150
    text = "".join(texts)
    kept = records.Kept()
    assert page.render(text, kept) == text
    assert [found[2] for found in page.OVERVIEW.finditer(text)] == ["cpu"]
    assert [found[2] for found in page.LIGHT.finditer(text)] == list(page.LIGHT_TASKS)


def test_light_systems_have_accuracy_and_cost_in_one_line(tmp_path):
    kept = records.Kept(tmp_path)
    variant = "tiny-weights-out_bn-muon"  # has no line of its own
    for row, value in {"tiny-weights-muon": 42.0, "cspnext_t": 30.0, variant: 50.0}.items():
        kept.put(f"bccd_rtmdet/cpu/{row}/model", dict(flops=1e9, parameters=1e6))
        for seed in range(3 if row == "cspnext_t" else 2):
            seed_record = record(row=row, value=value, metric="box AP")
            kept.put(f"bccd_rtmdet/cpu/{row}/seed{seed}", seed_record)
    text = "<!-- light: rtmdet -->\nold\n<!-- end -->"
    ours, rival = page.render(text, kept).splitlines()[4:6]
    # Counts at 640 x 640 as in docs/speed-tables.md, which has the latencies, too.
    assert ours == (
        "| dualtoken_t | shipped weights, Muon | 42.0 ± 0.0 inconclusive "
        "| 5.3 | 7.3 | 1.00 | 0.73 | 0.51 |"
    )
    assert rival == "| cspnext_t | scratch, AdamW | 30.0 ± 0.0 | 4.9 | 8.0 | 1.03 | 0.69 | 0.39 |"


def test_overview_has_each_finished_task_with_the_best_option_and_the_rivals(tmp_path):
    kept = records.Kept(tmp_path)
    rows = dict(dualtoken_s=40.0, resnet18=45.0, pvt_v2_b0=30.0)
    rows |= {"small-area": 39.0, "small-concat": 46.0, "tiny-out_ln": 50.0, "small-grid3": 60.0}
    for row, value in rows.items():
        kept.put(f"pspnet/cpu/{row}/model", dict(flops=1e9, parameters=1e6))
        for seed in range(2 if row == "pvt_v2_b0" else 3):
            kept.put(f"pspnet/cpu/{row}/seed{seed}", record(row=row, value=value, metric="mIoU"))
    for row, more in {"dualtoken_s": 0.0, "small-area": 0.5}.items():
        for seed in range(3):
            scattered = record(row=row, value=40.0 + seed + more, metric="mIoU")
            kept.put(f"deeplabv3/cpu/{row}/seed{seed}", scattered)
    for seed in range(3):  # a spread of 5: better on average, but not shown before what is sure
        lottery = record(row="small-alpha0.9", value=45.0 + 5 * seed, metric="mIoU")
        kept.put(f"deeplabv3/cpu/small-alpha0.9/seed{seed}", lottery)
    lines = page.overview(kept, "cpu").strip().splitlines()
    assert len(lines) == 2 + 2
    assert "small-area (+0.5 over small, within the spread): 41.5 ± 1.0" in "".join(lines)
    # Tiny itself is not there to be better than, and an ablation is no option.
    assert lines[-1] == (
        "| pspnet, mIoU | – | 40.0 ± 0.0, behind resnet18 by 5.0 "
        "| small-concat (+6.0 over small): 46.0 ± 0.0, first, ahead of resnet18 by 1.0 "
        "| resnet18 45.0 ± 0.0; pvt_v2_b0 30.0 ± 0.0, inconclusive |"
    )
    assert lines[2].startswith("| deeplabv3, mIoU | – | 41.0 ± 1.0, ")


def test_page_shows_a_group_beside_what_it_is_compared_with(tmp_path):
    kept = records.Kept(tmp_path)
    for row in ("dualtoken_s", "small-grid3"):
        kept.put(f"pspnet/cpu/{row}/seed0", record(row=row))
    text = "<!-- table: pspnet cpu -->\nold\n<!-- end -->"
    shown = page.render(text, kept)
    assert "old" not in shown and shown.startswith(text.split("old")[0])
    assert page.rows_of(kept, "pspnet", "cpu", "ablations") == ["dualtoken_s", "small-grid3"]
    assert page.rows_of(kept, "pspnet", "cpu", "choices") == []
    assert shown.count("| dualtoken_s | 50.0 ± – | 1 |") == 2  # among backbones, and beside grid3
    none = page.render(text, records.Kept(tmp_path / "none"))
    assert "Nothing is finished yet." in none and page.render(none, kept) == shown
