"""The 9P front end: a server of 9P2000, 9P2000.u and 9P2000.L on the live tree.

messages    every message of the three dialects, the one table of the wire
wire        bytes to messages and back, made from that table
session     one connection's side of the protocol, without a socket; fast: what clients ask most
dialects    which requests a dialect has and who answers them:
  naming      attach, walk, clunk, remove
  transfer    open, read, write, fsync
  linux       the rest of 9P2000.L, with metadata (its attributes)
  plain       the rest of 9P2000 and .u, with records (stat records)
  control     the control names
fids        what a client holds; holdings: all of it, buffers: its bytes
model       on whose rights a request is done: none and passthrough; mapped: mapped-xattr
locks       byte-range locks, with owners and ranges
export      what all connections share
server      connections on trio, with listen (addresses), channel, connection, rounds and workers
client      the other side, for programs that ask a server
"""
