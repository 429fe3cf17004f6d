"""Predictions of trained models, alike for the three toolboxes."""

from .inputs import Source, find_sources
from .model import load_model
from .predictor import Predictor

__all__ = ["Predictor", "Source", "find_sources", "load_model"]
