"""The FUSE front end: a mounted tree.

mountpoint  mounting and unmounting, and what is refused
session     a mount's life
watch       mounts that come and go beneath the root
habits      which processes look at what they list
loop        how the next request is waited for
operations  the requests
boundary    what stands around each: errors, counts, times
files       open files and the way of their data
attributes  what stat shows, and the cache modes
hidden      the directory that says what the mount does
"""
