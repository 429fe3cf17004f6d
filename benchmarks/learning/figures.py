"""Parameters and multiply-accumulates of a row's whole model at the task's image size."""

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from mmdualtoken.export.breakdown import break_down

from .rows import Row, swap_backbone
from .tasks import Task


def model_config(task: Task, row: Row, budget: str) -> Config:
    """The task's config with the row's model, for this budget."""
    cfg = Config.fromfile(task.file)
    swap_backbone(cfg, task, row)
    cfg.merge_from_dict(dict(model=task.budgets[budget].model))
    return cfg


def figures_of(task: Task, row: Row, budget: str) -> dict[str, float]:
    """Parameters and FLOPs (multiply-accumulates) of the whole model for one test image.

    Mask R-CNN is counted with 1000 boxes and 100 masks, as elsewhere in this project.
    """
    cfg = model_config(task, row, budget)
    import_modules_from_strings(**cfg.custom_imports)
    counted = break_down(cfg, task.size)
    return dict(parameters=counted.params, flops=counted.macs, size=list(task.size))
