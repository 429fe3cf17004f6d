"""A run's folder that was moved or copied, and a `last_checkpoint` that is of no use."""

from pathlib import Path

import pytest
from helpers import log_lines
from tasks import TASKS

from mmdualtoken.errors import InputError
from mmdualtoken.weights.checkpoints import load_file
from mmdualtoken.weights.resume import moved_checkpoint

CONFIG = TASKS["segmentation"][0]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "iter_1.pth").touch()
    (tmp_path / "iter_2.pth").touch()
    return tmp_path


def test_where_it_was_written(run):
    """MMEngine finds it, so that the config that is kept names no checkpoint."""
    assert moved_checkpoint(run) is None
    (run / "last_checkpoint").write_text(f"{run}/iter_2.pth\n")
    assert moved_checkpoint(run) is None
    (run / "last_checkpoint").write_text("s3://bucket/run/iter_2.pth")
    assert moved_checkpoint(run) is None


def test_moved(run):
    (run / "last_checkpoint").write_text("/gone/run/iter_2.pth")
    with log_lines() as lines:
        assert moved_checkpoint(run) == f"{run}/iter_2.pth"
    assert lines == [f"--resume: {run}/iter_2.pth is taken, not /gone/run/iter_2.pth of its name."]


def test_copied(run):
    """The original is still there, and may have gone on."""
    (run / "copy").mkdir()
    (run / "copy" / "iter_2.pth").touch()
    for folder in (run, run / "copy"):
        (folder / "last_checkpoint").write_text(f"{run}/iter_2.pth")
    assert moved_checkpoint(run / "copy") == f"{run}/copy/iter_2.pth"


def test_checkpoints_in_out_dir(run):
    """The work dir's own file of that name is an earlier one."""
    (run / "out").mkdir()
    (run / "out" / "iter_2.pth").touch()
    (run / "last_checkpoint").write_text(f"{run}/out/iter_2.pth")
    assert moved_checkpoint(run) is None


@pytest.mark.parametrize(
    "content, why",
    [
        (b"", "it is empty"),
        (b"\n", "it is empty"),
        (b"\xff\xfe", "it cannot be read"),
        (b"/gone/iter_3.pth", "it names /gone/iter_3.pth, which does not exist"),
    ],
)
def test_of_no_use(content, why, run):
    (run / "last_checkpoint").write_bytes(content)
    with pytest.raises(InputError) as caught:
        moved_checkpoint(run)
    assert why in str(caught.value)
    assert str(caught.value).endswith(f"In {run}: iter_1.pth, iter_2.pth.")


def test_link_to_a_file_that_is_gone(run):
    (run / "last_checkpoint").symlink_to("gone")
    with pytest.raises(InputError, match="it is a link to a file that is gone.*iter_2.pth"):
        moved_checkpoint(run)


def test_by_the_tool(trained, tool):
    trained("segmentation")
    Path("run").rename("moved")
    more = ["--work-dir", "moved", "--resume", "--cfg-options", "train_cfg.max_iters=5"]
    status, printed = tool("train", CONFIG, *more)
    assert status == 0 and "--resume: moved/iter_4.pth is taken, not " in printed
    assert load_file("moved/iter_5.pth")["meta"]["iter"] == 5
    Path("moved/last_checkpoint").write_text("")
    status, printed = tool("train", CONFIG, *more)
    assert status == 2 and "moved/last_checkpoint is of no use: it is empty" in printed
