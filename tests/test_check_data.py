"""tools/check_data.py as a command."""

import json
import os
import time
from functools import partial
from itertools import cycle
from pathlib import Path

import pytest
from data_faults import (
    DETECTION_IMAGE,
    FIRST_IMAGES,
    TASKS,
    config,
    config_file,
    quick_error,
    write_data,
)
from mmengine.config import Config
from PIL import Image

from mmdualtoken.data import layout
from mmdualtoken.data.check import ERROR, WARNING, Finding, Report, check_config, check_data
from mmdualtoken.data.check.dataset import DatasetCheck

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def tool(tool):
    """Run the tool in this process: tool('--split', ...) -> (exit status, what it printed)."""
    return partial(tool, "check_data")


@pytest.mark.parametrize("task", TASKS)
def test_clean_then_broken(task, tool):
    """Status 0, then 1 with the file, the reason and the remedy in one line."""
    write_data(task)
    status, out = tool(config_file(task), "--workers", 2)
    assert status == 0
    assert "test: " in out and "the same as val, not read again" in out
    assert all(row in out for row in ("images", "smallest", "largest", "disc", "errors"))
    file = FIRST_IMAGES[task]
    Path(file).write_bytes(b"")
    status, out = tool(config_file(task), "--workers", 2)
    assert status == 1 and "Traceback" not in out
    remedy = "(repair or replace the file, or take it out of the data set)"
    assert f"\n{file}: is empty: 0 bytes {remedy}\n" in out
    assert tool(config_file(task), "--split", "val")[0] == 0


def break_all():
    """One fault in each of the four training images."""
    folder = Path(DETECTION_IMAGE).parent
    whole = Path(DETECTION_IMAGE).read_bytes()
    (folder / "000000000001.jpg").write_bytes(whole[:300])
    (folder / "000000000002.jpg").unlink()
    (folder / "000000000003.jpg").write_bytes(b"text")
    with Image.open(folder / "000000000004.jpg") as image:
        image.convert("L").save(folder / "000000000004.jpg")


def test_all_faults_in_the_same_order_however_many_processes(tool):
    write_data("detection")
    break_all()
    reports = [check_config(config("detection"), workers=workers) for workers in (0, 1, 3)]
    assert reports[0] == reports[1] == reports[2]
    train = reports[0][0]
    found = [(f.severity, Path(f.file).name, f.kind) for f in train.findings]
    assert found == [
        (ERROR, "000000000001.jpg", "is cut off or damaged"),
        (ERROR, "000000000002.jpg", "does not exist"),
        (ERROR, "000000000003.jpg", "is no image that Pillow knows"),
        (WARNING, "000000000004.jpg", "is grey, the one channel is repeated three times"),
    ]
    assert (train.images, train.count(ERROR), train.count(WARNING)) == (4, 3, 1)
    assert all(f.file in tool(config_file("detection"))[1] for f in train.findings[:1])


def test_json(tool):
    write_data("detection")
    break_all()
    status, out = tool(config_file("detection"), "--json", "found.json", "--split", "train")
    assert status == 1 and "found.json" in out
    content = json.loads(Path("found.json").read_text())
    (train,) = content["data_sets"]
    assert (content["errors"], content["warnings"], len(train["findings"])) == (3, 1, 4)
    assert train["findings"][0]["file"] == DETECTION_IMAGE
    assert train["findings"][0]["reason"].startswith("is cut off or damaged: ")
    assert set(train["classes"]) == {"disc", "square", "triangle", "star"}

    before = Path("found.json").read_bytes()
    status, out = tool(config_file("detection"), "--json", "found.json")
    assert status == 2 and "found.json exists already" in out
    assert Path("found.json").read_bytes() == before


@pytest.mark.parametrize("number", [9, 10])
def test_one_line_for_what_all_of_many_images_share(number):
    findings = [Finding(WARNING, f"{i}.jpg", "is grey", remedy="convert") for i in range(number)]
    lines = list(Report("train", "Set data", number, findings=findings).lines(WARNING))
    if number < 10:
        assert lines == [f"{i}.jpg: is grey (convert)" for i in range(number)]
    else:
        assert lines == ["Set data, each of 10 images: is grey (convert)"]


