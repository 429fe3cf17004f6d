"""The report of the paper's tables: what it counts, what it reads from runs, what it writes."""

import base64
import json
import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdualtoken.engine.complexity import count_macs
from mmdualtoken.engine.errors import InputError
from mmdualtoken.report import collect, tables
from mmdualtoken.report.collect import Check, Collector, Options, make_job, make_jobs, read_config
from mmdualtoken.report.commands import pending
from mmdualtoken.report.files import check_own, write_own
from mmdualtoken.report.measure import BOX_ROIS, MASK_ROIS, build_model, forward_once, measure
from mmdualtoken.report.mini import write_mini_config
from mmdualtoken.report.runs import Schedule, pick_run, read_runs
from mmdualtoken.report.schema import TOP1, Budget, Delta, Row, Table

ROOT = Path(__file__).resolve().parent.parent
NARROW = {
    "mmpretrain": "tests/configs/classifier_narrow.py",
    "mmseg": "tests/configs/fcn_narrow.py",
    "mmdet": "tests/configs/maskrcnn_narrow.py",
}
EARLY, LATE, LATER = "20260101_000000", "20260102_000000", "20260103_000000"


def narrow(scope="mmpretrain"):
    return Config.fromfile(ROOT / NARROW[scope])


# Tables


def all_rows():
    return [row for table in tables.TABLES.values() for row in table.rows if row.config]


def test_every_config_of_the_toolboxes_is_in_a_table_and_there():
    there = {
        str(path.relative_to(ROOT))
        for toolbox in ("mmdet", "mmseg", "mmpretrain")
        for path in (ROOT / "configs" / toolbox).glob("*.py")
        if not path.stem.endswith("demo")
    }
    assert {row.config for row in all_rows()} == there


@pytest.mark.parametrize("number", tables.TABLES)
def test_labels_and_configs_are_unique(number):
    rows = tables.TABLES[number].rows
    assert len({row.label for row in rows}) == len(rows)
    configs = [row.config for row in rows if row.config]
    assert len(set(configs)) == len(configs)


def test_stated_accuracies():
    """The only ones that the paper's text, or LightViT's repository, states."""
    stated = {
        (table.number, row.label): {k: v for k, v in row.stated.items() if k != "macs"}
        for table in tables.TABLES.values()
        for row in table.rows
        if row.stated and table.number <= 5
    }
    assert stated == {
        (2, "DualToken-ViT-T (mix)"): {"top1": "75.4"},
        (2, "DualToken-ViT-S (mix)"): {"top1": "79.4"},
        (2, "DualToken-ViT-S (mlp)"): {"top1": "79.5"},
        (2, "LightViT-T"): {"top1": "78.7"},
        (3, "DualToken-ViT-S, 1x"): {"box_ap": "41.1", "mask_ap": "38.1"},
        (3, "LightViT-T, 1x"): {"box_ap": "37.8", "mask_ap": "35.9"},
    }


# Counting


@pytest.mark.parametrize("scope", NARROW)
def test_measure_counts_the_same_on_both_devices(scope):
    cfg = narrow(scope)
    model = build_model(cfg)
    on_cpu = count_macs(forward_once, model, scope, (64, 96))
    measured = measure(cfg, (64, 96))
    assert measured.macs == on_cpu > 0
    assert measured.params == sum(p.numel() for p in model.parameters())


def test_roi_heads_count_for_1000_boxes_and_100_masks():
    cfg = narrow("mmdet")
    model = build_model(cfg)
    heads = model.roi_head
    box = count_macs(heads.bbox_head, next(model.parameters()).new_zeros(BOX_ROIS, 16, 7, 7))
    mask = count_macs(heads.mask_head, next(model.parameters()).new_zeros(MASK_ROIS, 16, 14, 14))
    assert (BOX_ROIS, MASK_ROIS) == (1000, 100)
    whole = measure(cfg, (64, 64)).macs
    cfg.model.roi_head.mask_head = None
    assert whole - measure(cfg, (64, 64)).macs == mask
    assert whole > box + mask


def test_auxiliary_head_counts_as_parameters_only():
    cfg = narrow("mmseg")
    plain = measure(cfg, (64, 64))
    cfg.model.auxiliary_head = dict(cfg.model.decode_head, in_index=1)
    with_head = measure(cfg, (64, 64))
    assert with_head.macs == plain.macs
    assert with_head.params > plain.params


