"""Training loops and their data, which can go on at any batch."""

from .loops import ResumableEpochLoop, ResumableIterLoop

__all__ = ["ResumableEpochLoop", "ResumableIterLoop"]
