# Runs in the guest for ./lockdown, behind exporter.guest.sh; $bpf says whether this kernel's lockdown bars the
# in-kernel engine: allowed or barred.
expect_refusals

grep -q '\[confidentiality\]' /sys/kernel/security/lockdown || fail "this kernel is not locked down"

# It is ready and serves /proc's metrics, and log and metric say why there are no others.
assert_locked_down() { # ENGINE PATTERN
    start --engine="$1" --config.file=/tmp/retry.yaml
    [ "$(value 'kmem_exporter_tracing_up{reason="locked_down"}')" = 0 ] || fail "$1: no reason locked_down"
    [ "$(value kmem_min_free_step_bytes)" -gt 0 ] || fail "$1: nothing of /proc"
    ! grep -q '^kmem_tracepoint_events_total' /tmp/metrics || fail "$1: it claims to count"
    stop
    assert_one_line "$2"
    # Without that it ends at once.
    ! kmem_exporter --engine="$1" --web.listen-address=127.0.0.1:15636 2>/tmp/log || fail "$1: it ended well"
    assert_one_line "^kmem_exporter: $2"
}

assert_counts() { # ENGINE
    start --engine="$1" --config.file=/tmp/retry.yaml
    [ "$(value 'kmem_exporter_tracing_up{reason=""}')" = 1 ] || fail "$1: it does not count"
    [ "$(value 'kmem_tracepoint_events_total{tracepoint="kmalloc"}')" -gt 0 ] || fail "$1: it counted nothing"
    echo "$test: engine $1: $(grep '^kmem_exporter_engine_info' /tmp/metrics)"
    stop
}

assert_locked_down tracefs 'tracefs: .*lockdown (confidentiality) forbids tracing'
if [ "$bpf" = allowed ]; then
    assert_counts bpf
    assert_counts auto
else
    assert_locked_down bpf 'bpf: .*lockdown (confidentiality) forbids it'
    assert_locked_down auto 'tracefs: .*lockdown.*(and bpf: .*lockdown.*'
fi
# As in a container, which does not see the kernel's own word on that.
umount /sys/kernel/security
assert_locked_down tracefs 'tracefs: .*lockdown (confidentiality) forbids tracing'
