"""A conformance suite for the wire of 9P, which can be pointed at any server.

    python -m pytest tests/p9/conformance                                        our own server, on a tree of its own
    python -m pytest tests/p9/conformance --server tcp:HOST:PORT --export DIR    another one, unix:PATH too

DIR is the exported directory as this machine sees it: the suite prepares files there and looks at what became of them.
It makes a directory for every case and removes it. Where several answers are lawful, every one of them is accepted; the
rules are those of the Plan 9 manual's section 5, of diod's protocol notes for .L, and of what Linux's client relies on.
"""
