"""MMEngine's training loops, able to go on at the exact batch, also in the middle of an epoch."""

from typing import Any

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmdualtoken.training.loader import ResumableBatches, build_resumable_loader
from mmdualtoken.training.workers import end_workers


class _LateIterator:
    """Batches of a loader whose iterator is made when the first one is needed.

    MMEngine advances a resumed run's data by loading and dropping every batch that was trained on.
    The loader stands at the right batch already, so `skip` calls return nothing instead.
    """

    def __init__(self, loader: DataLoader, skip: int):
        self.loader = loader
        self.skip = skip
        self._iterator = None

    def skip_iter(self, count: int) -> None:
        """What the maintained fork of MMEngine calls instead of next."""
        self.skip = 0

    def __iter__(self) -> "_LateIterator":
        return self

    def __next__(self) -> Any:
        if self.skip > 0:
            self.skip -= 1
            return None
        if self._iterator is None:
            self._iterator = iter(self.loader)
        return next(self._iterator)


def _end_validation_workers(runner: Runner) -> None:
    loader = getattr(runner._val_loop, "dataloader", None)
    if loader is not None:
        end_workers(loader)


@LOOPS.register_module(force=True)
class ResumableIterLoop(IterBasedTrainLoop):
    """`IterBasedTrainLoop` whose data goes on where it stopped, without loading what came before.

    The order of the data is that of IterBasedTrainLoop; at the end of the dataset the workers load
    on without a restart.

    Args:
        runner, dataloader, max_iters, val_begin, val_interval, dynamic_intervals: as there.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args: Any, **kwargs: Any):
        loader = build_resumable_loader(runner, dataloader, endless=True)
        super().__init__(runner, loader, *args, **kwargs)

    def run(self) -> Any:
        """Launch training; the workers end with it, also if it fails."""
        batches = self.dataloader.batch_sampler
        if self._iter > 0 and isinstance(batches, ResumableBatches):
            batches.start(epoch=0, batch=self._iter)
            # The official MMEngine has let them load from the beginning.
            end_workers(self.dataloader, self.dataloader_iterator._iterator)
            self.dataloader_iterator = _LateIterator(self.dataloader, skip=self._iter)
        try:
            return super().run()
        finally:
            end_workers(self.dataloader, self.dataloader_iterator._iterator)
            _end_validation_workers(self.runner)


@LOOPS.register_module(force=True)
class ResumableEpochLoop(EpochBasedTrainLoop):
    """`EpochBasedTrainLoop` that can go on in the middle of an epoch.

    Args:
        runner, dataloader, max_epochs, val_begin, val_interval, dynamic_intervals: as there.

    Attributes:
        first_batch (int): batches of the next epoch that were trained on before the run was
            stopped; `ExactResumeHook` sets it.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args: Any, **kwargs: Any):
        loader = build_resumable_loader(runner, dataloader)
        super().__init__(runner, loader, *args, **kwargs)
        self.first_batch = 0

    def run(self) -> Any:
        """Launch training; the workers end with it, also if it fails."""
        try:
            return super().run()
        finally:
            end_workers(self.dataloader)
            _end_validation_workers(self.runner)

    def run_epoch(self) -> None:
        """Iterate one epoch, from `first_batch` on."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        first, self.first_batch = self.first_batch, 0
        if isinstance(self.dataloader.batch_sampler, ResumableBatches):
            self.dataloader.batch_sampler.start(self._epoch, first)
        for idx, data_batch in enumerate(self.dataloader, first):
            self.run_iter(idx, data_batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
