"""Fixtures, and the rule that every skipped test names its reason."""

import os
import runpy
import shutil
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import torch
from tasks import SHORT, TASKS

# Narrow models at 64 pixels: threads cost more than they give, on a busy machine twenty times.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent


def fail_silent_skip(report):
    """Turn a skip without a reason into a failure."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2]).removeprefix("Skipped:").strip()
        # What pytest puts in where the mark, or the call, gives no reason.
        if reason in ("", "unconditional skip", "Skipped"):
            report.outcome = "failed"
            report.longrepr = f"{report.nodeid}: skipped without a reason"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    fail_silent_skip((yield).get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    fail_silent_skip((yield).get_result())


@pytest.fixture(scope="session", autouse=True)
def quick_start():
    """Skip what takes most of a short run: MMEngine formats its config by yapf, six times, and asks
    compilers for their versions.
    """
    from mmengine.config import config
    from mmengine.runner import runner

    with pytest.MonkeyPatch.context() as patch:
        plain = lambda text, **_: (text, False)  # noqa: E731
        patch.setattr("yapf.yapflib.yapf_api.FormatCode", plain)  # the fork imports it late
        patch.setattr(config, "FormatCode", plain, raising=False)
        patch.setattr(runner, "collect_env", cache(runner.collect_env))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of small real data sets, named by MMDUALTOKEN_DATA."""
    folder = os.environ.get("MMDUALTOKEN_DATA")
    if not folder:
        pytest.skip("MMDUALTOKEN_DATA is not set; it names a folder of small real data sets")
    if not Path(folder).is_dir():
        pytest.fail(f"MMDUALTOKEN_DATA={folder} is no folder")
    return Path(folder).resolve()  # tests change the working directory


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A folder with data/scenes, data/ade and data/imagenet, small."""
    from lab.scene_writers import write_scenes

    root = tmp_path_factory.mktemp("project")
    size = dict(num_train=8, num_val=6, size_range=(96, 128))
    write_scenes("coco", root / "data/scenes", **size)
    write_scenes("ade20k", root / "data/ade", **size)
    write_scenes("imagenet", root / "data/imagenet", **size)
    return root


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def project(scenes, here):
    """A working directory with the data in it; not the project's own folder."""
    (here / "data").symlink_to(scenes / "data")
    return here


def run_script(path):
    """Run a script here, with nothing left of earlier ones, as in a process of its own.

    MMEngine keeps visualizers, loggers and the like by name, and names a run by its config and
    the second it starts in: of two runs in one second the later one would write to the earlier
    one's log.
    """
    from mmengine.utils import ManagerMixin

    forget(ManagerMixin)
    runpy.run_path(str(path), run_name="__main__")


def forget(manager):
    """Forget the instances that MMEngine keeps by name, of a class and those derived from it."""
    manager._instance_dict.clear()
    for derived in manager.__subclasses__():
        forget(derived)


@pytest.fixture
def tool(monkeypatch, capfd):
    """Run a tool in this process: tool('train', ...) -> (exit status, what it printed)."""

    def call(name, *args):
        monkeypatch.setattr(sys, "argv", [f"tools/{name}.py", *map(str, args)])
        monkeypatch.setenv("LOCAL_RANK", "0")
        status = 0
        try:
            run_script(ROOT / "tools" / f"{name}.py")
        except SystemExit as stop:
            status = stop.code or 0
        printed = capfd.readouterr()
        return status, printed.out + printed.err

    return call


@pytest.fixture
def trained(scenes, project, tool):
    """trained(task): put a work dir 'run' here, of a training that tests share -> its output."""

    def call(task):
        shared = scenes / "runs" / task
        if not shared.exists():
            options = ["--work-dir", "run", "--cfg-options", *SHORT[task]]
            status, printed = tool("train", TASKS[task][0], *options)
            assert status == 0, printed[-3000:]
            shutil.copytree("run", shared)
            (shared / "printed").write_text(printed)
        shutil.copytree(shared, "run", dirs_exist_ok=True)
        last = project / "run" / "last_checkpoint"
        last.write_text(str(last.with_name(Path(last.read_text()).name)))
        return (shared / "printed").read_text()

    return call


@pytest.fixture
def stock(monkeypatch, capfd):
    """Run a toolbox's own train.py in this process: stock('mmdet', ...) -> what it printed."""

    def call(toolbox, *args):
        script = Path(import_module(toolbox).__file__).parent / ".mim" / "tools" / "train.py"
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, args)])
        monkeypatch.setenv("LOCAL_RANK", "0")
        run_script(script)
        printed = capfd.readouterr()
        return printed.out + printed.err

    return call


@pytest.fixture
def onnx():
    """Skip where what exporting needs is not installed."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: the extra [export]")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: the extra [export]")
