"""The learning benchmark: what it trains on what, what it keeps, and what its tables say."""

import argparse
import importlib
import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from documents import COMMANDS
from narrow import ARCH
from test_configs import own_levels

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # as its scripts find each other

from learning import data, page, records, training  # noqa: E402
from learning.figures import model_config  # noqa: E402
from learning.rows import DEFAULT, ROWS, choose  # noqa: E402
from learning.tasks import CONFIGS, TASKS  # noqa: E402

learn = importlib.import_module("learn")
PREPARED = Path("/prepared")


@pytest.fixture
def some_data(tmp_path, monkeypatch):
    """The folders of all sets, without what is in them."""
    for name in data.PREPARE:
        (tmp_path / "sets" / name).mkdir(parents=True)
    monkeypatch.setenv(data.VARIABLE, str(tmp_path / "sets"))
    return tmp_path / "sets"


def make(task="cifar10", row="dualtoken_t", **options):
    return training.Training(
        TASKS[task], ROWS[row], **{"budget": "cpu", "lr": 1e-3, "seed": 0, **options}
    )


# --- configs


@pytest.mark.parametrize("task", TASKS)
def test_task_is_a_short_config_on_a_real_one(task):
    path = TASKS[task].file
    toolbox = not TASKS[task].real.startswith("mmseg")  # those configs have bases of our own
    assert own_levels(path) + toolbox <= 3
    (base,) = [line for line in path.read_text().splitlines() if line.startswith("_base_")]
    assert "/configs/mm" in base and "dualtoken_s" in base
    assert sorted(CONFIGS.glob("*.py")) == sorted({t.file for t in TASKS.values()})


CASES = [(t, r, b) for t in TASKS for r in ROWS for b in ("cpu", "gpu") if ROWS[r].fits(TASKS[t])]
FIRST = {("cifar10", "pvt_v2_b0"), ("bccd", "dualtoken_t"), ("pspnet", "mobilenet_v2")}


@pytest.mark.parametrize(
    "task, row, budget",
    [pytest.param(*case, marks=[] if case[:2] in FIRST else pytest.mark.slow) for case in CASES],
)
def test_model_builds(task, row, budget):
    """Backbone, neck and heads agree; all else of the model is that of small."""
    from mmdualtoken.report.measure import build_model, forward_once

    cfg = model_config(TASKS[task], ROWS[row], budget)
    for name in cfg.custom_imports["imports"]:
        importlib.import_module(name)
    model = build_model(cfg)
    with torch.no_grad():
        forward_once(model, cfg.default_scope, TASKS[task].size)
    ours = model_config(TASKS[task], ROWS["dualtoken_s"], budget)
    for part in ("backbone", "neck"):
        cfg.model.pop(part), ours.model.pop(part)
    for head in ("decode_head", "auxiliary_head", "head"):
        for one in (cfg.model, ours.model):
            for key in ("in_channels", "in_index"):
                one.get(head, {}).pop(key, None)
    assert cfg.model == ours.model


@pytest.mark.parametrize("task", TASKS)
def test_rows_differ_in_their_backbone_alone(task, some_data):
    """Same data, augmentation, schedule and optimizer for every row."""
    ours = training.config_of(make(task, "dualtoken_s"), PREPARED)
    assert "drop_path_rate" not in ours.model.backbone or not ours.model.backbone.drop_path_rate
    for row in DEFAULT:
        cfg = training.config_of(make(task, row), PREPARED)
        for key in ("train_dataloader", "val_dataloader", "val_evaluator", "train_cfg"):
            assert cfg[key] == ours[key]
        assert cfg.optim_wrapper == ours.optim_wrapper
        assert cfg.param_scheduler == ours.param_scheduler


def test_options_and_start_reach_the_backbone(some_data):
    cfg = training.config_of(make("bccd", "small-alpha0.9", start="/f.pth"), PREPARED)
    assert cfg.model.backbone.alpha == 0.9
    assert cfg.model.backbone.init_cfg.checkpoint == "/f.pth"
    assert training.config_of(make("bccd"), PREPARED).model.backbone.get("init_cfg") is None


