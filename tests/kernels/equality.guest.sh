# Runs in the guest for ./equality: an exporter with each engine and a second
# instance observe the same events (/out/equality), and the losses of the one
# that reads ring buffers are compared with the kernel's stats (/out/losses).
set -eu
tracing=/sys/kernel/tracing
events="kmalloc kmalloc_node kmem_cache_alloc kmem_cache_alloc_node kfree kmem_cache_free
    mm_page_alloc mm_page_alloc_zone_locked mm_page_alloc_extfrag
    mm_page_free mm_page_free_batched mm_page_pcpu_drain"
truth=$tracing/instances/truth

fail() { echo "equality: $*"; exit 1; }
step() { echo "equality: $* ($(cut -d' ' -f1 /proc/uptime) s)"; }

start() { # ENGINE PORT CONFIGURATION...
    engine=$1 port=$2
    shift 2
    # Every page and object, and room for all that there are: the truth has no sample and no bounds.
    printf '%s\n' "$@" 'web:' '  per_cpu_detail: true' "  listen_addresses: ['127.0.0.1:$port']" \
        'collectors:' '  slab: {live: {enabled: true, max_objects: 65536}}' \
        '  page: {cross_cpu: {sample_one_in: 1, max_pages: 262144}}' >/tmp/config.yaml
    kmem_exporter --engine="$engine" --overhead.budget-percent=0 --config.file=/tmp/config.yaml 2>/tmp/log.$engine &
    exporter=$!
    # Memory gets short on purpose.
    echo -1000 >/proc/$exporter/oom_score_adj
    for _ in $(seq 60); do
        if wget -q -O /dev/null "http://127.0.0.1:$port/-/ready" 2>/dev/null; then return; fi
        [ -d /proc/$exporter ] || break
        sleep 0.5
    done
    cat /tmp/log.$engine
    fail "the exporter with engine $engine does not get ready"
}

stop() { # PROCESS INSTANCE
    kill "$1"
    wait "$1" || fail "the exporter ended with status $?"
    [ ! -d "$tracing/instances/$2" ] || fail "the exporter left its instance behind"
}

# Nothing periodic while the boundaries are crossed.
echo 3600 >/proc/sys/vm/stat_interval
echo 0 >/proc/sys/vm/watermark_boost_factor
echo 0 >/proc/sys/vm/compaction_proactiveness
# Small per-CPU lists: they are drained by a small load too.
for file in /proc/sys/vm/percpu_pagelist*_fraction; do echo 10000 >"$file"; done
# Fallbacks within one zone, and no reserve that helps out.
echo 1 1 1 1 >/proc/sys/vm/lowmem_reserve_ratio
cp /proc/sys/vm/min_free_kbytes /tmp
echo 128 >/proc/sys/vm/min_free_kbytes

mkdir -p /out/losses /out/equality
uname -r >/out/release
awk '/^KernelPageSize/ {print $2 * 1024; exit}' /proc/self/smaps >/out/page_size

step "losses"
start tracefs 15636 'tracefs:' '  buffer_size_kb: 64' '  drain_interval_ms: 1000'
cat >/tmp/storm <<'END'
taskset 1 workload pipes 300
taskset 2 workload pipes 300
workload crosscpu 2000
END
interval losses 15636 $tracing/instances/kmem_exporter /out/losses 2500 $exporter sh /tmp/storm
stop $exporter kmem_exporter

step "equality"
mkdir "$truth"
echo 0 >"$truth/tracing_on"
echo mono >"$truth/trace_clock"
echo 49152 >"$truth/buffer_size_kb"
! grep -q hash-ptr "$truth/trace_options" || echo nohash-ptr >"$truth/trace_options"
for event in $events; do
    [ ! -d "$truth/events/kmem/$event" ] || echo 1 >"$truth/events/kmem/$event/enable"
done
cp "$truth/events/kmem/mm_page_alloc/format" /out/equality/mm_page_alloc
cat /proc/pagetypeinfo >/out/equality/pagetypeinfo
start tracefs 15636 'tracefs:' '  buffer_size_kb: 8192'
tracefs=$exporter
start bpf 15637 'tracefs:' '  instance: kmem_bpf'
bpf=$exporter

cat >/tmp/load <<'END'
set -e
taskset 1 workload pipes PIPES
taskset 2 workload pipes PIPES
taskset 2 workload sockets 400
workload anon 4000
workload crosscpu 4000
[ "$(cat /out/page_size)" -gt 4096 ] || workload toolarge 20
mkfifo /tmp/step /tmp/stepped
workload frag 64 </tmp/step >/tmp/stepped &
exec 3>/tmp/step 4</tmp/stepped
read -r line <&4
cat /tmp/min_free_kbytes >/proc/sys/vm/min_free_kbytes
for step in u '' '' ''; do
    echo $step >&3
    read -r line <&4
    # Ask for large blocks, of which few are left.
    taskset 1 workload sockets 64
    taskset 2 workload sockets 64
done
exec 3>&-
wait
END
# The same load takes fewer of larger pages: enough events all the same.
[ "$(cat /out/page_size)" = 4096 ] || PIPES=$((PIPES * 2))
sed -i "s/PIPES/$PIPES/" /tmp/load
interval equality tracefs=15636,bpf=15637 "$truth" /out/equality 1000 sh /tmp/load
stop $tracefs kmem_exporter
stop $bpf kmem_bpf
cat /tmp/log.bpf >/out/equality/bpf/log
step "measured"
for cpu in 0 1; do
    cat "$truth/per_cpu/cpu$cpu/stats" >/out/equality/stats.cpu$cpu
    [ "$(grep -cxE '(overrun|dropped events): 0' "$truth/per_cpu/cpu$cpu/stats")" = 2 ] ||
        fail "the second instance itself lost events"
done
gzip <"$truth/trace" >/out/equality/events.gz
: >/out/equality/failures
# 6.1 prints no gfp_flags while hash-ptr is off.
if zcat /out/equality/events.gz | head -n 20000 | grep -q 'gfp_flags=\( \|$\)'; then
    echo hash-ptr >"$truth/trace_options"
    grep -E ' mm_page_alloc: page=(\(null\)|0+) ' "$truth/trace" >/out/equality/failures || true
fi
echo 0 >"$truth/events/enable"
rmdir "$truth"
step "read $(wc -c </out/equality/events.gz) bytes"
