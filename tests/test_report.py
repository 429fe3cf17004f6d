"""tools/reproduce.py as a command: the report, what is run, small versions, own files."""

import base64
import dataclasses
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

import pytest
from mmengine.config import Config
from report_runs import LATE, LATER, NARROW, ROOT, eval_log, narrow, train_log

from lab.report import paper
from lab.report.files import check_own, write_own
from lab.report.jobs import Options, make_job, make_jobs, pending, read_config
from lab.report.mini import write_mini_config
from lab.report.paper import TABLES, TOP1, Delta, Row, Table
from lab.report.runs import TRAINED_BY, _differences
from mmdualtoken.errors import InputError
from mmdualtoken.export.breakdown import break_down


@pytest.fixture
def tool(tool, here):
    """Run tools/reproduce.py in an empty folder: tool(...) -> (exit status, output)."""
    return partial(tool, "reproduce")


@pytest.fixture
def pair(monkeypatch, tmp_path):
    """Two narrow classifiers as Table 8; returns the second one's config file."""
    second = tmp_path / "second.py"
    second.write_text(f'_base_ = "{ROOT / NARROW["mmpretrain"]}"\n')
    rows = (
        Row("first | <b>", NARROW["mmpretrain"], {"top1": "79.4"}),
        Row("second", str(second)),
        Row("quoted", None, {"top1": "1.0"}),
    )
    delta = Delta("first minus second", ("first | <b>", "second"), {"top1": "+1"})
    table = Table(8, "A pair", "narrow", (TOP1,), rows, (delta,))
    monkeypatch.setattr(paper, "TABLES", {8: table})
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


@pytest.mark.parametrize("other", [{}, dict(train_dataloader=dict(batch_size=3))])
def test_report_with_runs(other, tool, pair):
    """Runs with other settings are shown, and not compared."""
    train_log(Path("work_dirs/classifier_narrow"), narrow(), LATE, 1, accuracy=60)
    train_log(Path("work_dirs/second"), narrow(), LATE, 1, accuracy=55.5, **other)
    status, printed = tool("--html", "page.html")
    page = Path("page.html").read_text()
    assert status == 0 and "2 of 2 rows have a finished run" in printed
    for output in (printed, page):
        assert "top-1 61.0 %" in output and "top-1 56.5 %" in output
        assert "validation at epoch 1" in output
        assert ("top-1 +4.5 %" in output) is not bool(other)
    assert len(images(page)) == 2 and f"{1 if other else 2} measured here" in page
    assert ("settings: train_dataloader.batch_size" in page) is bool(other)


@pytest.mark.parametrize("figure, status", [("0.9", 1), (None, 0)])
def test_exit_status_follows_the_budgets(figure, status, tool, monkeypatch):
    exact = break_down(narrow()).params / 1e6
    budgets = {"derived": {"params": figure or f"{exact:.6f}"}}
    row = Row("narrow", NARROW["mmpretrain"], budgets=budgets)
    monkeypatch.setattr(paper, "TABLES", {2: Table(2, "t", "s", (TOP1,), (row,))})
    ended, printed = tool()
    assert ended == status
    assert ("instead of 0.9 M (derived)" in printed) == (status == 1)


def test_missing_config_is_an_error_of_the_report(tool, pair):
    pair.unlink()
    status, printed = tool("--html", "page.html")
    assert status == 1 and "second.py is missing" in printed
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
    table = dataclasses.replace(paper.TABLES[3], rows=paper.TABLES[3].rows[:1])
    monkeypatch.setattr(paper, "TABLES", {3: table})
    status, printed = tool("--run", "--gpus", "1", "--from-imagenet")
    assert status == 2 and "--table 2 --run" in printed and "epoch_300.pth" in printed


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


