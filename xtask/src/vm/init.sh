#!/bin/busybox sh
# The first process of a guest: the host's files, read only, under a layer in memory.
b=/bin/busybox

fail() {
    $b echo "guest: $*" >/dev/console
    $b reboot -f
}

$b mkdir -p /proc /sys /dev /host /layer /new
$b mount -t proc proc /proc || fail proc
$b mount -t sysfs sysfs /sys || fail sysfs
$b mount -t devtmpfs devtmpfs /dev || fail devtmpfs
# The kernel found no console in the archive, so nothing is open yet.
exec </dev/console >/dev/console 2>&1
for module in $($b cat /modules/order); do
    $b insmod "/modules/$module" || fail "module $module"
done
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 host /host || fail 9p
$b mount -t tmpfs -o size=70% layer /layer || fail tmpfs
$b mkdir /layer/upper /layer/work
$b mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work root /new || fail overlay
$b mkdir -p /new/proc /new/sys /new/dev /new/run /new/tmp
$b mount --move /proc /new/proc
$b mount --move /sys /new/sys
$b mount --move /dev /new/dev
$b mount -t tmpfs run /new/run || fail run
$b mkdir -p /new/dev/pts /new/dev/shm /new/run/vm /new/run/tmp
$b mount -t devpts devpts /new/dev/pts
$b mount -t tmpfs shm /new/dev/shm
$b mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
$b cp /bin/busybox /job /new/run/vm/ || fail copy
$b ln -s busybox /new/run/vm/modprobe
exec $b switch_root /new /run/vm/busybox sh /run/vm/job
