"""Weights: reading checkpoints safely, finding them, and fitting them to a model."""