def test_missing_pandas_is_named(tool, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    status, printed = tool("--help")
    assert status == 2 and "pip install pandas" in printed


class Started:
    """A stand-in for subprocess.Popen: records commands and ends with preset statuses."""

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


@pytest.mark.slow
def test_mini_data_end_to_end(tool, tmp_path):
    """Table 8 trains and tests in processes of their own; run again, nothing is left to do."""
    args = ["--table", "8", "--data", "mini"]
    status, printed = tool(*args, "--html", "page.html")
    assert status == 0, printed[-3000:]
    assert "2 of 2 rows have a finished run" in printed
    page = Path("page.html").read_text()
    assert "Mini data: not the paper&#39;s figures" in page and len(images(page)) == 2
    for job in make_jobs([paper.TABLES[8]], Options(mini=True)):
        run = job.run()
        assert run.finished and run.tested and run.differs == ()
        (file,) = (job.work_dir / "test").glob("*/*.json")
        assert run.metrics == json.loads(file.read_text())
        assert job.checkpoint.is_file()
    assert not (tmp_path / "work_dirs" / "dualtoken_s_mix_in1k").exists()
    status, printed = tool(*args)
    assert status == 0 and "$ python" not in printed and printed.count("trained and tested") == 2


# --- commands and files


IMAGENET = "--pretrained work_dirs/dualtoken_s_mix_in1k/epoch_300.pth"
#: Options, training, and testing after its tool; {c} is the config, {s} its name.
COMMANDS = {
    "recipe": (Options(), "dist_train.sh {c} 8", "{c} work_dirs/{s}/epoch_12.pth 8"),
    "one": (Options(gpus=1), "train.py {c} --auto-scale-lr", "{c} work_dirs/{s}/epoch_12.pth"),
    "elsewhere": (
        Options(Path("other"), gpus=4),
        "dist_train.sh {c} 4 --auto-scale-lr --work-dir other/{s}",
        "{c} other/{s}/epoch_12.pth 4 --work-dir other/{s}/test",
    ),
    "imagenet": (
        Options(from_imagenet=True),
        f"dist_train.sh {{c}} 8 {IMAGENET}",
        "work_dirs/{s}/{s}.py work_dirs/{s}/epoch_12.pth 8",  # with LayerNorm at the outputs
    ),
    "mini": (
        Options(mini=True),
        "train.py work_dirs/mini/{s}.py",
        "work_dirs/mini/{s}.py work_dirs/mini/{s}/epoch_2.pth",
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    options, train, test = COMMANDS[name]
    row = TABLES[3].rows[0]
    job, names = make_job(row, options), dict(c=row.config, s="maskrcnn_dualtoken_s_1x")
    test = f"{train.split()[0].replace('train', 'test')} {test}"
    for words, expected in ((job.train(), train), (job.test(), test)):
        start = "tools/" if expected.startswith("dist") else "python tools/"
        assert " ".join(words) == start + expected.format(**names)


@pytest.mark.parametrize(
    ("gpus", "end"),
    [
        (4, "4"),
        (2, "--cfg-options train_dataloader.batch_size=8"),
        (1, "--cfg-options train_dataloader.batch_size=16"),
        (3, "3 --auto-scale-lr"),
    ],
)
def test_a_recipe_of_iterations_keeps_its_batch(gpus, end):
    """With a smaller batch, it would see fewer images."""
    job = make_job(TABLES[5].rows[0], Options(gpus=gpus))
    assert " ".join(job.train()).endswith(end)
    ran = job.cfg.to_dict()
    for share, found in ((16 // gpus, []), (5, ["train_dataloader.batch_size"])):
        ran["train_dataloader"]["batch_size"] = share
        if 16 % gpus == 0:
            assert _differences(ran, job.cfg, TRAINED_BY) == found


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
    pipeline = str(cfg.train_dataloader.dataset.pipeline)
    sizes = re.findall(r"(?:scales?|crop_size)': [\[(]*(\d+)", pipeline)
    assert sizes and all(int(size) <= 256 for size in sizes)
    found = set(re.findall(r"num_classes'?[:=] ?(\d+)", str(cfg.model)))
    assert found == {str(len(cfg.train_dataloader.dataset.metainfo.classes))}
    break_down(cfg, (64, 64))
    path.write_text("mine = True")
    with pytest.raises(InputError, match=path.name):
        write_mini_config(*read_config(name), options.root)