def test_measure_refuses_other_toolboxes():
    with pytest.raises(InputError, match="mmrotate"):
        measure(Config(dict(default_scope="mmrotate", model=dict())))


@pytest.mark.parametrize(
    "figure, about, counted, ok",
    [
        ("100", False, 100.99, True),
        ("100", False, 101.01, False),
        ("100", False, 98.99, False),
        ("1.008", False, 1.0180, True),
        ("1.008", False, 1.0182, False),
        ("69", True, 69 - 0.5 - 0.68, True),  # 1 % of 68.5, which rounds to 69
        ("69", True, 69 - 0.5 - 0.70, False),
        ("69", False, 69 - 0.5 - 0.68, False),
    ],
)
def test_tolerance_of_a_budget(figure, about, counted, ok):
    assert Check(Budget("macs", figure, "derived", about), counted).ok is ok


# Runs


def dump(cfg, folder, **settings):
    """What MMEngine writes beside its logs when a run starts."""
    (folder / "vis_data").mkdir(parents=True)
    cfg = Config(cfg.to_dict())
    cfg.merge_from_dict(settings)
    cfg.dump(folder / "vis_data" / "config.py")


def train_log(work_dir, cfg, name, epochs, accuracy=50.0, first=1, **settings):
    """The logs of a training by epochs, two iterations each."""
    dump(cfg, work_dir / name, **settings)
    lines = []
    for epoch in range(first, epochs + 1):
        for i in (2 * epoch - 1, 2 * epoch):
            lines.append(dict(loss=1 / i, epoch=epoch, iter=i, step=i))
        lines.append({"accuracy/top1": accuracy + epoch, "time": 0.1, "step": epoch})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (work_dir / name / "vis_data" / "scalars.json").write_text(text)


def eval_log(work_dir, cfg, name, checkpoint, accuracy, **settings):
    """The outcome of tools/test.py."""
    folder = work_dir / "test" / name
    dump(cfg, folder, load_from=str(work_dir / checkpoint), **settings)
    (folder / f"{name}.json").write_text(json.dumps({"accuracy/top1": accuracy, "time": 0.1}))


@pytest.fixture
def cfg():
    cfg = narrow()
    cfg.train_cfg.max_epochs = 3
    return cfg


def test_no_runs(tmp_path, cfg):
    assert read_runs(tmp_path / "nothing", cfg) == [] and pick_run([]) is None


def test_finished_and_partial_runs(tmp_path, cfg):
    train_log(tmp_path, cfg, EARLY, 3, accuracy=10)
    train_log(tmp_path, cfg, LATE, 3, accuracy=20)
    train_log(tmp_path, cfg, LATER, 2, accuracy=30)
    runs = read_runs(tmp_path, cfg)
    assert [(r.step, r.finished) for r in runs] == [(3, True), (3, True), (2, False)]
    best = pick_run(runs)
    assert best.folder.name == LATE
    assert best.metrics == {"accuracy/top1": 23.0}
    assert best.measured_by == "validation at epoch 3"
    assert best.differs == () and best.start == "from scratch"
    assert best.losses[-1] == (6, 1 / 6)
    assert best.accuracies == tuple((e, {"accuracy/top1": 20.0 + e}) for e in (1, 2, 3))
    assert pick_run(runs[2:]).measured_by == "validation at epoch 2"


def test_schedule_of_the_config_decides_not_the_run(tmp_path, cfg):
    """A run shortened by --cfg-options is not finished, and the report says what was changed."""
    train_log(tmp_path, cfg, EARLY, 1, train_cfg=dict(max_epochs=1))
    (run,) = read_runs(tmp_path, cfg)
    assert not run.finished and run.differs == ("train_cfg.max_epochs",)


def test_test_of_the_last_checkpoint_comes_first(tmp_path, cfg):
    work_dir = tmp_path / "classifier"
    train_log(work_dir, cfg, LATE, 3, accuracy=10)
    assert not read_runs(work_dir, cfg)[0].tested
    eval_log(work_dir, cfg, LATER, "epoch_3.pth", 77.0)
    (run,) = read_runs(work_dir, cfg)
    assert run.tested and run.metrics["accuracy/top1"] == 77.0
    assert run.measured_by == "test of epoch_3.pth" and run.differs == ()