def parts_of(cfg):
    """Files that the config trains and evaluates on, relative to where they lie."""
    files = []
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        dataset = loader.dataset
        files.append(Path(dataset.get("ann_file") or dataset.data_prefix.seg_map_path).stem)
    return files


@pytest.mark.parametrize("task", TASKS)
def test_learning_rate_is_never_chosen_on_the_reported_split(task, some_data):
    """Its trainings read the two parts of the training data, reported ones all of it."""
    choosing = training.config_of(make(task, choosing=True), PREPARED)
    assert parts_of(choosing) == ["fit", "select", "select"]
    reported = training.config_of(make(task), PREPARED)
    names = dict(train="training", val="validation") if "camvid" in TASKS[task].data else {}
    assert parts_of(reported) == [names.get(p, p) for p in ("train", "val", "val")]
    folder = "training" if names else "train"
    assert folder in str(choosing.val_dataloader.dataset.data_prefix)  # its images, too
    if "ann_file" in choosing.val_evaluator:
        assert Path(choosing.val_evaluator.ann_file).stem == "select"
        assert Path(reported.val_evaluator.ann_file).stem == "val"


def test_parts_do_not_overlap():
    fit, select = data.divide([f"{i:03}" for i in range(103)])
    assert len(select) == 25 and not set(fit) & set(select) and len(fit) == 78
    assert max(fit) < min(select)


