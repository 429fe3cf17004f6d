"""Predictions of trained models of the three toolboxes, and their tokens."""

from mmdualtoken.inference.inputs import Source, find_sources
from mmdualtoken.inference.model import load_model
from mmdualtoken.inference.predictor import Predictor

__all__ = ["Predictor", "Source", "find_sources", "load_model"]
