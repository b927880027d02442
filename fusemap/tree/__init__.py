"""The live exported tree: which host file a number means, and every operation on it, for both front ends.

node         what is remembered of a known file
filesystems  the mounts and devices under the root
reach        how a node's host file is reached: handles, descriptors, stat
former       files whose inode number is another file's now
live         the tree itself: look-up, numbers, look-up counts
changes      what makes, names, removes and alters files
directory    reading directories
attributes   extended attributes
data         open files and what is read and written
places       where a known file lies, for people
virtual      attributes that say where a file is on the host, and what its number is made of
shown        the numbers of the maps that collide, and who was seen to have which
days         that devices are still there goes into the table once a day
survey       which known files have one inode number on the host
statistics   counts and times of requests
telling      all of that as files, for both front ends
"""

from fusemap.tree.directory import Directory
from fusemap.tree.live import Tree
from fusemap.tree.node import Node

__all__ = ["Directory", "Node", "Tree"]
