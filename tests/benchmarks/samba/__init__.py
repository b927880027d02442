"""A plain Samba share beside one of the same directory on a fusemap mount: `python -m tests.benchmarks.samba`."""
