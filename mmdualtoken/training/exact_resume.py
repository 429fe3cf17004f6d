"""A resumed run continues exactly as if it had never stopped."""

from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mmdualtoken.errors import InputError
from mmdualtoken.training.distributed import max_over_processes
from mmdualtoken.training.resumable_data import (
    ITERATION,
    ResumableBatches,
    ResumableEpochLoop,
    ResumableIterLoop,
    seed_all,
)
from mmdualtoken.training.schedule import Settings, apply_changed_settings, current_settings

KEY = "exact_resume"


@HOOKS.register_module(force=True)
class ExactResumeHook(Hook):
    """Make all randomness of training a function of seed, process, and place in the run.

    MMEngine's resume restores weights, optimizer, schedules and averaged weights, but no random
    numbers: augmentation, mixup and drop path of a resumed run differ. With this hook the model's
    randomness follows from (seed, rank, iteration) and, with `ResumableIterLoop` or
    `ResumableEpochLoop`, each sample's from (seed, rank, position in the data); there is nothing to
    restore but the seeds and the position, which are kept in the checkpoint as 'exact_resume'.

    Processes draw different numbers for the model, unless the config says
    `randomness = dict(diff_rank_seed=False)`.

    Where the config's schedule or optimizer is no longer the checkpoint's, the config's holds.

    Not covered: what a transform, model or hook keeps outside the checkpoint, such as a cache of
    images or a random generator of its own.
    """

    priority = "HIGHEST"

    def __init__(self) -> None:
        self._record: dict | None = None
        self._settings: Settings | None = None
        self._schedulers: list[dict] = []
        self._epoch = 0
        self._epoch_start = 0

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the position in the checkpoint that the run is resumed from.

        Raises:
            InputError: it holds weights, but not where the training stood.
        """
        if not runner._resume:
            return
        file = runner._load_from or f"{runner.work_dir}/last_checkpoint"
        missing = [k for k in ("meta", "message_hub") if not isinstance(checkpoint.get(k), dict)]
        if missing:
            raise InputError(
                f"--resume {file}: it holds no state of a training, no {' and no '.join(missing)}. "
                "Resume from a checkpoint that training wrote, or start a new training from these "
                "weights with --load-from."
            )
        if "optimizer" not in checkpoint:
            runner.logger.warning(f"Resume: {file} holds no optimizer; its state starts from zero.")
        self._record = checkpoint.get(KEY, {})
        self._settings = current_settings(runner)
        self._schedulers = checkpoint.get("param_schedulers") or []

    def before_train(self, runner: Runner) -> None:
        """Set the data to where the checkpoint was written, and say what is not exact.

        Raises:
            InputError: the processes would start at different iterations.
        """
        loop = runner.train_loop
        first, last = -max_over_processes(-loop.iter), max_over_processes(loop.iter)
        if first != last:
            raise InputError(
                f"The processes would start at different iterations, {first} to {last}: not every "
                "machine has the checkpoint, which the first process wrote. Resume with a work dir "
                "that all machines share, or copy last_checkpoint and the file that it names to "
                "the work dir of each."
            )
        batches = loop.dataloader.batch_sampler
        ours = isinstance(loop, (ResumableEpochLoop, ResumableIterLoop))
        if not (ours and isinstance(batches, ResumableBatches)):
            runner.logger.warning(
                f"The order of data and its augmentation will differ after a resume: "
                f"{type(loop).__name__} and its loader cannot start at a given batch. "
                "ResumableEpochLoop and ResumableIterLoop, with a loader built from its config, can"
            )
        if self._record is None:
            return
        record, self._record = self._record, None
        if isinstance(batches, ResumableBatches):
            batches.reset(runner.seed, record.get("sampler_seed"))
        self._set_position(runner, record)
        if self._settings:
            apply_changed_settings(runner, self._settings, self._schedulers)
            self._settings = None
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        key = "max_epochs" if by_epoch else "max_iters"
        done, last = loop.epoch if by_epoch else loop.iter, getattr(loop, key)
        if done >= last:
            runner.logger.warning(
                f"Resume: the run is finished, {done} of {key}={last}: nothing is left to do. To "
                f"train longer, raise train_cfg.{key}."
            )

    def _set_position(self, runner: Runner, record: dict) -> None:
        loop, layout = runner.train_loop, self._layout(runner)
        changed = [
            f"{k} {record.get(k)} -> {layout[k]}" for k in layout if record.get(k) != layout[k]
        ]
        lost = loop.iter % getattr(runner.optim_wrapper, "_accumulative_counts", 1)
        if not record:
            text = "not exact, as the checkpoint was written without ExactResumeHook"
        elif changed:
            text = f"not exact, as the run has changed: {', '.join(changed)}"
        elif lost:
            text = f"not exact, as gradients of {lost} iterations, not yet applied, are not kept"
        else:
            text = "data and random numbers continue exactly"
        done = record.get("batch_in_epoch", 0)
        if done and isinstance(loop, ResumableEpochLoop) and not changed:
            loop.first_batch = done
            text += f", in epoch {loop.epoch + 1} after batch {done}"
        elif done:
            text += f"; epoch {loop.epoch + 1} starts again: its first {done} batches are repeated"
        pipeline = getattr(runner.train_dataloader.dataset, "pipeline", None)
        steps = getattr(pipeline, "transforms", ())
        if caches := {type(step).__name__ for step in steps if hasattr(step, "results_cache")}:
            text += f", but for the images that {', '.join(sorted(caches))} had kept, if still used"
        (runner.logger.warning if changed or lost else runner.logger.info)(f"Resume: {text}.")

    def before_train_epoch(self, runner: Runner) -> None:
        """Keep the iteration at which the epoch began."""
        self._epoch = runner.epoch
        self._epoch_start = runner.iter - getattr(runner.train_loop, "first_batch", 0)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the model's randomness."""
        # The stock default draws the same in all processes, but only until their data differ.
        same = runner._randomness_cfg.get("diff_rank_seed") is False
        seed_all(ITERATION, runner.seed, 0 if same else get_rank(), runner.iter)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the seeds and the position to the checkpoint."""
        meta = checkpoint["meta"]
        sampler = getattr(runner.train_dataloader.batch_sampler, "sampler", None)
        by_iteration = isinstance(runner.train_loop, IterBasedTrainLoop)
        in_epoch = meta["epoch"] == self._epoch and not by_iteration
        checkpoint[KEY] = dict(
            self._layout(runner),
            sampler_seed=getattr(sampler, "seed", None),
            batch_in_epoch=meta["iter"] - self._epoch_start if in_epoch else 0,
        )

    @staticmethod
    def _layout(runner: Runner) -> dict[str, int]:
        """Return what the order of the data depends on, apart from the seed."""
        batches = runner.train_dataloader.batch_sampler
        return dict(
            processes=get_world_size(),
            batch_size=getattr(batches, "batch_size", None),
            samples=len(runner.train_dataloader.dataset),
        )
