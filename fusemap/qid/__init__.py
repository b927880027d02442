"""Numbers in, numbers out: affix codes, mappings and QIDs.

This room is pure. It makes no system call, knows no path of a file, waits for nothing and takes no lock, so
all of it can be tried at an interpreter's prompt. It uses no other room but the error tree.

  affix.py    the Exp-Golomb codes
  entries.py  what a mapping remembers, and the one door through which a lasting table can come in
  rules.py    how each mode turns an inode into a path and back
  mapper.py   `Mapper`: the above, the full map and the reserved numbers together
  qid.py      type, version and path on 9P's wire
"""

from .affix import Affix, decode, kraft, prefix, suffix
from .entries import Allocator, Build, Entry, FullEntry, Learn, Record
from .mapper import MODES, Mapper
from .qid import QID, QTDIR, QTFILE, QTSYMLINK, qid_type, version, version_qemu

__all__ = [
    "MODES",
    "QID",
    "QTDIR",
    "QTFILE",
    "QTSYMLINK",
    "Affix",
    "Allocator",
    "Build",
    "Entry",
    "FullEntry",
    "Learn",
    "Mapper",
    "Record",
    "decode",
    "kraft",
    "prefix",
    "qid_type",
    "suffix",
    "version",
    "version_qemu",
]
