"""Reading the logs of runs for the report."""

import pandas as pd
import pytest
from report_runs import EARLY, LATE, LATER, ROOT, eval_log, narrow, train_log, write_log

from lab.report.runs import Schedule, pick_run, read_runs


@pytest.fixture
def cfg():
    return narrow(max_epochs=3)


@pytest.fixture
def work_dir(tmp_path):
    return tmp_path / "classifier"


def read_one(work_dir, cfg):
    (run,) = read_runs(work_dir, cfg)
    return run


def test_the_newest_finished_run_counts(work_dir, cfg):
    assert read_runs(work_dir, cfg) == [] and pick_run([]) is None
    train_log(work_dir, cfg, EARLY, 3, accuracy=10)
    train_log(work_dir, cfg, LATE, 3, accuracy=20)
    train_log(work_dir, cfg, LATER, 2, accuracy=30)
    runs = read_runs(work_dir, cfg)
    assert [(r.step, r.finished) for r in runs] == [(3, True), (3, True), (2, False)]
    run = pick_run(runs)
    assert run.folder.name == LATE and run.metrics == {"accuracy/top1": 23.0}
    assert run.measured_by == "validation at epoch 3"
    assert run.differs == () and run.start == "from scratch"
    assert run.losses.to_dict() == {i: 1 / i for i in range(1, 7)}
    assert run.validations.to_dict() == {"accuracy/top1": {1: 21.0, 2: 22.0, 3: 23.0}}
    assert pick_run(runs[2:]).measured_by == "validation at epoch 2"


@pytest.mark.parametrize(
    "name, checkpoint, accuracy",
    [
        (LATER, "epoch_3.pth", 77),
        (EARLY, "epoch_3.pth", 13),  # before the training
        (LATER, "epoch_2.pth", 13),  # another checkpoint
        (LATER, "../other/epoch_3.pth", 13),  # another work dir
    ],
)
def test_only_tests_of_the_last_checkpoint_count(name, checkpoint, accuracy, work_dir, cfg):
    train_log(work_dir, cfg, LATE, 3, accuracy=10)
    other = dict(test_dataloader=dict(dataset=dict(data_root="data/other/")))
    eval_log(work_dir, cfg, name, checkpoint, 77.0, **other)
    run, tested = read_one(work_dir, cfg), accuracy == 77
    assert run.tested == tested and run.metrics["accuracy/top1"] == accuracy
    assert run.measured_by == ("test of epoch_3.pth" if tested else "validation at epoch 3")
    assert run.differs == (("test_dataloader.dataset.data_root",) if tested else ())


LOADER = dict(num_workers=7, dataset=dict(data_root=f"{ROOT}/data/imagenet"))
CLASSIFIER = dict(type="Pretrained", checkpoint="cls.pth")
PRETRAINED = dict(backbone=dict(init_cfg=CLASSIFIER, norm_eval=True))


@pytest.mark.parametrize(
    "settings, start, differs",
    [
        (dict(train_cfg=dict(max_epochs=1)), "from scratch", "train_cfg.max_epochs"),
        (dict(train_dataloader=dict(batch_size=3)), "from scratch", "train_dataloader.batch_size"),
        (dict(val_evaluator=dict(topk=(2,))), "from scratch", "val_evaluator.topk"),
        (dict(train_dataloader=LOADER, log_level="DEBUG"), "from scratch", None),
        (dict(train_cfg=dict(type="ResumableEpochLoop")), "from scratch", None),
        (dict(model=PRETRAINED), "from cls.pth", None),
        (dict(model=dict(backbone=dict(init_cfg=[dict(type="Constant")]))), "from scratch", None),
        (dict(load_from="other.pth"), "from other.pth", None),
        (dict(load_from="other.pth", resume=True), "from scratch", None),
    ],
)
def test_start_and_changed_settings(settings, start, differs, work_dir, cfg):
    """The config decides how long a run should have been, not the run."""
    train_log(work_dir, cfg, LATE, 1, **settings)
    run = read_one(work_dir, cfg)
    assert not run.finished and run.start == start
    assert run.differs == ((differs,) if differs else ())


def test_cut_off_logs(work_dir, cfg):
    train_log(work_dir, cfg, LATE, 2)
    log = work_dir / LATE / "vis_data" / "scalars.json"
    log.write_text(log.read_text() + '{"loss": 0.1, "epo')
    run = read_one(work_dir, cfg)
    assert run.step == 2 and len(run.losses) == 4
    log.write_text("")
    run = read_one(work_dir, cfg)
    assert (run.step, run.metrics, len(run.losses)) == (0, {}, 0)


@pytest.mark.parametrize("text", ["model = dict(", "model = open({file!r}, 'w')"])
def test_configs_of_runs_are_not_executed(text, work_dir, cfg):
    train_log(work_dir, cfg, LATE, 3)
    executed = work_dir / "executed"
    (work_dir / LATE / "vis_data" / "config.py").write_text(text.format(file=str(executed)))
    run = read_one(work_dir, cfg)
    assert not executed.exists()
    assert "cannot be read" in run.differs[0] and run.start == "start unknown"


def test_last_checkpoint_proves_epochs_that_were_not_logged(work_dir, cfg):
    train_log(work_dir, cfg, LATE, 2)
    (work_dir / "last_checkpoint").write_text("somewhere/epoch_3.pth")
    run = read_one(work_dir, cfg)
    assert run.finished and (run.metrics, run.measured_by) == ({}, "")  # not validated


def test_iterations_whose_validation_is_logged_by_epoch(work_dir):
    """MMEngine then writes step 0: the line before has the iteration."""
    cfg = narrow("mmdet")
    assert Schedule.of(cfg) == Schedule("iter", 2)
    lines = [dict(loss=2.0, iter=1, step=1), dict(loss=1.0, iter=2, step=2)]
    write_log(work_dir / LATE, cfg, [*lines, {"coco/bbox_mAP": 0.25, "step": 0}])
    run = read_one(work_dir, cfg)
    assert run.finished and run.metrics == {"coco/bbox_mAP": 0.25}
    assert run.validations.to_dict() == {"coco/bbox_mAP": {2: 0.25}}


def test_curves_of_a_resumed_run_begin_at_the_start(work_dir, cfg):
    train_log(work_dir, cfg, EARLY, 2)
    train_log(work_dir, cfg, LATE, 3, first=2, resume=True)
    run = pick_run(read_runs(work_dir, cfg))
    assert run.finished
    assert list(run.losses.index) == [1, 2, 3, 4, 5, 6]
    assert list(run.validations.index) == [1, 2, 3]
    write_log(work_dir / LATER, cfg, [], resume=True)  # killed before its first log
    assert pd.Series.equals(read_runs(work_dir, cfg)[-1].losses, run.losses)
