"""What our train.py leaves is of use to the toolboxes' own: checkpoints and written configs."""

from pathlib import Path

import pytest
from tasks import TASKS

from mmdualtoken.weights.checkpoints import load_file

TOOLBOXES = {"detection": "mmdet", "segmentation": "mmseg", "classification": "mmpretrain"}


def losses(file):
    return load_file(file)["message_hub"]["log_scalars"]["train/loss"].data[0]


@pytest.mark.parametrize(
    "task, written",
    [
        pytest.param("detection", True, marks=pytest.mark.slow),
        ("segmentation", True),
        ("classification", False),
    ],
)
def test_stock_train_resumes(task, written, trained, stock):
    """With the config that the run has written, and with ours."""
    trained(task)
    (dumped,) = Path("run").glob("*.py")
    assert "AtomicCheckpointHook" in dumped.read_text()
    before = Path(Path("run/last_checkpoint").read_text())
    ends = "max_epochs=3" if task == "classification" else "max_iters=6"
    args = ("--work-dir", "run", "--resume", "--cfg-options", f"train_cfg.{ends}")
    if task == "classification":  # mmpretrain's own default does not go with num_workers=0
        args = ("--no-persistent-workers", *args)
    stock(TOOLBOXES[task], dumped if written else TASKS[task][0], *args)
    old, new = losses(before), losses(Path("run/last_checkpoint").read_text())
    assert len(new) == 6 and list(new[: len(old)]) == list(old)
