# Runs in the guest for ./record: puts the recordings into /out.
set -eu
tracing=/sys/kernel/tracing
events="kmalloc kmalloc_node kmem_cache_alloc kmem_cache_alloc_node kfree kmem_cache_free
    mm_page_alloc mm_page_alloc_zone_locked mm_page_alloc_extfrag
    mm_page_free mm_page_free_batched mm_page_pcpu_drain"

# Small per-CPU lists: they are drained by a small load too.
for file in /proc/sys/vm/percpu_pagelist*_fraction; do echo 10000 >$file; done
# Memory stays fragmented, and the zone DMA does not help out.
echo 0 >/proc/sys/vm/watermark_boost_factor
echo 0 >/proc/sys/vm/compaction_proactiveness
echo 1 1 1 1 >/proc/sys/vm/lowmem_reserve_ratio
cp /proc/sys/vm/min_free_kbytes /tmp
echo 128 >/proc/sys/vm/min_free_kbytes

# Something of each event; $1: how much, $2: how often to fragment (the process
# that does it is behind the descriptors 3 and 4).
cat >/tmp/load <<'EOF'
taskset 1 workload pipes $1
taskset 2 workload sockets $(($1 + 15))
workload toolarge 1
workload crosscpu $(($1 * 16))
for step in $(seq $2); do
    echo >&3
    read -r line <&4
done
EOF

raw() { # CPU SIZE MAX
    rawpages "$instance/per_cpu/cpu$1/trace_pipe_raw" "$2" "$3"
}

traced() {
    echo 1 >"$instance/tracing_on"
    "$@"
    echo 0 >"$instance/tracing_on"
}

instance=$tracing/instances/recording
lossy=$tracing/instances/lossy
pages=/out/pages
mkdir -p "$instance" "$lossy" "$pages/format"
cp "$tracing/events/header_page" "$pages"
for event in $events; do
    [ -d "$tracing/events/kmem/$event" ] || continue
    traced_events="${traced_events-} -e kmem:$event"
    echo "$event" >>/out/events
done
enable() { # KIB_PER_CPU
    echo 0 >"$instance/tracing_on"
    echo mono >"$instance/trace_clock"
    echo "$1" >"$instance/buffer_size_kb"
    for event in $events; do
        [ ! -d "$instance/events/kmem/$event" ] || echo 1 >"$instance/events/kmem/$event/enable"
    done
}
for format in "$tracing"/events/kmem/*/format; do
    cp "$format" "$pages/format/$(basename "$(dirname "$format")")"
done

# First of all, since it needs large blocks.
if [ -e "$instance/buffer_subbuf_size_kb" ]; then
    echo 64 >"$instance/buffer_subbuf_size_kb"
    enable 256
    traced taskset 1 workload pipes 130
    raw 0 65536 2 >"$pages/cpu0-64k.raw"
    cp "$instance/events/header_page" "$pages/header_page-64k"
    echo 4 >"$instance/buffer_subbuf_size_kb"
fi
enable 1024
# The kernel may refuse to expand this one, trace-cmd's, once memory is short.
echo 1024 >"$tracing/buffer_size_kb"

mkfifo /tmp/step /tmp/stepped
workload frag 64 </tmp/step >/tmp/stepped &
exec 3>/tmp/step 4</tmp/stepped
read -r line <&4
cat /tmp/min_free_kbytes >/proc/sys/vm/min_free_kbytes

for file in buddyinfo pagetypeinfo vmstat zoneinfo sys/vm/min_free_kbytes sys/kernel/osrelease; do
    mkdir -p "/out/proc/$(dirname $file)"
    cat /proc/$file >/out/proc/$file
done

echo >"$instance/trace"
traced sh /tmp/load 2 1
sed -n 's/.* call_site=\([^+]*\)+.*/\1/p' "$instance/trace" | sort -u >/tmp/call_sites
for cpu in 0 1; do
    raw $cpu 4096 99 >"$pages/cpu$cpu.raw"
    cat "$instance/per_cpu/cpu$cpu/stats" >"$pages/cpu$cpu.stats"
done

# The first page after each loss carries the flag, and the count if it has room
# for it: take several.
instance=$lossy
enable 4
for round in 1 2 3 4; do
    traced taskset 1 workload pipes 4
    raw 0 4096 1
done >"$pages/cpu0-lost.raw"
cat "$instance/per_cpu/cpu0/stats" >"$pages/cpu0-lost.stats"

for events_off in "$tracing"/instances/*/events/enable; do echo 0 >"$events_off"; done

# trace-cmd stores all of kallsyms, megabytes of it: show it only the functions
# that occur, each with the one behind it as its end.
awk 'NR == FNR {wanted[$1]; next} $3 in wanted || behind {print} {behind = $3 in wanted}' \
    /tmp/call_sites /proc/kallsyms >/tmp/kallsyms
mount -o bind /tmp/kallsyms /proc/kallsyms
# What has been freed since then would be used before there is a fallback.
echo u >&3
read -r line <&4
# shellcheck disable=SC2086
trace-cmd record -C mono $FILE_VERSION $traced_events -o /out/trace.dat sh /tmp/load 32 4

exec 3>&-
wait
