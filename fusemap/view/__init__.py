"""Pictures of a census, and of a tree while it is used. This room draws what it is handed.

  blocks    a report as headings, tables and lines, of no particular look
  report    what is said of a census
  model     what the page shows, as one object; hilbert, the space of numbers as a square
  page      the page: one HTML file, or one that a live source fills
  png       the numbers before and after, as a picture
  terminal  blocks on a terminal: with rich where that is installed, as plain text otherwise
  reading   what a live tree said, and what two readings say together; top, that on one screen; live, that as the page
  feeds     where a served page's state comes from; board, what it is now
  app       the served page as an ASGI application: who may see it; host, the server below it
"""

from fusemap.view.terminal import draw

__all__ = ["draw"]
