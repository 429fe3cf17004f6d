"""What the speed benchmarks share: peers, timing, the machine's limits, and keeping results."""
