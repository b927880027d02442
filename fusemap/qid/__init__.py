"""Numbers in, numbers out: affix codes, mappings and QIDs.

This room is pure. It makes no system call, knows no path of a file, waits for nothing and takes no lock, so
all of it can be tried at an interpreter's prompt. It uses no other room but the error tree.

  affix.py    the Exp-Golomb codes
  entries.py  what a mapping remembers, and the one door through which a lasting table can come in
  rules.py    how each mode turns an inode into a path and back
  owners.py   which file an inode number belongs to, where that is to be remembered
  mapper.py   `Mapper`: the above, the full map and the reserved numbers together
  qid.py      type, version and path on 9P's wire
"""

from .affix import Affix, decode, kraft, prefix, suffix, suffixes
from .entries import Allocator, Build, Entry, FullEntry, Holder, Learn, Record
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
    "Holder",
    "Learn",
    "Mapper",
    "Record",
    "decode",
    "kraft",
    "prefix",
    "qid_type",
    "suffix",
    "suffixes",
    "version",
    "version_qemu",
]
