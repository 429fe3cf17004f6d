"""Checkpoints run no code, from files and from URLs, unless that is asked for loudly."""

import io
import os
import pickle
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from helpers import Runs
from mmengine.runner import CheckpointLoader
from tasks import TASKS

from mmdualtoken.errors import InputError
from mmdualtoken.weights.checkpoints import (
    RESTRICTED,
    allow_unsafe_checkpoints,
    load_file,
    load_remote,
    refuse_unsafe_checkpoints,
)
from mmdualtoken.weights.pretrained import read_tensors

pytestmark = pytest.mark.skipif(not RESTRICTED, reason="torch before 2.6 restricts nothing")

CLASSIFIER = TASKS["classification"][0]
FLAG = "--allow-unsafe-checkpoints"


def executed():
    """Whether it has been called; forgets it."""
    found = Path("pwned").exists()
    if found:
        Path("pwned").rmdir()
    return found


@pytest.fixture
def url(project, monkeypatch):
    """Address of a server of this test for the files of the working directory."""
    monkeypatch.setenv("TORCH_HOME", str(project / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    handler = partial(SimpleHTTPRequestHandler, directory=project)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def trained(trained):
    """A checkpoint of a training run, and the same one with something hostile in it."""
    trained("classification")
    content = load_file("run/epoch_1.pth")
    torch.save(content, "safe.pth")
    torch.save({**content, "payload": Runs()}, "hostile.pth")


WAYS = {
    "test": ("test",),
    "load-from": ("train", "--load-from"),
    "pretrained": ("train", "--pretrained"),
}


def use(tool, way, checkpoint, *args):
    name, *option = WAYS[way]
    return tool(name, CLASSIFIER, "--work-dir", "other", *args, *option, checkpoint)


@pytest.mark.parametrize("way", WAYS)
def test_url(way, url, trained, tool):
    """MMEngine's own loader would run it."""
    status, printed = use(tool, way, f"{url}/safe.pth")
    assert status == 0, printed
    assert "by http backend from path" in printed
    status, printed = use(tool, way, f"{url}/hostile.pth", *(["--overwrite"] * (way != "test")))
    assert status == 2 and f"error: Checkpoint {url}/hostile.pth was refused" in printed
    assert FLAG in printed and "Traceback" not in printed
    assert not executed()


@pytest.mark.parametrize("way, remote", [("test", False), ("load-from", True)])
def test_opt_out(way, remote, url, trained, tool):
    """It is loaded, it runs, and it is said; the next run of a tool refuses again."""
    file = f"{url}/hostile.pth" if remote else "hostile.pth"
    status, printed = use(tool, "test", "safe.pth", FLAG)  # nothing changes for weights
    assert status == 0 and "ANY CODE" in printed and "UNSAFE:" not in printed
    status, printed = use(tool, way, file, FLAG)
    assert status == 0, printed
    assert executed()
    assert f"!!!!!!!!!!\n{FLAG}: checkpoints may run ANY CODE" in printed
    assert f"WARNING - UNSAFE: {file} is loaded without restriction" in printed
    assert "posix.mkdir" in printed
    status, printed = use(tool, way, file, *(["--overwrite"] * (way != "test")))
    assert status == 2 and "was refused" in printed and not executed()


def test_resume_from_unsafe_checkpoint(trained, tool):
    args = ("--work-dir", "more", "--resume", "hostile.pth")
    assert tool("train", CLASSIFIER, *args)[0] == 2 and not executed()
    assert tool("train", CLASSIFIER, *args, FLAG)[0] == 0 and executed()


@pytest.mark.parametrize("name", ["predict", "visualize_tokens", "inspector"])
def test_tools_that_show_a_model(name, project, tool):
    torch.save(dict(state_dict={}, payload=Runs()), "hostile.pth")
    image = str(next(Path("data").rglob("*.jpg")))
    args = () if name == "inspector" else (image, "--out", "shown")
    status, printed = tool(name, CLASSIFIER, "hostile.pth", *args)
    assert status == 2 and "hostile.pth was refused" in printed, printed
    assert not executed()


@pytest.fixture
def stock_loader():
    """MMEngine's loaders as in the toolboxes' own tools."""
    before = dict(CheckpointLoader._schemes)
    for prefix, load in before.items():
        stock = getattr(load, "__wrapped__", load)
        CheckpointLoader.register_scheme(prefix, stock, force=True)
    yield
    for prefix, load in before.items():
        CheckpointLoader.register_scheme(prefix, load, force=True)


def test_pretrained_backbone_in_the_stock_tools(url, stock_loader, monkeypatch):
    """Also where the environment asks for the contrary, as a way around torch's restriction."""
    torch.save(dict(payload=Runs()), "hostile.pth")
    CheckpointLoader._get_checkpoint_loader(url)(f"{url}/hostile.pth", "cpu")
    assert executed()  # so the rest tests something
    refuse_unsafe_checkpoints()
    variable = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    monkeypatch.setenv(variable, "1")
    for name in (f"{url}/hostile.pth", "hostile.pth"):
        with pytest.raises(InputError, match="was refused"):
            read_tensors(name)
        assert not executed()
    assert os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD") is None
    assert os.environ[variable] == "1"


def test_what_cannot_be_downloaded(url, tool):
    status, printed = use(tool, "test", f"{url}/nowhere.pth")
    assert status == 2, printed
    assert "nowhere.pth cannot be downloaded (HTTPError: HTTP Error 404" in printed
    assert "Traceback" not in printed
    with pytest.raises(InputError, match="cannot be downloaded .*proxy"):
        load_remote("http://127.0.0.1:1/x.pth")


def test_broken_downloads(url):
    torch.save(dict(a=torch.ones(1000)), "whole.pth")
    Path("cut.pth").write_bytes(Path("whole.pth").read_bytes()[:2000])
    with pytest.raises(InputError, match=r"cut off.*Delete the copy in \S+cache/hub/checkpoints"):
        load_remote(f"{url}/cut.pth")
    with pytest.raises(InputError, match="download .safetensors files first"):
        load_remote("https://example.org/x.safetensors")


@pytest.mark.parametrize("kind", ["raw", "tar", "zip", "script", "text"])
def test_hostile_files_of_every_format(kind, project):
    """Nothing runs, and torch's advice is not passed on: to load it all the same, or to report."""
    raw = pickle.dumps(Runs())
    if kind == "raw":
        Path("bad.pth").write_bytes(raw)
    elif kind == "text":
        Path("bad.pth").write_text("this is text")
    elif kind == "tar":
        with tarfile.open("bad.pth", "w") as archive:
            for name in ("pickle", "tensors", "storages"):
                member = tarfile.TarInfo(name)
                member.size = len(raw)
                archive.addfile(member, io.BytesIO(raw))
    else:
        with zipfile.ZipFile("bad.pth", "w") as archive:
            for name in ["data.pkl", "constants.pkl"][: 1 + (kind == "script")]:
                archive.writestr(f"archive/{name}", raw)
            archive.writestr("archive/version", "3\n")
    with pytest.raises(InputError, match="was refused|cannot be read") as caught:
        load_file("bad.pth")
    assert not executed()
    assert "weights_only" not in str(caught.value).replace("weights_only=True", "")
    assert "Please file an issue" not in str(caught.value)


def test_pickles_and_code_within_a_field_stay_text(trained, tool):
    """Checkpoints hold the config's text; nobody reads it as a config, which is code."""
    text = "import os\nos.mkdir('pwned')\nmodel = dict()\n"
    content = load_file("safe.pth")
    content["meta"].update(cfg=text, note=pickle.dumps(Runs()))
    content["message_hub"]["runtime_info"].update(cfg=text, note=pickle.dumps(Runs()))
    torch.save(content, "text.pth")
    image = str(next(Path("data").rglob("*.jpg")))
    for name, *args in (
        ("test", CLASSIFIER, "text.pth"),
        ("train", CLASSIFIER, "--work-dir", "on", "--resume", "text.pth"),
        ("train", CLASSIFIER, "--work-dir", "from", "--load-from", "text.pth"),
        ("predict", CLASSIFIER, "text.pth", image, "--out", "predicted"),
    ):
        status, printed = tool(name, *args)
        assert status == 0, printed
        assert not executed()


def test_unsafe_file_that_is_broken(project):
    """With the opt-out, an unreadable file is still a user's error."""
    Path("broken.pth").write_bytes(b"\x80\x02}q\x00(X\x01")
    allow_unsafe_checkpoints()
    try:
        with pytest.raises(InputError, match="broken.pth cannot be read"):
            load_file("broken.pth")
    finally:
        refuse_unsafe_checkpoints()
