"""The only room with system calls: what the kernel is asked, and nothing of what it means for a mapping.

calls       what Python's os module lacks: statx, file handles, getdents, renameat2, mount
generation  the inode generation inside a file handle
identity    which file system a descriptor lies on, across mounts where it can be told
mountinfo   the mount table
creds       acting as the caller for one call
ofd         byte-range locks that belong to a descriptor
"""
