"""Data sets of the package: generated scenes, checked loading, and the check of whole sets."""

from .loading import BrokenFileError, CheckedLoadImageFromFile

__all__ = ["BrokenFileError", "CheckedLoadImageFromFile"]