@pytest.mark.parametrize(
    "name, checkpoint",
    [(EARLY, "epoch_3.pth"), (LATER, "epoch_2.pth"), (LATER, "../other/epoch_3.pth")],
    ids=["before the training", "another checkpoint", "another work dir"],
)
def test_tests_of_something_else_do_not_count(name, checkpoint, tmp_path, cfg):
    work_dir = tmp_path / "classifier"
    train_log(work_dir, cfg, LATE, 3, accuracy=10)
    eval_log(work_dir, cfg, name, checkpoint, 77.0)
    (run,) = read_runs(work_dir, cfg)
    assert not run.tested and run.metrics["accuracy/top1"] == 13.0


def test_settings_of_the_test_count_too(tmp_path, cfg):
    work_dir = tmp_path / "classifier"
    train_log(work_dir, cfg, LATE, 3)
    other = dict(test_dataloader=dict(dataset=dict(data_root="data/other/")))
    eval_log(work_dir, cfg, LATER, "epoch_3.pth", 77.0, **other)
    assert read_runs(work_dir, cfg)[0].differs == ("test_dataloader.dataset.data_root",)


def test_what_is_no_difference(tmp_path, cfg):
    """Workers, data found below the project, the kind of loop, and what --pretrained sets."""
    loader = dict(num_workers=7, dataset=dict(data_root=f"{ROOT}/data/imagenet"))
    start = dict(init_cfg=dict(type="Pretrained", checkpoint="cls.pth"), norm_eval=True)
    settings = dict(train_dataloader=loader, model=dict(backbone=start), log_level="DEBUG")
    settings["train_cfg"] = dict(type="ResumableEpochLoop")
    train_log(tmp_path, cfg, LATE, 3, **settings)
    (run,) = read_runs(tmp_path, cfg)
    assert run.differs == () and run.start == "from cls.pth"


@pytest.mark.parametrize(
    "settings, start",
    [
        (dict(load_from="other.pth"), "from other.pth"),
        (dict(load_from="other.pth", resume=True), "from scratch"),
        (dict(model=dict(backbone=dict(init_cfg=[dict(type="Constant")]))), "from scratch"),
    ],
)
def test_what_a_run_started_from(settings, start, tmp_path, cfg):
    train_log(tmp_path, cfg, LATE, 3, **settings)
    assert read_runs(tmp_path, cfg)[0].start == start


def test_cut_off_logs(tmp_path, cfg):
    train_log(tmp_path, cfg, LATE, 2)
    log = tmp_path / LATE / "vis_data" / "scalars.json"
    log.write_text(log.read_text() + '{"loss": 0.1, "epo')
    (run,) = read_runs(tmp_path, cfg)
    assert run.step == 2 and len(run.losses) == 4
    (tmp_path / LATE / "vis_data" / "config.py").write_text("model = dict(")
    (run,) = read_runs(tmp_path, cfg)
    assert "cannot be read" in run.differs[0] and run.start == "start unknown"


def test_logs_are_not_executed(tmp_path, cfg):
    train_log(tmp_path, cfg, LATE, 3)
    config = tmp_path / LATE / "vis_data" / "config.py"
    harm = f"model = open({str(tmp_path / 'executed')!r}, 'w')\n"
    config.write_text(harm)
    (run,) = read_runs(tmp_path, cfg)
    assert not (tmp_path / "executed").exists() and "cannot be read" in run.differs[0]


def test_last_checkpoint_proves_epochs_that_were_not_logged(tmp_path, cfg):
    train_log(tmp_path, cfg, LATE, 2)
    (tmp_path / "last_checkpoint").write_text("somewhere/epoch_3.pth")
    (run,) = read_runs(tmp_path, cfg)
    assert run.finished and run.metrics == {}  # the last epoch was not validated
    assert pick_run([run]).measured_by == ""


