"""9P servers as a Linux guest sees them, in one boot: `python -m tests.benchmarks.guest`."""
