"""Random numbers that depend on a place in the training, not on what was drawn before it."""

import random

import numpy as np
import torch


def seed_all(*key: int) -> None:
    """Seed Python, numpy and torch (CPU and all GPUs in use) with the numbers of `key`.

    Equal keys give equal random numbers in every process; keys that differ in any number, or in
    length, give streams that have nothing to do with each other.

    Args:
        key: numbers >= 0, e.g. a run's seed, a rank and an iteration.
    """
    words = np.random.SeedSequence([*key, len(key)]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    # Not torch.manual_seed, which formats a stack trace per call until CUDA is first used: 0.4 ms.
    torch.default_generator.manual_seed(int(words[2]))
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(int(words[2]))
