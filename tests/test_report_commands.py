"""The commands and files of the report: what is left to do, small versions, own files."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from report_runs import LATE, LATER, MASK_RCNN, NARROW, ROOT, eval_log, train_log

from lab.report.collect import Options, make_job, read_config
from lab.report.commands import pending
from lab.report.files import check_own, write_own
from lab.report.mini import write_mini_config
from lab.report.runs import Schedule
from lab.report.schema import Row
from mmdualtoken.errors import InputError
from mmdualtoken.export.measure import measure


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
