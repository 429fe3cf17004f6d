"""What the report reads from the logs of runs."""

import json

import pytest
from report_runs import EARLY, LATE, LATER, ROOT, dump, eval_log, narrow, train_log

from lab.report.runs import Schedule, pick_run, read_runs


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
