"""The 9P server beside diod, on the same tree and the same loopback: `python -m tests.benchmarks.p9`."""
