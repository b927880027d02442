"""Pictures of a census. This room draws what it is handed and asks nobody else.

  blocks    a report as headings, tables and lines, of no particular look
  report    what is said of a census
  terminal  blocks on a terminal: with rich where that is installed, as plain text otherwise
"""

from fusemap.view.report import report
from fusemap.view.terminal import draw

__all__ = ["draw", "report"]
