"""Training: hooks, loops, optimizers and strategies that configs name."""