def name_file(content):
    Path("classes.txt").write_bytes(content)
    return "classes.txt"


LINES = b"disc\nsquare\ntriangle\nstar\n"
NAMES = {
    "text": (lambda: "disc", "has classes='disc', neither a list nor a file of names"),
    "set": (lambda: {"disc", "square"}, "has classes as a set, which has no order"),
    "numbers": (lambda: (1, 2, 3, 4), "has classes without a name: 1, 2, 3, 4"),
    "empty line": (lambda: name_file(LINES + b"\n"), "classes.txt has classes without a name: ''"),
    "BOM": (
        lambda: name_file(b"\xef\xbb\xbf" + LINES),
        "classes.txt begins with a byte order mark",
    ),
    "UTF-16": (lambda: name_file(LINES.decode().encode("utf-16")), "is not encoded in UTF-8"),
}


@pytest.mark.parametrize("name, task", list(zip(NAMES, cycle(TASKS))))
def test_class_names(name, task):
    """All three toolboxes would take them, some for the letters of a text."""
    write_data(task)
    names, words = NAMES[name]
    metainfo = dict(classes=names())
    assert words in quick_error(config(task, metainfo=metainfo))
    (report,) = check_config(config(task, metainfo=metainfo), ["train"])
    assert [words in f"{f.file} {f.reason}" for f in report.findings] == [True]


def test_class_names_twice():
    """mmdet then numbers later ones otherwise; elsewhere their results cannot be told apart."""
    write_data("detection", "segmentation")
    kind = "has classes of the same name: disc"
    cfg = config("detection", metainfo=dict(classes=("disc", "disc", "square", "star")))
    assert kind in quick_error(cfg)
    metainfo = dict(classes=("background", "disc", "disc", "triangle", "star"))
    (report,) = check_config(config("segmentation", metainfo=metainfo), ["train"])
    assert [(f.severity, f.reason) for f in report.findings] == [(WARNING, kind)]


def test_file_of_class_names():
    """It is compared as a list is."""
    write_data("detection")
    cfg = config("detection", metainfo=dict(classes=name_file(LINES.replace(b"\n", b"\r\n"))))
    check_data(cfg, "train_dataloader")
    name_file(b"disc\nsquare\n")
    assert "mask_head has num_classes=4. Set num_classes of every" in quick_error(cfg)


def test_any_name_can_be_printed(tool):
    """Names of files and folders hold brackets, line breaks, and bytes that are no UTF-8."""
    write_data("classification")
    folder = os.fsencode("data/imagenet/train/")
    os.rename(folder + b"star", folder + b"[red]\nst\xffar")
    Path(os.fsdecode(folder + b"disc/a\nb\xff.jpg")).touch()
    status, out = tool(config_file("classification"), "--split", "train", "--json", "found.json")
    assert status == 1
    assert "\ndata/imagenet/train/disc/a b\\udcff.jpg: is empty: 0 bytes (" in out
    assert "[red] st\\udcffar" in out
    (train,) = json.loads(Path("found.json").read_text())["data_sets"]
    assert train["classes"]["[red]\nst\udcffar"] == 1


def test_wrapped_data_sets(tool):
    """The sets inside of ConcatDataset and RepeatDataset are checked, each for itself."""
    write_data("classification")
    cfg = config("classification")
    broken = "data/imagenet/val/disc/disc_00000001.jpg"
    Path(broken).write_bytes(b"")
    train = cfg.train_dataloader.dataset
    repeat = dict(type="RepeatDataset", times=2, dataset=cfg.val_dataloader.dataset)
    cfg.train_dataloader.dataset = dict(type="ConcatDataset", datasets=[train, repeat])
    first, second = check_config(cfg, ["train"])
    assert (first.name, first.findings) == ("CustomDataset data/imagenet/train", [])
    assert [f.file for f in second.findings] == [broken]


