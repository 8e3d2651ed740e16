# Runs in the guest for ./modules, behind exporter.guest.sh. Each format that is registered with
# binfmt_misc is one kmalloc of the module's own.
series='^kmem_slab_callsite_allocations_total[{].*module="binfmt_misc"[}]'
uname -r >/out/release

fail() { echo "$test: $*"; cat /tmp/log; grep -E "callsite_alloc|folded|symbols|lost" /tmp/metrics; exit 1; }
# The kmallocs that the in-kernel engine says it missed (recursion): by so much less may have been counted.
lost() {
    awk '$1 == "kmem_tracepoint_events_total{tracepoint=\"kmalloc\"}" {fired = $2}
         $1 == "kmem_exporter_events_read_total{tracepoint=\"kmalloc\"}" {read = $2}
         END {if (fired == 0) exit 1; print fired - read}' /tmp/metrics || fail "kmalloc's events are not told"
}
counted() { awk "/$series/ {sum += \$2} END {print sum + 0}" /tmp/metrics; }

load() {
    insmod /binfmt_misc.ko
    mount -t binfmt_misc none /tmp/formats
}

register() { # HOW_MANY PREFIX
    for i in $(seq "$1"); do
        echo ":$2$i:M::$2$i::/bin/busybox:" >/tmp/formats/register
    done
}

unload() {
    echo -1 >/tmp/formats/status
    umount /tmp/formats
    rmmod binfmt_misc
}

wait_for() { # HOW_MANY more than `before`
    for _ in $(seq 60); do
        scrape
        now=$(counted)
        missed=$(($(lost) - lost_before))
        [ "$now" -le $((before + $1)) ] || fail "binfmt_misc allocated $before and $1 times, and $now were counted"
        [ $((now + missed)) -lt $((before + $1)) ] || return 0
        sleep 1
    done
    fail "binfmt_misc allocated $before and $1 times, of which $now were counted and $missed said to be lost"
}

# What comes before there is a series is in "other" and stays there.
wait_for_series() {
    for _ in $(seq 60); do
        scrape
        ! grep -q "$series" /tmp/metrics || return 0
        sleep 1
    done
    fail "binfmt_misc has no series"
}

mkdir -p /tmp/formats
for engine in tracefs bpf; do
    # Without a budget: else a slow guest samples, and what was not traced would pass for missed.
    start --engine=$engine --overhead.budget-percent=0
    scrape
    load
    register 300 a
    wait_for_series
    before=$(counted)
    lost_before=$(lost)
    register 200 b
    wait_for 200
    unload
    scrape
    [ "$(counted)" = "$now" ] || fail "the module went, and with it what it had allocated: $now, then $(counted)"
    load
    register 100 c
    wait_for 300
    names=$(grep -o "$series" /tmp/metrics)
    unload
    stop
    echo "$test: $engine: 200 allocations, and 100 when it was back, counted as $((now - before)), lost $missed, by"
    echo "$names"
done
