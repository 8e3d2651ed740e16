# Runs in the guest for ./apparmor, behind exporter.guest.sh; $tracefs says where the chart mounts it.
expect_refusals

# As a container's process: under the profile from its start.
cat >/tmp/confined <<'END'
echo "exec container" >/proc/self/attr/exec
exec "$@"
END
run="sh /tmp/confined"

[ "$(cat /sys/module/apparmor/parameters/enabled)" = Y ] || fail "this kernel's AppArmor is off"
apparmor_parser --skip-cache --add /profile 2>/tmp/log || fail "the profile"
mkdir -p "$tracefs"
mount --bind /sys/kernel/tracing "$tracefs"
# The profile is in force.
! $run /bin/busybox mkdir /sys/kernel/tracing/instances/a 2>/tmp/log || fail "the profile allows to write below /sys"

for engine in tracefs bpf; do
    start --engine=$engine --path.tracefs="$tracefs"
    [ "$(cat /proc/$exporter/attr/current)" = "container (enforce)" ] || fail "the exporter is not under the profile"
    [ "$(value 'kmem_tracepoint_events_total{tracepoint="kmalloc"}')" -gt 0 ] || fail "$engine counted nothing"
    echo "$test: engine $engine with tracefs in $tracefs: $(grep '^kmem_exporter_engine_info' /tmp/metrics)"
    stop
done
[ -z "$(ls "$tracefs/instances")" ] || fail "an instance was left behind"

# Below /sys, with one line that says what to do.
start --engine=tracefs --path.tracefs=/sys/kernel/tracing --config.file=/tmp/retry.yaml
[ "$(value 'kmem_exporter_tracing_up{reason="not_permitted"}')" = 0 ] || fail "it claims to trace below /sys"
stop
assert_one_line 'Permission denied.*AppArmor'
