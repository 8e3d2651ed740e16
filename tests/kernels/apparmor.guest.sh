# Runs in the guest for ./apparmor, which says in $tracefs where the chart mounts it.
set -eu

fail() { echo "apparmor: $*"; cat /tmp/log; dmesg | grep apparmor= | tail -n 5; exit 1; }

# As a container's process: under the profile from its start.
cat >/tmp/confined <<'END'
echo "exec container" >/proc/self/attr/exec
exec "$@"
END

start() { # ARGUMENT...
    sh /tmp/confined kmem_exporter --web.listen-address=127.0.0.1:15636 "$@" 2>/tmp/log &
    exporter=$!
    for _ in $(seq 60); do
        wget -q -O /dev/null http://127.0.0.1:15636/-/ready 2>/dev/null && return
        sleep 0.5
    done
    fail "not ready: $*"
}

value() { # SERIES
    wget -q -O /tmp/metrics http://127.0.0.1:15636/metrics || fail "no scrape"
    awk -v series="$1" '$1 == series {print $2}' /tmp/metrics
}

stop() {
    kill $exporter
    wait $exporter || fail "the exporter ended with status $?"
}

: >/tmp/log
mount -t securityfs securityfs /sys/kernel/security
[ "$(cat /sys/module/apparmor/parameters/enabled)" = Y ] || fail "this kernel's AppArmor is off"
apparmor_parser --skip-cache --add /profile 2>/tmp/log || fail "the profile"
mkdir -p "$tracefs"
mount --bind /sys/kernel/tracing "$tracefs"
# The profile is in force.
! sh /tmp/confined /bin/busybox mkdir /sys/kernel/tracing/instances/a 2>/tmp/log || fail "the profile allows to write below /sys"

for engine in tracefs bpf; do
    start --engine=$engine --path.tracefs="$tracefs"
    [ "$(cat /proc/$exporter/attr/current)" = "container (enforce)" ] || fail "the exporter is not under the profile"
    [ "$(value 'kmem_tracepoint_events_total{tracepoint="kmalloc"}')" -gt 0 ] || fail "$engine counted nothing"
    echo "apparmor: engine $engine with tracefs in $tracefs: $(grep '^kmem_exporter_engine_info' /tmp/metrics)"
    stop
done
[ -z "$(ls "$tracefs/instances")" ] || fail "an instance was left behind"

# Below /sys, with the chart's answer to it: up, with one line that says what to do.
echo 'on_tracing_failure: retry' >/tmp/config.yaml
start --engine=tracefs --path.tracefs=/sys/kernel/tracing --config.file=/tmp/config.yaml
[ "$(value 'kmem_exporter_tracing_up{reason="not_permitted"}')" = 0 ] || fail "it claims to trace below /sys"
stop
[ "$(grep -c 'Permission denied' /tmp/log)" = 1 ] || fail "not one line that says why"
grep 'Permission denied' /tmp/log | grep -q AppArmor || fail "the line does not tell of AppArmor"
echo "apparmor: below /sys: $(grep 'Permission denied' /tmp/log)"
