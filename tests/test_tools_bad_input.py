"""What tools/train.py and tools/test.py say to bad data, configs and arguments: one paragraph with
path and remedy, exit status 2, no traceback.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tasks import DETECTOR, TASKS

ROOT = Path(__file__).resolve().parent.parent


def touch(name):
    Path(name).touch()
    return name


def own_copy(project):
    """Replace the shared data by a copy that the test may break."""
    source = (project / "data").resolve()
    (project / "data").unlink()
    shutil.copytree(source / "scenes", project / "data" / "scenes")
    return project / "data" / "scenes"


def test_missing_data(tmp_path, monkeypatch, tool):
    monkeypatch.chdir(tmp_path)
    options = ["--cfg-options", "train_dataloader.dataset.data_root=nowhere/"]
    status, printed = tool("train", DETECTOR, *options)
    assert status == 2
    assert "nowhere/annotations/instances_train2017.json does not exist (annotation" in printed
    assert "nowhere/train2017/*.jpg" in printed and "ln -s" in printed


@pytest.mark.parametrize(
    "task, option, folder",
    [
        ("segmentation", "train_dataloader.dataset.data_root=nowhere/", "nowhere/images/training"),
        ("classification", "val_dataloader.dataset.data_root=nowhere/", "nowhere/val"),
    ],
)
def test_missing_folder(task, option, folder, project, tool):
    status, printed = tool("train", TASKS[task][0], "--cfg-options", option)
    assert status == 2 and f"{folder} does not exist" in printed


def test_missing_image(project, tool):
    data = own_copy(project)
    (data / "train2017" / "000000000001.jpg").unlink()
    status, printed = tool("train", DETECTOR)
    assert status == 2 and "train2017/000000000001.jpg" in printed


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"images": [', "is not valid JSON"),
        ('{"images": [], "annotations": []}', "lacks or has empty"),
        ("[]", "lacks or has empty"),
    ],
)
def test_broken_annotations(content, message, project, tool):
    data = own_copy(project)
    file = data / "annotations" / "instances_train2017.json"
    file.write_text(content)
    status, printed = tool("train", DETECTOR)
    assert status == 2
    assert message in printed and "data/scenes/annotations/instances_train2017.json" in printed


def test_other_classes(project, tool):
    options = [
        "--cfg-options",
        "train_dataloader.dataset.metainfo.classes=('cat','dog','cow','owl')",
    ]
    status, printed = tool("train", DETECTOR, *options)
    assert status == 2 and "'cat'" in printed and "'disc'" in printed and "num_classes" in printed


def test_number_of_classes(project, tool):
    options = ["--cfg-options", "model.roi_head.bbox_head.num_classes=80"]
    status, printed = tool("train", DETECTOR, *options)
    assert status == 2 and "4 classes" in printed and "num_classes=80" in printed


def test_boxes_without_masks(project, tool):
    data = own_copy(project)
    file = data / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    file.write_text(json.dumps(content))
    status, printed = tool("train", DETECTOR)
    assert status == 2 and "boxes only" in printed and "with_mask" in printed


def test_some_classes_missing(project, tool):
    """mmdet would number the other classes without it, and stop in the evaluation."""
    data = own_copy(project)
    file = data / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["categories"] = [c for c in content["categories"] if c["name"] != "star"]
    file.write_text(json.dumps(content))
    status, printed = tool("train", DETECTOR)
    assert status == 2
    assert "has no category 'star'" in printed and "'triangle'" in printed


def test_unknown_config_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, ROOT / "tools" / "train.py", "configs/mmdet/maskrcnn_dualtoken.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "maskrcnn_dualtoken_s_1x.py" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "args, message",
    [
        (["nowhere.pth"], "nowhere.pth does not exist"),
        (["there.pth", "--out", "results.json"], ".pkl"),
        (["there.pth", "--out", "taken.pkl"], "taken.pkl exists already"),
    ],
)
def test_bad_arguments_of_test(args, message, project, tool):
    touch("there.pth")
    touch("taken.pkl")
    status, printed = tool("test", DETECTOR, *args)
    assert status == 2 and message in printed


@pytest.mark.parametrize(
    "option, message",
    [
        ("model.backbone.alpha=7", "DualTokenViT: alpha=7; allowed is a number, 0 to 1"),
        ("model.backbone.token_size=seven", "DualTokenViT: token_size='seven'; allowed is a pair"),
        ("model.neck.num_outs=3", "DualTokenFPN: num_outs=3 is too small"),
        ("model.backbone.type=DualTokenViTStride4", "use MMDetection's FPN, type='FPN'"),
    ],
)
def test_arguments_of_the_model(option, message, project, tool):
    """Also where it is the first batch that shows it."""
    status, printed = tool("train", DETECTOR, "--cfg-options", option)
    assert status == 2 and message in printed
