"""Fuzzing: arbitrary bytes and sequences of requests against the codec and two sessions on a real tree.

`python -m tests.p9.fuzz.run --seconds N` looks for new paths (atheris); what it found lies in corpus/ and is replayed
by test_fuzz.py, which also lets hypothesis make sequences.
"""