def test_iterations_whose_validation_is_logged_by_epoch(tmp_path):
    """MMEngine then writes step 0: the line before tells the iteration."""
    cfg = narrow("mmdet")
    assert Schedule.of(cfg) == Schedule("iter", 2)
    dump(cfg, tmp_path / LATE)
    lines = [
        dict(loss=2.0, iter=1, step=1),
        dict(loss=1.0, iter=2, step=2),
        {"coco/bbox_mAP": 0.25, "step": 0},
    ]
    text = "\n".join(map(json.dumps, lines))
    (tmp_path / LATE / "vis_data" / "scalars.json").write_text(text)
    (run,) = read_runs(tmp_path, cfg)
    assert run.finished and run.metrics == {"coco/bbox_mAP": 0.25}
    assert run.accuracies == ((2, {"coco/bbox_mAP": 0.25}),)


def test_curves_of_a_resumed_run_begin_at_the_start(tmp_path, cfg):
    train_log(tmp_path, cfg, EARLY, 2)
    train_log(tmp_path, cfg, LATE, 3, first=2, resume=True)
    run = pick_run(read_runs(tmp_path, cfg))
    assert [i for i, _ in run.losses] == [1, 2, 3, 4, 5, 6]
    assert [e for e, _ in run.accuracies] == [1, 2, 3]
    assert pick_run(read_runs(tmp_path, cfg)).finished


# Commands

MASK_RCNN = Row("small", "configs/mmdet/maskrcnn_dualtoken_s_1x.py", pretrained=tables.SMALL_MIX)


@pytest.mark.parametrize(
    "options, train, test",
    [
        (
            Options(),
            "tools/dist_train.sh {c} 8",
            "tools/dist_test.sh {c} work_dirs/{s}/epoch_12.pth 8",
        ),
        (
            Options(gpus=1),
            "python tools/train.py {c} --auto-scale-lr",
            "python tools/test.py {c} work_dirs/{s}/epoch_12.pth",
        ),
        (
            Options(Path("other"), gpus=4),
            "tools/dist_train.sh {c} 4 --auto-scale-lr --work-dir other/{s}",
            "tools/dist_test.sh {c} other/{s}/epoch_12.pth 4 --work-dir other/{s}/test",
        ),
        (
            Options(from_imagenet=True),
            "tools/dist_train.sh {c} 8 --pretrained work_dirs/dualtoken_s_mix_in1k/epoch_300.pth",
            "tools/dist_test.sh {c} work_dirs/{s}/epoch_12.pth 8",
        ),
        (
            Options(mini=True),
            "python tools/train.py work_dirs/mini/{s}.py",
            "python tools/test.py work_dirs/mini/{s}.py work_dirs/mini/{s}/epoch_2.pth",
        ),
    ],
    ids=["recipe", "one", "elsewhere", "imagenet", "mini"],
)
def test_commands(options, train, test, monkeypatch):
    monkeypatch.chdir(ROOT)
    job = make_job(MASK_RCNN, options)
    names = dict(c=MASK_RCNN.config, s="maskrcnn_dualtoken_s_1x")
    assert " ".join(job.train()) == train.format(**names)
    assert " ".join(job.test()) == test.format(**names)


def test_what_is_pending(tmp_path):
    job = make_job(Row("narrow", NARROW["mmpretrain"]), Options(tmp_path, gpus=1))
    work_dir = tmp_path / "classifier_narrow"
    assert pending(job, False) == ([job.train(), job.test()], "")
    work_dir.mkdir()
    (work_dir / "epoch_0.pth").touch()
    todo, reason = pending(job, False)
    assert todo == [] and "--resume" in reason
    assert pending(job, True)[0] == [job.train(resume=True), job.test()]
    train_log(work_dir, job.cfg, LATE, 1)
    assert pending(job, False)[0] == [] and "is gone" in pending(job, False)[1]
    (work_dir / "epoch_1.pth").touch()
    assert pending(job, False)[0] == [job.test()]
    eval_log(work_dir, job.cfg, LATER, "epoch_1.pth", 50.0)
    assert pending(job, False) == ([], pending(job, True)[1])


# Files


def test_only_own_files_are_replaced(tmp_path):
    path = tmp_path / "deep" / "report.md"
    write_own(path, "one", "<!-- {} -->")
    write_own(path, "two", "<!-- {} -->")
    assert path.read_text().endswith("two\n")
    path.write_text("mine")
    with pytest.raises(InputError, match="--overwrite"):
        write_own(path, "three", "<!-- {} -->")
    assert path.read_text() == "mine"
    write_own(path, "three", "<!-- {} -->", overwrite=True)
    assert path.read_text().endswith("three\n")
    with pytest.raises(InputError, match="folder"):
        check_own(tmp_path)
    assert [p.name for p in path.parent.iterdir()] == ["report.md"]


