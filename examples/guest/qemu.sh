#!/bin/sh
# A virtual machine that sees a tree of this machine as one device; no root, no network to be set up, no open port.
#
#   examples/guest/qemu.sh SRC OPTIONS...     OPTIONS are qemu-system-x86_64's: disk, memory, kernel, ...
#
# QEMU's user networking starts a server for each connection to 10.0.2.100:5640 that the guest makes, and nobody else
# can make one. In the guest, as root (examples/guest/fstab has the line for /etc/fstab):
#
#   mount -t 9p -o trans=tcp,port=5640,version=9p2000.L,msize=1048576 10.0.2.100 /mnt
#
# What the guest makes is owned by whoever runs this; owners and modes as the guest sees them are kept in attributes
# (--security mapped-xattr), as QEMU's own 9P server does. For a server as root, passthrough is simpler.

set -eu
[ $# -ge 1 ] || { sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2; }
src=$(realpath "$1")
shift
case "$src" in *[,\ ]*) echo "qemu.sh: QEMU cannot be told of a path with a comma or space: $src" >&2; exit 2 ;; esac
log=${FUSEMAP_LOG:-$HOME/fusemap-guest.log} # standard error is the connection too; ",," is QEMU's comma
server="${FUSEMAP:-fusemap} serve $src --listen fd:0,,1 --security mapped-xattr --log $log"
exec qemu-system-x86_64 \
    -netdev "user,id=net0,guestfwd=tcp:10.0.2.100:5640-cmd:$server" -device virtio-net-pci,netdev=net0 \
    "$@"
