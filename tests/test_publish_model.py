"""tools/publish_model.py: weights alone, in files that every tool reads."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import safetensors
import torch
from helpers import Runs, rand
from mmengine.config import Config
from tasks import TASKS

from mmdualtoken.export.measure import build_model
from mmdualtoken.weights.checkpoints import load_file
from mmdualtoken.weights.pretrained import tensors_of

CLASSIFIER = TASKS["classification"][0]
CLASSES = tuple("abcde")


@pytest.fixture
def trained(project):
    """A checkpoint as training leaves it; returns its weights."""
    state = build_model(Config.fromfile(CLASSIFIER)).state_dict()
    meta = dict(dataset_meta=dict(classes=CLASSES), epoch=1)
    optimizer = dict(state={0: rand(1000)}, param_groups=[])
    torch.save(dict(state_dict=state, optimizer=optimizer, meta=meta), "epoch_1.pth")
    return state


@pytest.mark.parametrize("name", ["model.safetensors", "new/model.pth"])
def test_weights_are_the_same_and_alone(name, trained, tool):
    status, printed = tool("publish_model", "epoch_1.pth", name)
    assert status == 0, printed
    content = load_file(name)
    state = tensors_of(content, name)
    assert set(state) == set(trained)
    assert all(torch.equal(state[key], value) for key, value in trained.items())
    assert Path(name).stat().st_size < Path("epoch_1.pth").stat().st_size - 4000
    assert hashlib.sha256(Path(name).read_bytes()).hexdigest() in printed
    if name.endswith(".pth"):
        assert set(content) == {"meta", "state_dict"}
        assert content["meta"] == dict(dataset_meta=dict(classes=CLASSES))
    else:
        with safetensors.safe_open(name, "pt") as file:
            meta = json.loads(file.metadata()["meta"])
        assert meta == dict(dataset_meta=dict(classes=list(CLASSES)))


def test_nothing_is_replaced_and_bad_input_is_named(trained, tool):
    Path("there.pth").write_text("mine")
    torch.save(dict(state_dict=Runs()), "evil.pth")
    before = sorted(os.listdir())
    for checkpoint, out, said in (
        ("epoch_1.pth", "there.pth", "FILE there.pth exists already"),
        ("epoch_1.pth", "model.bin", "allowed: .safetensors, .pth"),
        ("missing.pth", "model.pth", "missing.pth does not exist"),
        ("evil.pth", "model.pth", "could run code"),
    ):
        status, printed = tool("publish_model", checkpoint, out)
        assert status == 2 and said in printed and "Traceback" not in printed
    assert sorted(os.listdir()) == before and Path("there.pth").read_text() == "mine"


def test_file_that_runs_code_if_allowed(trained, tool):
    """The next run of the tool refuses it again."""
    torch.save(dict(state_dict=trained, payload=Runs()), "unsafe.pth")
    status, printed = tool("publish_model", "unsafe.pth", "a.pth", "--allow-unsafe-checkpoints")
    assert status == 0 and "ANY CODE" in printed, printed
    assert set(load_file("a.pth")["state_dict"]) == set(trained)
    Path("pwned").rmdir()
    status, printed = tool("publish_model", "unsafe.pth", "b.pth")
    assert status == 2 and "could run code" in printed and not Path("pwned").exists()
