"""Training loops whose data can start at any batch, with random numbers of each sample's own."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank
from mmengine.registry import DATA_SAMPLERS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from mmdualtoken.errors import InputError
from mmdualtoken.training.workers import end_workers, shield_workers

# First number of the keys of seed_all, so that a sample and an iteration never share theirs.
SAMPLE, ITERATION = 0, 1


def seed_all(*key: int) -> None:
    """Seed Python, numpy and torch (CPU and all GPUs in use) with the numbers of `key`.

    Equal keys give equal random numbers in every process; keys that differ in any number, or in
    length, give streams that have nothing to do with each other. The numbers, such as a run's
    seed, a rank and an iteration, are 0 or more.
    """
    words = np.random.SeedSequence([*key, len(key)]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    # Not torch.manual_seed, which formats a stack trace per call until CUDA is first used: 0.4 ms.
    torch.default_generator.manual_seed(int(words[2]))
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(int(words[2]))


class SampleRequest(NamedTuple):
    """A sample to load: its index in the dataset, and the key of its random numbers."""

    index: Any
    key: tuple[int, ...]


def load_items(dataset: Dataset, indices: list) -> list:
    """A dataset's `__getitems__`: seed all generators for each `SampleRequest`, then load it.

    What the transforms draw then depends neither on the worker process nor on what it loaded
    before. Plain indices are loaded without seeding.
    """
    items = []
    for index in indices:
        if isinstance(index, SampleRequest):
            seed_all(*index.key)
            index = index.index
        items.append(dataset[index])
    return items


class ResumableBatches(Sampler):
    """Replaces a DataLoader's batch sampler: starts at any batch, and yields `SampleRequest`s.

    Args:
        inner: the batch sampler.
        rebuild: builds `inner` again from a sampler seed. MMEngine's samplers cannot be rewound,
            and take their seed when they are built.
        seed: of the run; the samples' random numbers follow from it, the rank and the position.
        endless: continue with the next epoch at the end of one, as a loop over iterations needs
            it; the workers then load without a pause.
    """

    def __init__(
        self,
        inner: Sampler,
        rebuild: Callable[[int], Sampler],
        seed: int,
        endless: bool = False,
    ):
        self.inner = inner
        self.rebuild = rebuild
        self.seed = seed
        self.endless = endless
        self._epoch, self._first = 0, 0

    def __getattr__(self, name: str) -> Any:
        """Return `sampler`, whose epoch hooks set, `batch_size` and `drop_last` of `inner`."""
        return getattr(self.inner, name)

    def reset(self, seed: int, sampler_seed: int | None) -> None:
        """Take the seeds of the run that is resumed."""
        self.seed = seed
        if sampler_seed is not None:
            self.inner = self.rebuild(sampler_seed)

    def start(self, epoch: int, batch: int = 0) -> None:
        """Set the batch and the epoch, counted from 0, at which the next iteration begins."""
        self._epoch, self._first = epoch, batch

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        # Taken at the first batch, not before: torch makes a second iterator and drops the first.
        epoch, first, self._first = self._epoch, self._first, 0
        while True:
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
            count = 0
            for batch in self.inner:
                if count >= first:
                    yield self._requests(batch, epoch, count)
                count += 1
            if not self.endless or count == 0:
                return
            epoch, first = epoch + 1, max(0, first - count)

    def _requests(self, batch: list, epoch: int, number: int) -> list[SampleRequest]:
        key = (SAMPLE, self.seed, get_rank(), epoch, number)
        return [SampleRequest(index, (*key, i)) for i, index in enumerate(batch)]


def _rebuilder(config: dict, loader: DataLoader) -> Callable[[int], Sampler]:
    """Return a function that builds the loader's batch sampler as Runner.build_dataloader did."""

    def rebuild(seed: int) -> Sampler:
        sampler = DATA_SAMPLERS.build(
            config["sampler"], default_args=dict(dataset=loader.dataset, seed=seed)
        )
        if config.get("batch_sampler") is None:
            return BatchSampler(sampler, loader.batch_size, loader.drop_last)
        return DATA_SAMPLERS.build(
            config["batch_sampler"],
            default_args=dict(sampler=sampler, batch_size=config["batch_size"]),
        )

    return rebuild