def test_many_classes_are_shown_by_the_ends_of_their_range():
    report = Report("train", "Set data", 25, "objects", {f"c{i}": i + 1 for i in range(25)})
    cells = report.cells()
    assert cells["objects"] == "325" and cells["  classes"] == "25"
    ends = [cells[f"  {end}"] for end in ("fewest", "median", "most")]
    assert ends == ["1 (c0)", "13 (c12)", "25 (c24)"]


def test_warnings_of_a_kind_are_counted_beyond_the_limit(tool):
    write_data("classification")
    for number in range(5):
        Path(f"data/imagenet/train/disc/{number}.txt").touch()
    args = [config_file("classification"), "--split", "train", "--max-warnings", 2]
    status, out = tool(*args)
    assert status == 0 and out.count(".txt: is left out") == 2
    assert "... and 3 more: is left out, being no image by its name" in out


@pytest.mark.parametrize(
    "args, message",
    [
        (["nowhere.py"], "Config nowhere.py does not exist"),
        (["CONFIG", "--workers", "-1"], "--workers: received -1"),
        (["CONFIG", "--json", "empty.py/x.json"], "its folder cannot be made"),
        (
            ["CONFIG", "--cfg-options", "train_dataloader.dataset.type=X"],
            "names X, which is not in the mmpretrain::dataset registry",
        ),
        (["EMPTY"], "nothing to check"),
    ],
)
def test_bad_arguments(args, message, tool):
    write_data("classification")
    Path("empty.py").write_text("model = dict(type='X')")
    names = dict(CONFIG=config_file("classification"), EMPTY="empty.py")
    status, out = tool(*(names.get(arg, arg) for arg in args))
    assert status == 2 and message in out and "Traceback" not in out


def test_missing_data(tool):
    status, out = tool(config_file("segmentation"))
    assert status == 1
    for folder in ("images/training", "annotations/training", "images/validation"):
        assert f"data/ade/{folder}: does not exist (data folder)" in out
    assert "make_scenes.py" in out


def test_data_below_the_project(here, monkeypatch):
    """Where the working directory has none of that name; all paths of the config move."""
    write_data("detection")
    monkeypatch.setattr(layout, "PROJECT_ROOT", here)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    cfg = config("detection")
    check_data(cfg, "train_dataloader", "val_dataloader")
    assert cfg.train_dataloader.dataset.data_root == f"{here}/data/scenes/"
    assert cfg.val_evaluator.ann_file.startswith(f"{here}/data/scenes/annotations/")


def test_only_paths_below_the_root_move(here, monkeypatch):
    monkeypatch.setattr(layout, "PROJECT_ROOT", here)
    (here / "data" / "elsewhere").mkdir(parents=True)
    monkeypatch.chdir(here / "data" / "elsewhere")
    dataset = dict(data_root="data", data_prefix=dict(img="data_train/"), ann_file="data/a.json")
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    (found,) = layout.locate_data(cfg, "train_dataloader")
    assert (found.data_root, found.ann_file) == (f"{here}/data", f"{here}/data/a.json")
    assert found.data_prefix.img == "data_train/"


def test_evaluation_that_drops_images(tool):
    write_data("classification")
    for value, number in (("True", 1), ("False", 0)):
        options = ["--cfg-options", f"val_dataloader.drop_last={value}"]
        status, out = tool(config_file("classification"), "--split", "val", *options)
        assert status == 0 and out.count("drop_last=True") == number


def test_files_that_take_too_long(tool, monkeypatch):
    write_data("classification")
    monkeypatch.setattr(DatasetCheck, "inspect", lambda *_: time.sleep(600))
    args = ["--split", "val", "--workers", 2, "--timeout", 0.5]
    status, out = tool(config_file("classification"), *args)
    assert status == 1
    assert out.count(".jpg: could not be checked: reading it took more than 0.5 s (try") == 4


def test_evaluator_file(tool):
    write_data("detection")
    options = ["--cfg-options", "val_evaluator.ann_file=nowhere.json"]
    status, out = tool(config_file("detection"), "--split", "val", *options)
    assert status == 1 and "nowhere.json: does not exist (ann_file of val_evaluator)" in out
