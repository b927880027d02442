"""The lasting table: the same numbers tomorrow, and in every process that exports the tree.

  ledger   what a table says, in memory, and every change that can happen to it
  body     devices, entries and changes in bytes
  codec    snapshots and log pieces in bytes, under a checksum
  shelf    where pieces lie: the interface, and memory
  xattr    pieces as attributes of the export root
  sqlite   pieces as rows of a database
  slots    the two places of snapshots on a shelf
  store    two slots and a log on any shelf: what is written in which order
  v1       the format of QEMU's patches
  home     which store an export root's table lives in, and how it moves
  table    `Table`: the allocator that a Mapper asks
  opening  `open_table`
  listing  a table as JSON

It uses qid and host; tree and the front ends use it through `Table` alone.
"""

from fusemap.table.ledger import Device, Ledger
from fusemap.table.opening import STATES, open_table
from fusemap.table.table import DeviceInfo, Table

__all__ = ["STATES", "Device", "DeviceInfo", "Ledger", "Table", "open_table"]
