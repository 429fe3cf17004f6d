"""The environment: which versions fit, and the doctor. Standard library only."""