# Small versions


@pytest.mark.parametrize(
    "name",
    [
        "configs/mmpretrain/resnet18_in1k.py",
        "configs/mmdet/maskrcnn_r18_3x.py",
        "configs/mmdet/retinanet_r18_1x.py",
        "configs/mmseg/pspnet_r18_160k.py",
    ],
)
def test_mini_config(name, tmp_path):
    """The file that a user sees holds what the report's own job holds, and the model builds."""
    options = Options(tmp_path, mini=True)
    job = make_job(Row("row", name), options)
    path = write_mini_config(*read_config(name), options.root)
    assert path == job.config
    cfg = Config.fromfile(path)
    assert cfg.to_dict() == job.cfg.to_dict()
    assert cfg.work_dir == str(tmp_path / "mini" / path.stem)
    assert Schedule.of(cfg).total in (2, 8)
    sizes = re.findall(r"(?:scale|crop_size)=\(?(\d+)", str(cfg.train_dataloader.dataset.pipeline))
    assert all(int(size) <= 256 for size in sizes)
    classes = len(cfg.train_dataloader.dataset.metainfo.classes)
    found = set(re.findall(r"num_classes'?[:=] ?(\d+)", str(cfg.model)))
    assert found == {str(classes)}
    measure(cfg, (64, 64))


def test_mini_config_does_not_replace_a_users_file(tmp_path):
    (tmp_path / "resnet18_in1k.py").write_text("mine = True")
    with pytest.raises(InputError, match="resnet18_in1k.py"):
        write_mini_config(*read_config("configs/mmpretrain/resnet18_in1k.py"), tmp_path)


# The tool

PAIR = Table(
    8,
    "A pair",
    "narrow",
    (TOP1,),
    (
        Row("first | <b>", NARROW["mmpretrain"], {"top1": "79.4"}),
        Row("second", "tests/configs/second.py"),
        Row("quoted", None, {"top1": "1.0"}),
    ),
    (Delta("first minus second", NARROW["mmpretrain"], "tests/configs/second.py", {"top1": "+1"}),),
)


@pytest.fixture
def tool(monkeypatch, capfd, tmp_path):
    """Run tools/reproduce.py in this process and in an empty folder: (exit status, output)."""
    monkeypatch.chdir(tmp_path)

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["tools/reproduce.py", *map(str, args)])
        status = 0
        try:
            runpy.run_path(str(ROOT / "tools" / "reproduce.py"), run_name="__main__")
        except SystemExit as stop:
            status = stop.code or 0
        printed = capfd.readouterr()
        return status, printed.out + printed.err

    return call


@pytest.fixture
def pair(monkeypatch, tmp_path):
    """Two narrow classifiers as Table 8; returns the second one's config file."""
    monkeypatch.setattr(tables, "TABLES", {8: PAIR})
    second = tmp_path / "second.py"
    second.write_text(f'_base_ = "{ROOT / NARROW["mmpretrain"]}"\n')
    find = collect.project_file
    monkeypatch.setattr(
        collect, "project_file", lambda n: second if n.endswith("second.py") else find(n)
    )
    return second


def images(page):
    """The SVG pictures of a page, parsed."""
    found = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    return [ET.fromstring(base64.b64decode(data)) for data in found]


def test_report_without_runs(tool, pair):
    status, printed = tool("--html", "page.html", "--markdown", "page.md")
    assert status == 0
    page, text = Path("page.html").read_text(), Path("page.md").read_text()
    for output in (printed, text, page):
        assert "top-1 not run" in output and "79.4 %" in output
        assert f"{NARROW['mmpretrain']}" in output
        assert "tools/test.py" in output and "work_dirs/second/epoch_1.pth" in output
        assert "0 of 2 rows have a finished run" in output
    assert r"first \| &lt;b&gt;" in text and "first | &lt;b&gt;" in page
    assert len(images(page)) == 1
    assert "none was measured here" in page and "No convergence curves" in page
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert links and all(link.startswith(("data:", "#")) for link in links)


