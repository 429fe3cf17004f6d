"""Timing candidates in turn, so that other load falls on all of them."""

import random
import time
from collections.abc import Callable
from statistics import median, quantiles

import torch

SHORTEST = 0.05  # s; a call that takes less is repeated, for the clock and the caches


class Clock:
    """Seconds of a function: CUDA events on a GPU, elsewhere those of `now`."""

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter):
        self.device, self.now = device, now

    def __call__(self, function: Callable[[], object], calls: int = 1) -> float:
        """Mean seconds of one call."""
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):  # events record the current device's stream
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                for _ in range(calls):
                    function()
                end.record()
                end.synchronize()
            return start.elapsed_time(end) / 1000 / calls
        begun = self.now()
        for _ in range(calls):
            function()
        return (self.now() - begun) / calls


def alternate(
    candidates: dict[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    warmup: int = 2,
    now: Callable[[], float] = time.perf_counter,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Time each candidate once per round, in a new order each round.

    Args:
        candidates: functions without arguments, by name.
        rounds: how often each is timed.
        device: what they run on.
        warmup: calls before the first round, not timed.
        now: the clock; `time.process_time` leaves out what other processes do in between, and is
            right for one thread.

    Returns:
        seconds per call, for each candidate one figure per round: the figures of one round stand
        beside each other in time, and ratios are taken within a round.
    """
    clock, order = Clock(device, now), random.Random(seed)
    calls = {}
    for name, function in candidates.items():
        for _ in range(warmup):
            function()
        calls[name] = max(1, round(SHORTEST / max(clock(function), 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for _ in range(rounds):
        order.shuffle(names)
        for name in names:
            seconds[name].append(clock(candidates[name], calls[name]))
    return seconds


def ratio(above: list[float], below: list[float]) -> tuple[float, float, float]:
    """Median and quartiles of above / below, taken round by round."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    if len(ratios) < 2:
        return ratios[0], ratios[0], ratios[0]
    low, _, high = quantiles(ratios, n=4, method="inclusive")
    return median(ratios), low, high
