"""Measurements: each module has a `measure()` and runs by `python -m tests.benchmarks.NAME`."""
