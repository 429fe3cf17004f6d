"""The commands and files of the report: unfinished rows, small versions, own files."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from report_runs import LATE, LATER, NARROW, ROOT, eval_log, train_log

from lab.report.files import check_own, write_own
from lab.report.jobs import Options, make_job, pending, read_config
from lab.report.mini import write_mini_config
from lab.report.paper import TABLES, Row
from mmdualtoken.errors import InputError
from mmdualtoken.export.measure import measure


@pytest.mark.parametrize(
    "options, train, test",
    [
        (Options(), "dist_train.sh {c} 8", "dist_test.sh {c} work_dirs/{s}/epoch_12.pth 8"),
        (
            Options(gpus=1),
            "train.py {c} --auto-scale-lr",
            "test.py {c} work_dirs/{s}/epoch_12.pth",
        ),
        (
            Options(Path("other"), gpus=4),
            "dist_train.sh {c} 4 --auto-scale-lr --work-dir other/{s}",
            "dist_test.sh {c} other/{s}/epoch_12.pth 4 --work-dir other/{s}/test",
        ),
        (
            Options(from_imagenet=True),
            "dist_train.sh {c} 8 --pretrained work_dirs/dualtoken_s_mix_in1k/epoch_300.pth",
            "dist_test.sh {c} work_dirs/{s}/epoch_12.pth 8",
        ),
        (
            Options(mini=True),
            "train.py work_dirs/mini/{s}.py",
            "test.py work_dirs/mini/{s}.py work_dirs/mini/{s}/epoch_2.pth",
        ),
    ],
    ids=["recipe", "one", "elsewhere", "imagenet", "mini"],
)
def test_commands(options, train, test, monkeypatch):
    monkeypatch.chdir(ROOT)
    row = TABLES[3].rows[0]
    job, names = make_job(row, options), dict(c=row.config, s="maskrcnn_dualtoken_s_1x")
    for words, expected in ((job.train(), train), (job.test(), test)):
        start = "tools/" if expected.startswith("dist") else "python tools/"
        assert " ".join(words) == start + expected.format(**names)


def test_pending_commands(tmp_path):
    job = make_job(Row("narrow", NARROW["mmpretrain"]), Options(tmp_path, gpus=1))
    work_dir = tmp_path / "classifier_narrow"
    assert pending(job, False) == ([job.train(), job.test()], "")
    work_dir.mkdir()
    (work_dir / "epoch_0.pth").touch()
    todo, reason = pending(job, False)
    assert todo == [] and "--resume" in reason
    assert pending(job, True)[0] == [job.train(resume=True), job.test()]
    train_log(work_dir, job.cfg, LATE, 1)
    todo, reason = pending(job, False)
    assert todo == [] and "epoch_1.pth" in reason
    (work_dir / "epoch_1.pth").touch()
    assert pending(job, False)[0] == [job.test()]
    eval_log(work_dir, job.cfg, LATER, "epoch_1.pth", 50.0)
    assert pending(job, True)[0] == []


def test_only_own_files_are_replaced(tmp_path):
    path = tmp_path / "deep" / "report.md"
    write_own(path, "one", "<!-- {} -->")
    write_own(path, "two", "<!-- {} -->")
    assert path.read_text().endswith("two\n")
    path.write_text("mine")
    with pytest.raises(InputError, match=f"{path}.*--overwrite"):
        write_own(path, "three", "<!-- {} -->")
    assert path.read_text() == "mine"
    write_own(path, "three", "<!-- {} -->", overwrite=True)
    assert path.read_text().endswith("three\n")
    with pytest.raises(InputError, match=str(tmp_path)):
        check_own(tmp_path)
    assert [p.name for p in path.parent.iterdir()] == ["report.md"]


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
    """The file that a user sees holds the settings of the report's own job; the model builds."""
    options = Options(tmp_path, mini=True)
    job = make_job(Row("row", name), options)
    path = write_mini_config(*read_config(name), options.root)
    cfg = Config.fromfile(path)
    assert path == job.config and cfg.to_dict() == job.cfg.to_dict()
    assert cfg.work_dir == str(tmp_path / "mini" / path.stem)
    assert (cfg.train_cfg.get("max_epochs"), cfg.train_cfg.get("max_iters")) in [
        (2, None),
        (None, 8),
    ]
    sizes = re.findall(r"(?:scale|crop_size)=\(?(\d+)", str(cfg.train_dataloader.dataset.pipeline))
    assert all(int(size) <= 256 for size in sizes)
    found = set(re.findall(r"num_classes'?[:=] ?(\d+)", str(cfg.model)))
    assert found == {str(len(cfg.train_dataloader.dataset.metainfo.classes))}
    measure(cfg, (64, 64))
    path.write_text("mine = True")
    with pytest.raises(InputError, match=path.name):
        write_mini_config(*read_config(name), options.root)
