"""Data: loading it, and checking it before training."""
