#!/bin/sh
# A Linux guest of nothing but busybox, with a tree of this machine at /mnt: to look around, and to see how little it
# takes. No root, no disk; Debian's packages qemu-system-x86, linux-image-amd64, busybox-static and cpio.
#
#   examples/guest/boot.sh SRC              a shell in the guest; leaving it switches the guest off
#   examples/guest/boot.sh SRC COMMAND      runs a command for sh in /mnt instead
#
# What the server is and whose rights count is said in qemu.sh. Debian's -cloud kernels have no 9P.

set -eu
[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(dirname "$(realpath "$0")")
kernel=$(find /boot -name 'vmlinuz-*' ! -name '*cloud*' | sort -V | tail -n 1)
[ -n "$kernel" ] || { echo "boot.sh: there is no /boot/vmlinuz-*; install linux-image-amd64" >&2; exit 2; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/root/bin" "$scratch/root/modules" "$scratch/root/proc" "$scratch/root/dev" "$scratch/root/mnt"
cp /bin/busybox "$scratch/root/bin/"
printf '%s\n' "${2:-setsid cttyhack sh}" > "$scratch/root/command"

# The modules in the order in which they need each other: virtio_ring comes before virtio
for module in virtio_pci virtio_net 9pnet_fd 9p; do
    PATH=$PATH:/sbin modprobe -S "${kernel#/boot/vmlinuz-}" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r path; do
    cp "$path" "$scratch/root/modules/"
    basename "$path"
done > "$scratch/root/modules/order"

cat > "$scratch/root/init" << 'END'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module"; done < /modules/order
ifconfig eth0 10.0.2.15 netmask 255.255.255.0
mount -t 9p -o trans=tcp,port=5640,version=9p2000.L,msize=1048576 10.0.2.100 /mnt && cd /mnt && sh /command
cd /
umount /mnt
poweroff -f
END
chmod +x "$scratch/root/init"
(cd "$scratch/root" && find . | cpio -o -H newc --quiet) > "$scratch/initramfs"

"$here/qemu.sh" "$1" -m 256 -nodefaults -display none -serial stdio -no-reboot \
    -kernel "$kernel" -initrd "$scratch/initramfs" -append "console=ttyS0 quiet panic=-1"