def test_report_with_runs(tool, pair):
    train_log(Path("work_dirs/classifier_narrow"), narrow(), LATE, 1, accuracy=60)
    train_log(Path("work_dirs/second"), narrow(), LATE, 1, accuracy=55.5)
    status, printed = tool("--html", "page.html")
    page = Path("page.html").read_text()
    assert status == 0 and "2 of 2 rows have a finished run" in printed
    for output in (printed, page):
        assert "top-1 61.0 %" in output and "top-1 56.5 %" in output and "top-1 +4.5 %" in output
        assert "validation at epoch 1" in output
    assert len(images(page)) == 2 and "2 measured here" in page


def test_runs_with_other_settings_are_not_compared(tool, pair):
    train_log(Path("work_dirs/classifier_narrow"), narrow(), LATE, 1, accuracy=60)
    other = dict(train_dataloader=dict(batch_size=3))
    train_log(Path("work_dirs/second"), narrow(), LATE, 1, accuracy=55.5, **other)
    status, printed = tool("--html", "page.html")
    page = re.sub(r"\s+", " ", Path("page.html").read_text())
    assert status == 0
    assert "not the config&#39;s settings: train_dataloader.batch_size" in page
    assert "top-1 56.5 %" in page and "1 measured here" in page
    assert "top-1 +4.5 %" not in page


def test_partial_runs_are_no_results(tool, pair):
    cfg = narrow()
    pair.write_text(f"{pair.read_text()}train_cfg = dict(max_epochs=5)\n")
    train_log(Path("work_dirs/second"), cfg, LATE, 3, accuracy=50, train_cfg=dict(max_epochs=5))
    status, printed = tool("--markdown", "page.md")
    text = Path("page.md").read_text()
    assert "partial, epoch 3 of 5" in text and "validation at epoch 3: top-1 53.0 %" in text
    assert "0 of 2 rows have a finished run" in printed


@pytest.mark.parametrize("figure, status", [("0.9", 1), (None, 0)])
def test_exit_status_follows_the_budgets(figure, status, tool, monkeypatch):
    exact = measure(narrow()).params / 1e6
    budget = Budget("params", figure or f"{exact:.6f}", "derived")
    row = Row("narrow", NARROW["mmpretrain"], budgets=(budget,))
    monkeypatch.setattr(tables, "TABLES", {2: Table(2, "t", "s", (TOP1,), (row,))})
    ended, printed = tool()
    assert ended == status
    assert ("instead of 0.9 M (derived)" in printed) == (status == 1)


def test_missing_config_is_an_error_of_the_report(tool, pair):
    pair.unlink()
    status, printed = tool("--html", "page.html")
    assert status == 1 and "tests/configs/second.py is missing" in printed
    assert "is missing" in Path("page.html").read_text()
    status, printed = tool("--dry-run")
    assert status == 2 and "is missing" in printed


def test_dry_run(tool, pair, tmp_path):
    """It prints what would run, and does nothing."""
    train_log(Path("work_dirs/classifier_narrow"), narrow(), LATE, 1)
    Path("work_dirs/classifier_narrow/epoch_1.pth").touch()
    before = sorted(tmp_path.rglob("*"))
    status, printed = tool("--dry-run", "--gpus", "1")
    narrow_config = ROOT / NARROW["mmpretrain"]
    assert status == 0 and printed.splitlines() == [
        "# work_dirs/classifier_narrow: trained",
        f"python {ROOT}/tools/test.py {narrow_config} work_dirs/classifier_narrow/epoch_1.pth",
        f"python {ROOT}/tools/train.py second.py",
        f"python {ROOT}/tools/test.py second.py work_dirs/second/epoch_1.pth",
    ]
    assert sorted(tmp_path.rglob("*")) == before


def test_imagenet_checkpoint_must_be_there(tool, monkeypatch):
    monkeypatch.setattr(tables, "TABLES", {3: Table(3, "t", "s", (TOP1,), (MASK_RCNN,))})
    status, printed = tool("--run", "--gpus", "1", "--from-imagenet")
    assert status == 2 and "--table 2 --run" in printed and "epoch_300.pth" in printed


