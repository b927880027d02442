"""The command line in this process, for what is refused before anything is begun: no program has to start for that."""

from __future__ import annotations

import contextlib
import io
import subprocess
from pathlib import Path

from fusemap.cli.main import main

from ..support.command import Result


def here(*arguments: str | Path) -> Result:
    """As `fusemap` of tests.support.command."""
    words = [str(word) for word in arguments]
    said, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        try:
            status = main(words)
        except SystemExit as end:  # argparse's
            status = int(end.code or 0)
    return subprocess.CompletedProcess(words, status, said.getvalue(), complained.getvalue())
