"""The 9P front end: a server of 9P2000, 9P2000.u and 9P2000.L on the live tree.

messages    every message of the three dialects, the one table of the wire
wire        bytes to messages and back, made from that table
session     one connection's side of the protocol, without a socket
dialects    which requests a dialect has and who answers them:
  naming      attach, walk, clunk, remove
  transfer    open, read, write, fsync
  linux       the rest of 9P2000.L
  plain       the rest of 9P2000 and .u, with records (stat records)
  control     the control names
fids        what a client holds
model       on whose rights a request is done: none and passthrough; mapped: mapped-xattr
locks       byte-range locks, with owners and ranges
export      what all connections share
server      connections on trio, with listen (addresses), channel and connection
"""
