# What the container runtimes' default profiles (containerd's contrib/apparmor, Docker's docker-default) mean
# for the exporter: all but mounts, and writing below /sys and in most of /proc.
profile container flags=(attach_disconnected, mediate_deleted) {
  file,
  network,
  capability,
  umount,
  signal (receive) peer=unconfined,
  deny mount,
  deny /proc/* w,
  deny /proc/sys/[^k]** w,
  deny /proc/kcore rwklx,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/kernel/security/** rwklx,
}
