"""Predictions of trained models, alike for the three toolboxes."""

from mmdualtoken.inference.inputs import Source, find_sources
from mmdualtoken.inference.model import load_model
from mmdualtoken.inference.predictor import Predictor

__all__ = ["Predictor", "Source", "find_sources", "load_model"]