@pytest.mark.slow
def test_dry_run_of_table_3(tool, tmp_path):
    status, printed = tool("--table", "3", "--dry-run")
    assert status == 0
    lines = printed.strip().splitlines()
    assert len(lines) == 28 and sum("dist_train.sh" in line for line in lines) == 14
    status, printed = tool("--table", "3", "--data", "mini", "--dry-run")
    assert status == 0 and printed.count("work_dirs/mini/maskrcnn") == 14 * 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "args, message",
    [
        (["--resume"], "--run or --data mini"),
        (["--dry-run", "--html", "x.html"], "leave out"),
        (["--gpus", "0"], "1 or more"),
        (["--html", "mine.html"], "--overwrite"),
        (["--table", "8", "--run", "--gpus", "64"], "64 GPUs"),
        (["--table", "10"], "invalid choice"),
    ],
)
def test_bad_arguments(args, message, tool):
    Path("mine.html").write_text("mine")
    status, printed = tool(*args)
    assert status == 2 and message in printed
    assert Path("mine.html").read_text() == "mine"


class Started:
    """In place of subprocess.Popen: remembers commands and ends as told."""

    commands: list = []
    ends: list = []

    def __init__(self, words, **kwargs):
        self.commands.append(words)
        self.end = self.ends.pop(0)

    def wait(self):
        if isinstance(self.end, type):
            end, self.end = self.end, 130
            raise end
        return self.end


@pytest.fixture
def processes(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", Started)
    Started.commands, Started.ends = [], []
    return Started


def test_a_failing_row_does_not_stop_the_others(tool, pair, processes):
    processes.ends = [3, 0, 0]
    status, printed = tool("--run", "--gpus", "1")
    assert status == 1 and "failed: status 3" in printed
    names = [Path(words[1]).name for words in processes.commands]
    assert names == ["train.py", "train.py", "test.py"]
    assert all(words[0] == sys.executable for words in processes.commands)


def test_interruption_waits_for_the_process_and_ends(tool, pair, processes):
    processes.ends = [KeyboardInterrupt]
    status, printed = tool("--run", "--gpus", "1")
    assert status == 130 and "--resume" in printed
    assert len(processes.commands) == 1


@pytest.fixture(scope="module")
def real_report():
    """All tables, counted once."""
    collector = Collector(Options(Path("no/such/folder")))
    return {number: collector(table) for number, table in tables.TABLES.items()}


@pytest.mark.slow
def test_all_budgets_are_met(real_report):
    assert [line for report in real_report.values() for line in report.failed] == []
    assert sum(len(row.checks) for r in real_report.values() for row in r.rows) > 30


@pytest.mark.slow
def test_differences_and_their_explanations(real_report):
    """Which of the stated differences ours round to; the remarks rest on these."""
    agree = {
        (number, delta.delta.label): {
            name: delta.agrees(name) for name in delta.ours if delta.agrees(name) is not None
        }
        for number in (6, 7, 8, 9)
        for delta in real_report[number].deltas
    }
    assert agree == {
        (6, "position-aware minus normal"): dict(params=False, macs=False),
        (6, "position-aware minus attention fusion"): {},
        (7, "7x7 minus 0"): dict(params=True, macs=False),
        (8, "Conv Encoder minus window attention"): {},
        (9, "step-wise minus one step"): dict(params=True, macs=False),
    }
    for report in real_report.values():
        assert all(delta.delta.why for delta in report.deltas if delta.differs)
    fusion = real_report[6].deltas[1].ours
    assert fusion["params"] == pytest.approx(-1.1, abs=0.11)
    assert round(fusion["macs"], 2) == 0.06


@pytest.mark.slow
def test_mini_data_end_to_end(tool, tmp_path):
    """Table 8 trains and tests in processes of their own; run again, nothing is left to do."""
    args = ["--table", "8", "--data", "mini"]
    status, printed = tool(*args, "--html", "page.html")
    assert status == 0, printed[-3000:]
    assert "2 of 2 rows have a finished run" in printed
    page = Path("page.html").read_text()
    assert "Mini data: not the paper&#39;s figures" in page and len(images(page)) == 2
    for job in make_jobs([tables.TABLES[8]], Options(mini=True)):
        run = job.run()
        assert run.finished and run.tested and run.differs == ()
        (file,) = (job.work_dir / "test").glob("*/*.json")
        assert run.metrics == json.loads(file.read_text())
        assert job.checkpoint.is_file()
    assert not (tmp_path / "work_dirs" / "dualtoken_s_mix_in1k").exists()
    status, printed = tool(*args)
    assert status == 0 and "$ python" not in printed and printed.count("trained and tested") == 2
