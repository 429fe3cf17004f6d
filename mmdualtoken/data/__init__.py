"""Data: loading of images, and the check of all files before training."""