def _check_batches(loader: DataLoader, endless: bool) -> None:
    """MMEngine would train for no iteration and write a checkpoint, or never end an epoch."""
    batches = loader.batch_sampler
    never_ends = isinstance(getattr(batches, "sampler", None), InfiniteSampler)
    if never_ends and not endless:
        raise InputError(
            "train_cfg counts epochs, but the InfiniteSampler of train_dataloader never ends one: "
            "nothing would be evaluated or saved. Set train_dataloader.sampler to "
            "dict(type='DefaultSampler', shuffle=True), or train by iterations: "
            "dict(type='IterBasedTrainLoop', max_iters=...)."
        )
    if not never_ends and batches is not None and len(batches) == 0:
        count = len(batches.sampler)
        raise InputError(
            f"train_dataloader gives no batch: each process gets {count} of the data set's "
            f"{len(loader.dataset)} images, fewer than batch_size={batches.batch_size}, and "
            "drop_last=True leaves out a batch that is not full. Set train_dataloader.batch_size "
            f"to at most {count}, or train_dataloader.drop_last=False."
        )


def build_resumable_loader(
    runner: Runner, dataloader: DataLoader | dict, endless: bool = False
) -> DataLoader:
    """Build a training DataLoader whose batch sampler is a `ResumableBatches`.

    The loader and its dataset keep their classes; the dataset gets a `__getitems__` of its own,
    which torch's loader prefers to `__getitem__`.

    Args:
        runner: gives the seed.
        dataloader: config as in `Runner.build_dataloader`. A DataLoader is returned unchanged: it
            cannot start at another batch.
        endless: see `ResumableBatches`.

    Raises:
        InputError: the loader gives no batch, or one by epochs has a sampler that never ends.
    """
    if not isinstance(dataloader, dict):
        return dataloader
    diff_rank_seed = runner._randomness_cfg.get("diff_rank_seed", False)
    loader = runner.build_dataloader(dataloader, runner.seed, diff_rank_seed)
    _check_batches(loader, endless)
    shield_workers(loader)
    if not isinstance(dataloader["sampler"], dict) or loader.batch_sampler is None:
        return loader
    rebuild = _rebuilder(dataloader, loader)
    batches = ResumableBatches(loader.batch_sampler, rebuild, runner.seed, endless)
    # DataLoader refuses the assignment, lest its batch_size and sampler no longer describe it;
    # here they still do.
    object.__setattr__(loader, "batch_sampler", batches)
    loader.dataset.__getitems__ = partial(load_items, loader.dataset)
    return loader


class _LateIterator:
    """Batches of a loader whose iterator is made when the first one is needed.

    MMEngine advances a resumed run's data by loading and dropping every batch that was trained on.
    The loader starts at the right batch already, so the first `skip` calls return None.
    """

    def __init__(self, loader: DataLoader, skip: int):
        self.loader = loader
        self.skip = skip
        self._iterator = None

    def skip_iter(self, count: int) -> None:
        """Skip at once: the maintained fork of MMEngine calls this instead of next."""
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


@LOOPS.register_module(force=True)
class ResumableIterLoop(IterBasedTrainLoop):
    """`IterBasedTrainLoop` that resumes its data without loading the batches before.

    The order of the data is that of IterBasedTrainLoop. At the end of the dataset the workers
    continue without a restart.

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
            end_workers(getattr(self.runner._val_loop, "dataloader", None))


@LOOPS.register_module(force=True)
class ResumableEpochLoop(EpochBasedTrainLoop):
    """`EpochBasedTrainLoop` that can resume in the middle of an epoch.

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
            end_workers(getattr(self.runner._val_loop, "dataloader", None))

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
