"""The command line: one small module a verb, each with `add` (its options) and `run`.

Exit status: 0 done, 1 the answer is no, 2 wrong usage, with one sentence on standard error that says what to do.
"""
