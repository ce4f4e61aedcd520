# Enter the arm64 userland: sh enter.sh ROOT BOARD HOME COMMAND…
# Runs as root of namespaces of its own (user, mount, uts, pid); nothing of it is seen outside.
set -e
root=$1 board=$2 home=$3
shift 3
cpu=$(cat "$board/cpu")
mount -t tmpfs -o mode=755 run /run
mkdir /run/arm64 /run/binfmt

# Programs for arm64 start qemu, whose file stays open (F) and is found from inside the root too. This table is the
# namespace's own (Linux 6.7 and later).
mount -t binfmt_misc binfmt /run/binfmt
elf='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
printf '%s' ":aarch64:M::$elf:$mask:$root/usr/bin/qemu-aarch64:F" > /run/binfmt/register

# The root is shared by all sessions and stays as it is; only the home outlives a session.
mount --bind "$root" /run/arm64
cd /run/arm64
mount -o remount,bind,ro .
for directory in tmp run dev; do mount -t tmpfs -o mode=1777 "$directory" "$directory"; done
mount --bind "$home" home/pi
mount -t proc proc proc
mount --bind "$board/cpuinfo" proc/cpuinfo
mount --bind "$board/sys" sys
mount --bind "$board/vcgencmd" usr/bin/vcgencmd
for device in null zero full random urandom tty; do
    : > "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir -m 1777 dev/shm
mkdir dev/pts
mount --rbind /dev/pts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for number in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${number%:*}" "dev/${number#*:}"; done
hostname board

# A user without privilege, with a Pi's environment and what the caller asked for in $ARM64_ENVIRONMENT (NAME=VALUE …).
# shellcheck disable=SC2086
exec unshare --user --map-user=1000 --map-group=1000 --root=/run/arm64 --wd=/home/pi -- \
    /usr/bin/env -i HOME=/home/pi USER=pi LOGNAME=pi LANG=C.UTF-8 TERM="${TERM:-dumb}" \
    PATH=/usr/local/bin:/usr/bin:/bin QEMU_CPU="$cpu" ${ARM64_ENVIRONMENT-} "$@"
