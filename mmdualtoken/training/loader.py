"""Training data that can start at any batch, with randomness of each sample its own."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mmengine.dist import get_rank
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from mmdualtoken.training.seeding import seed_all
from mmdualtoken.training.workers import shield_workers

# First number of the keys of seed_all, so that a sample and an iteration never share theirs.
SAMPLE, ITERATION = 0, 1


class Draw(NamedTuple):
    """A sample to load: its index in the dataset, and the key of its random numbers."""

    index: Any
    key: tuple[int, ...]


class SeededItems:
    """A dataset's `__getitems__`: seeds all generators for each `Draw`, then loads it.

    What the transforms draw then depends neither on the worker process nor on what it loaded
    before. Indices that are no Draw are loaded as they are.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __call__(self, indices: list) -> list:
        return [self._load(index) for index in indices]

    def _load(self, index: Any) -> Any:
        if isinstance(index, Draw):
            seed_all(*index.key)
            index = index.index
        return self.dataset[index]


class ResumableBatches(Sampler):
    """Stands in for a DataLoader's batch sampler: starts where it is told to, and yields Draws.

    Args:
        inner: the batch sampler.
        rebuild: makes `inner` anew from a sampler seed. Samplers of MMEngine's kind cannot be
            rewound, and take their seed when they are built.
        seed: of the run; the samples' random numbers follow from it, the rank and the position.
        endless: go on with the next epoch at the end of one, as a loop over iterations needs it;
            the workers then load on without a pause.
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

    @property
    def sampler(self) -> Sampler:
        """The sampler of single indices, which hooks tell the epoch."""
        return self.inner.sampler

    @property
    def batch_size(self) -> int:
        """Samples per batch."""
        return self.inner.batch_size

    @property
    def drop_last(self) -> bool:
        """Whether a last batch that is not full is left out."""
        return getattr(self.inner, "drop_last", False)

    def reset(self, seed: int, sampler_seed: int | None) -> None:
        """Begin anew with the seeds of another run, which is being resumed."""
        self.seed = seed
        if sampler_seed is not None:
            self.inner = self.rebuild(sampler_seed)

    def start(self, epoch: int, batch: int = 0) -> None:
        """Let the next iteration begin at a batch of an epoch, both counted from 0."""
        self._epoch, self._first = epoch, batch

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[list[Draw]]:
        # Taken at the first batch, not before: torch makes a second iterator and drops the first.
        epoch, first, self._first = self._epoch, self._first, 0
        while True:
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
            count = 0
            for batch in self.inner:
                if count >= first:
                    yield self._draws(batch, epoch, count)
                count += 1
            if not self.endless or count == 0:
                return
            epoch, first = epoch + 1, max(0, first - count)

    def _draws(self, batch: list, epoch: int, number: int) -> list[Draw]:
        key = (SAMPLE, self.seed, get_rank(), epoch, number)
        return [Draw(index, (*key, i)) for i, index in enumerate(batch)]


def _rebuilder(config: dict, loader: DataLoader) -> Callable[[int], Sampler]:
    """What makes the loader's batch sampler anew, as Runner.build_dataloader made it."""

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


def build_resumable_loader(
    runner: Runner, dataloader: DataLoader | dict, endless: bool = False
) -> DataLoader:
    """Build a training DataLoader whose batch sampler is a `ResumableBatches`.

    The loader and its dataset keep their classes; the dataset gets a `__getitems__` of its own,
    which torch's loader prefers to `__getitem__`.

    Args:
        runner: gives the seed.
        dataloader: config as in `Runner.build_dataloader`. A DataLoader that is built already
            cannot start elsewhere, and is given back as it is.
        endless: see `ResumableBatches`.
    """
    if not isinstance(dataloader, dict):
        return dataloader
    diff_rank_seed = runner._randomness_cfg.get("diff_rank_seed", False)
    loader = runner.build_dataloader(dataloader, runner.seed, diff_rank_seed)
    shield_workers(loader)
    if not isinstance(dataloader["sampler"], dict) or loader.batch_sampler is None:
        return loader
    rebuild = _rebuilder(dataloader, loader)
    batches = ResumableBatches(loader.batch_sampler, rebuild, runner.seed, endless)
    # DataLoader refuses the assignment, lest its batch_size and sampler no longer describe it;
    # here they still do.
    object.__setattr__(loader, "batch_sampler", batches)
    loader.dataset.__getitems__ = SeededItems(loader.dataset)
    return loader
