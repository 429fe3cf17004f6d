"""What exact resume rests on: data from any batch on, random numbers that belong to a draw."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, DataLoader, Dataset

from mmdualtoken.training import exact_resume
from mmdualtoken.training.resumable_data import (
    ResumableBatches,
    SampleRequest,
    load_items,
    seed_all,
)


class Items(Dataset):
    """Ten items; an item is its index and a number of each generator. Counts what is loaded."""

    def __init__(self):
        self.loaded = 0

    def __len__(self):
        return 10

    def __getitem__(self, index):
        self.loaded += 1
        return index, random.random(), np.random.rand(), torch.rand(()).item()

    def get_data_info(self, index):
        """Wide and high images in turn, which mmdet's batch sampler keeps apart."""
        return dict(width=1 + index % 2, height=1)


def batches_of(sampler, dataset, seed=0, endless=False, grouped=False):
    """A ResumableBatches of 3 indices each."""

    def build(seed):
        inner = sampler(dataset, shuffle=True, seed=seed)
        if not grouped:
            return BatchSampler(inner, 3, drop_last=False)
        config = dict(type="mmdet.AspectRatioBatchSampler")
        return DATA_SAMPLERS.build(config, default_args=dict(sampler=inner, batch_size=3))

    return ResumableBatches(build(seed), build, seed, endless)


def take(batches, count):
    return [batch for batch, _ in zip(batches, range(count), strict=False)]


@pytest.mark.parametrize(
    "first, sampler, grouped",
    [
        (1, DefaultSampler, False),
        (4, DefaultSampler, True),
        (6, InfiniteSampler, False),
        (9, InfiniteSampler, True),
    ],
)
def test_stream_from_any_batch(sampler, grouped, first):
    """It is the end of the stream that was not stopped, and no data is loaded to get there."""
    if grouped:
        import mmdet.datasets.samplers  # noqa: F401
    dataset = Items()
    whole = take(batches_of(sampler, dataset, endless=True, grouped=grouped), 12)
    assert len({draw.key for batch in whole for draw in batch}) == sum(map(len, whole))
    resumed = batches_of(sampler, dataset, seed=7, endless=True, grouped=grouped)
    take(resumed, 2)  # what was drawn before the seed was known
    resumed.reset(seed=0, sampler_seed=0)
    resumed.start(epoch=0, batch=first)
    assert take(resumed, 12 - first) == whole[first:]
    assert dataset.loaded == 0


def test_order_is_that_of_the_sampler():
    """Epochs follow each other as MMEngine's loops set them."""
    dataset = Items()
    sampler = DefaultSampler(dataset, shuffle=True, seed=3)
    expected = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        expected += list(BatchSampler(sampler, 3, drop_last=False))
    drawn = take(batches_of(DefaultSampler, dataset, seed=3, endless=True), 12)
    assert [[draw.index for draw in batch] for batch in drawn] == expected
    assert len({tuple(map(tuple, expected[i : i + 4])) for i in (0, 4, 8)}) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_random_numbers_belong_to_the_draw(workers):
    """Whatever was drawn before, in this process or a worker."""
    dataset = Items()
    dataset.__getitems__ = partial(load_items, dataset)
    batches = batches_of(DefaultSampler, dataset)
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=list)
    first = list(loader)
    seed_all(1, 2, 3)
    second = list(loader)
    assert first == second
    items = [item for batch in first for item in batch]
    for number in (1, 2, 3):
        assert len({item[number] for item in items}) == 10
    batches.start(epoch=1)
    assert not {i[1] for batch in loader for i in batch} & {item[1] for item in items}


def test_items_without_a_draw_are_left_alone():
    load = partial(load_items, Items())
    random.seed(0)
    expected = random.random()
    random.seed(0)
    assert load([4])[0][:2] == (4, expected)
    assert load([SampleRequest((1, 2), (0,))])[0][0] == (1, 2)  # of a video: no plain number


def test_seeds_differ_with_every_number_of_the_key():
    def numbers(*key):
        seed_all(*key)
        return random.random(), np.random.rand(), torch.rand(()).item()

    keys = [(0,), (0, 0), (1,), (0, 1), (1, 0), (2**40,), (0, 2**40)]
    drawn = [numbers(*key) for key in keys]
    assert drawn == [numbers(*key) for key in keys]
    assert all(len(set(column)) == len(keys) for column in zip(*drawn, strict=True))


@pytest.mark.parametrize("randomness, alike", [({}, 0), (dict(diff_rank_seed=False), 1)])
def test_processes_draw_alike_only_if_asked(randomness, alike, monkeypatch):
    class FakeRunner:
        seed, iter, _randomness_cfg = 0, 5, randomness

    def draw(rank):
        monkeypatch.setattr(exact_resume, "get_rank", lambda: rank)
        exact_resume.ExactResumeHook().before_train_iter(FakeRunner, 0)
        return torch.rand(()).item()

    assert (draw(0) == draw(1)) == alike
    assert draw(0) == draw(0)
