"""What our train.py leaves is of use to the toolboxes' own: checkpoints and written configs."""

import pytest
from tasks import TASKS

from mmdualtoken.weights.checkpoints import load_file

TOOLBOXES = {"detection": "mmdet", "segmentation": "mmseg", "classification": "mmpretrain"}


def losses(file):
    return load_file(file)["message_hub"]["log_scalars"]["train/loss"].data[0]


@pytest.mark.parametrize("written", [False, True], ids=["our config", "config of the run"])
@pytest.mark.parametrize(
    "task", [pytest.param("detection", marks=pytest.mark.slow), "segmentation", "classification"]
)
def test_stock_train_resumes(task, written, project, tool, stock):
    config = TASKS[task][0]
    assert tool("train", config, "--work-dir", "run")[0] == 0
    (dumped,) = (project / "run").glob("*.py")
    (last,) = (project / "run").glob("*.pth")
    assert "AtomicCheckpointHook" in dumped.read_text()
    ends = "max_epochs=2" if task == "classification" else "max_iters=4"
    options = ("--cfg-options", f"train_cfg.{ends}")
    args = ("--work-dir", "run", "--resume", *options)
    if task == "classification":  # mmpretrain's own default does not go with num_workers=0
        args = ("--no-persistent-workers", *args)
    stock(TOOLBOXES[task], dumped if written else config, *args)
    (new,) = set((project / "run").glob("*.pth")) - {last}
    assert len(losses(new)) == 2 * len(losses(last))
    assert list(losses(new)[: len(losses(last))]) == list(losses(last))
    status, printed = tool("test", config, new)
    assert status == 0 and TASKS[task][1] in printed
