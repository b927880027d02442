#!/bin/sh
# A virtual machine that sees a tree of this machine as one device through a virtio-serial port: as qemu.sh, but for
# guests without a network, or with one that must not lead to the host.
#
#   examples/guest/serial.sh SRC OPTIONS...     OPTIONS are qemu-system-x86_64's: disk, memory, kernel, ...
#
# In the guest, as root. Linux's 9P client cannot use the port itself (since 5.10 it wants files with read_iter), so
# socat stands in between; it ends when the tree is unmounted, and is started anew for the next mount:
#
#   socat UNIX-LISTEN:/run/tree.sock,unlink-early /dev/virtio-ports/tree &
#   mount -t 9p -o trans=unix,version=9p2000.L,msize=1048576 /run/tree.sock /mnt
#
# What the guest makes is owned by whoever runs this, as in qemu.sh. One port carries one mount.

set -eu
[ $# -ge 1 ] || { sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2; }
src=$(realpath "$1")
shift
scratch=$(mktemp -d)
mkfifo "$scratch/said"
server=
trap 'kill $server 2> /dev/null || :; wait; rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
${FUSEMAP:-fusemap} serve "$src" --listen "unix:$scratch/tree.sock" --security mapped-xattr \
    --log "${FUSEMAP_LOG:-$HOME/fusemap-guest.log}" > "$scratch/said" &
server=$!
read -r _ < "$scratch/said" || exit 2 # "listening on ...", or what is wrong was said

# reconnect: should the server be started anew, QEMU connects again
qemu-system-x86_64 "$@" -device virtio-serial-pci \
    -chardev "socket,id=tree,path=$scratch/tree.sock,reconnect=1" -device virtserialport,chardev=tree,name=tree
