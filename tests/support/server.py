"""fusemap as a program that answers questions about itself, for tests that look at the inside of a running mount.

    python -m tests.support.server SOCKET HOOK... -- mount SRC MNT -f ...

runs the command line as it is, except that each HOOK, "module:function", is called with the `Operations` just before
they are served, and that a thread answers on the Unix socket SOCKET: each line of JSON is an expression over
`operations` and `tree`, the answer its value.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from fusemap.cli.main import main


class Inside:
    """The other end: asks a server that runs in another process."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(os.fspath(path))
        self._file = self._socket.makefile("rw")

    def ask(self, expression: str) -> Any:
        """The value of `expression` in the server, where `operations` and `tree` are known."""
        self._file.write(json.dumps(expression) + "\n")
        self._file.flush()
        answer = json.loads(self._file.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def close(self) -> None:
        """Hangs up."""
        self._file.close()
        self._socket.close()


def command(path: Path, *hooks: str) -> list[str]:
    """The program that stands in for `python -m fusemap`."""
    return [sys.executable, "-m", "tests.support.server", str(path), *hooks, "--"]


def _answer(listener: socket.socket, operations: Any) -> None:
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as file:
            for line in file:
                try:
                    value = eval(json.loads(line), {"operations": operations, "tree": operations.tree})
                    answer = {"value": value}
                except Exception as error:
                    answer = {"error": repr(error)}
                file.write(json.dumps(answer) + "\n")
                file.flush()


def _run(arguments: list[str]) -> int:
    import fusemap.fuse.session as session

    split = arguments.index("--")
    path, *hooks = arguments[:split]
    serve = session.serve

    def wrapped(operations: Any, *rest: Any) -> None:
        for hook in hooks:
            module, name = hook.split(":")
            getattr(importlib.import_module(module), name)(operations)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        threading.Thread(target=_answer, args=(listener, operations), daemon=True).start()
        serve(operations, *rest)

    session.serve = wrapped  # type: ignore[assignment]  # the command line looks it up when it mounts
    return main(arguments[split + 1 :])


if __name__ == "__main__":
    sys.exit(_run(sys.argv[1:]))