def test_coco_is_divided_with_its_boxes(tmp_path):
    images = [dict(id=i, file_name=f"{i:02}.jpg") for i in range(8)]
    boxes = [dict(id=i, image_id=i // 2) for i in range(16)]
    (tmp_path / "annotations").mkdir()
    content = dict(images=images, annotations=boxes, categories=[dict(id=1, name="x")])
    (tmp_path / "annotations" / "train.json").write_text(json.dumps(content))
    data._prepare_coco(tmp_path, tmp_path / "out")
    parts = [json.loads((tmp_path / "out" / f"{p}.json").read_text()) for p in ("fit", "select")]
    assert [[i["id"] for i in p["images"]] for p in parts] == [[0, 1, 2, 3, 4, 5], [6, 7]]
    assert [len(p["annotations"]) for p in parts] == [12, 4]
    assert {a["image_id"] for a in parts[1]["annotations"]} == {6, 7}


def test_missing_data_is_named(monkeypatch):
    monkeypatch.delenv(data.VARIABLE, raising=False)
    with pytest.raises(data.InputError, match="MMDUALTOKEN_DATA is None"):
        data.folder()


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


LR_NAMES = [f"cifar10/cpu/dualtoken_t/lr{lr:g}" for lr in TASKS["cifar10"].lrs]
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


def test_ablation_takes_over_the_rate(bench):
    bench, done = bench
    bench.run(ROWS["small-grid3"])
    assert done[:3] == [name.replace("dualtoken_t", "dualtoken_s") for name in LR_NAMES]
    assert done[3:] == [f"cifar10/cpu/small-grid3/seed{seed}" for seed in range(3)]


def test_transfer_trains_its_classifier_first(bench):
    bench, done = bench
    bench.task = TASKS["bccd"]
    bench.run(ROWS["small-pretrained"])
    source = "cifar10/cpu/dualtoken_s/pretraining"
    assert done[3] == source and done[4:7] == [
        f"bccd/cpu/small-pretrained/lr{lr:g}" for lr in TASKS["bccd"].lrs
    ]
    starts = {r["start"] for r in bench.kept.seeds("bccd", "cpu", "small-pretrained")}
    assert starts == {str(bench.work / source / "iter_1200.pth")}


def test_equal_choices_take_the_smaller_rate():
    choices = [record(lr=lr, value=v) for lr, v in ((1e-4, 3.0), (1e-3, 5.0), (1e-2, 5.0))]
    assert records.best_lr(choices) == 1e-3


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
        (dict(mean=60.0, **SURE), dict(mean=58.0, **SURE), 1.0, "first"),
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
    assert cv2.imread(str(tmp_path / "c.png")).shape[2] == 3


def test_times_of_a_busy_machine_are_marked(tmp_path):
    kept = records.Kept(tmp_path)
    kept.put("cifar10/cpu/resnet18/seed0", record(row="resnet18", noisy=True))
    assert records.table(kept, "cifar10", "cpu")[0]["training (ms/image)"] == "2 (busy)"


KEPT = sorted(records.RESULTS.rglob("*/*/*/*.json"))


@pytest.mark.parametrize("path", KEPT, ids=[str(p.relative_to(records.RESULTS)) for p in KEPT])
def test_kept_records_follow_the_schema(path):
    content = json.loads(path.read_text())
    if path.stem == "model":
        assert content["parameters"] > 1e5 and content["flops"] > 1e6
        return
    assert records.check(content) == []
    task, budget, row = path.relative_to(records.RESULTS).parts[:3]
    assert (content["task"], content["budget"], content["row"]) == (task, budget, row)
    assert row in ROWS and 0 <= content["value"] <= 100
    assert content["curve"][-1][0] == content["iters"]
    assert content["curve"][-1][1] == content["value"]


def test_rows_that_say_nothing_about_a_task_are_left_out():
    fits = {t: [r for r in ROWS if ROWS[r].fits(TASKS[t])] for t in TASKS}
    assert set(DEFAULT) <= set.intersection(*map(set, fits.values()))
    assert set(ROWS) - set(fits["bccd"]) == {"small-out_bn"}
    assert set(ROWS) - set(fits["pspnet"]) == {"small-out_bn", "resnet18-pretrained"}
    dense = {"small-grid14", "small-out_ln", "small-pretrained", "small-pretrained-out_ln"}
    assert set(ROWS) - set(fits["cifar10"]) == dense | {"resnet18-pretrained"}


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
    text = page.PAGE.read_text()
    assert page.render(text, records.Kept()) == text
    assert {found[2] for found in page.SECTION.finditer(text)} == set(TASKS)


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


# --- a training through the real tool


def photos(folder, count):
    """Zips of tiny photos, as CIFAR-10 comes."""
    generator = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    for split in ("train", "val"):
        with zipfile.ZipFile(folder / f"{split}.zip", "w") as file:
            for label, name in enumerate(names):
                for i in range(count):
                    image = generator.integers(0, 20, (32, 32, 3), dtype=np.uint8) + 20 * label
                    file.writestr(f"{name}/{i:04}.jpg", cv2.imencode(".jpg", image)[1].tobytes())


@pytest.mark.slow
def test_training_is_real_and_goes_on_where_it_was_killed(some_data, tmp_path, monkeypatch):
    """A narrow model through tools/train.py; killed after its first checkpoint, it resumes."""
    photos(some_data / "cifar10", 8)
    task = TASKS["cifar10"]
    budget = replace(task.budgets["cpu"], iters=9, lr_iters=4, batch=4)
    options = dict(arch=dict(ARCH), out_indices=(2,))
    row = replace(ROWS["dualtoken_t"], options=options)
    narrow = dict(neck=dict(in_channels=ARCH["embed_dims"][2], out_channels=32))
    budget = replace(budget, model=narrow | dict(head=dict(in_channels=32)))
    task = replace(task, budgets=dict(cpu=budget))
    one = training.Training(task, row, "cpu", 1e-3, 0)
    prepared, work = tmp_path / "data", tmp_path / "work"
    straight = training.run(one, prepared, tmp_path / "other", 1)
    assert [i for i, _ in straight["curve"]] == [3, 6, 9]

    work_dir = work / one.name
    with monkeypatch.context() as patch:
        patch.setattr(training, "command_of", kill_after(training.command_of, work_dir))
        with pytest.raises(training.InputError, match="ended with status"):
            training.run(one, prepared, work, 1)
    assert (work_dir / "last_checkpoint").is_file()
    resumed = training.run(one, prepared, work, 1)
    assert resumed["value"] == straight["value"] and resumed["curve"] == straight["curve"]
    assert not list(work_dir.glob("*.pth"))


def kill_after(command_of, work_dir):
    """The command in a shell that ends it as soon as there is a checkpoint."""

    def wrapped(one, folder):
        command = " ".join(command_of(one, folder))
        wait = f"while [ ! -e {work_dir}/last_checkpoint ]; do sleep 0.05; done"
        return ["bash", "-c", f"{command} & p=$!; {wait}; kill -9 $p; wait $p"]

    return wrapped
