#!/bin/busybox sh
# The guest's /init: devices, the modules in the order in which they need each other, the network, then the agent.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo 1 > /proc/sys/kernel/printk
while read -r module; do insmod "/modules/$module" || echo "init: no module $module"; done < /modules/order
ifconfig lo 127.0.0.1
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 || echo "init: no network"
exec /bin/guest agent
