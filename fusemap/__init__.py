"""fusemap: one device, every file its own number.

General layout - each room may use only rooms above it:

    errors   the error tree, and the one place that turns an exception into an errno
    qid      affix codes, mappings, QIDs: numbers in, numbers out
    host     the only room with system calls: statx, handles, identity of file systems, credentials
    table    the lasting table of numbers and where it is stored
    tree     the live exported tree: node <-> host file <-> number; used by every front end
    fuse     the FUSE front end: a mounted tree
    p9       the 9P front end: a server, and a small client
    smb      a Samba share on top of a mount: its file ids beside the numbers of the tree
    census   walks a tree without mounting it and finds what collides in which mode
    view     pictures, on a terminal and as a page, static and live: draws what census and tree hand it
    cli      one small module a verb

The life of a stat: kernel -> fuse (which request) -> tree (node -> descriptor, statx) -> qid (device, inode -> number)
-> reply. One way; no room calls one below it.
"""

from fusemap.errors import FusemapError, MappingExhausted, Refused
from fusemap.qid import QID, Mapper

__version__ = "0.1.0"

__all__ = ["QID", "FusemapError", "Mapper", "MappingExhausted", "Refused", "__version__"]
