"""A tree without a mount: which of its files would have one number, in each way of giving numbers.

  spill     what a walk found, on disk: an inode number a name, names and directories beside them
  walk      every device of a tree, several at a time
  numbers   the number of every file in a scheme, for millions at once
  hashes    XXH32 and XXH64 of (device, inode), likewise
  collide   all files whose number is another's as well, found exactly and in bounded memory
  census    the above together: `take` makes a `Census`

It uses qid, host and table, and numpy; it shows nothing (fusemap.view does) and changes nothing on the tree.
"""

from fusemap.census.census import Census, Device, Lanes, Scheme, take
from fusemap.census.collide import HARMS, Collision, Member
from fusemap.census.numbers import EXHIBITS, MODES, SCHEMES
from fusemap.census.walk import Unreadable

__all__ = [
    "EXHIBITS",
    "HARMS",
    "MODES",
    "SCHEMES",
    "Census",
    "Collision",
    "Device",
    "Lanes",
    "Member",
    "Scheme",
    "Unreadable",
    "take",
]
