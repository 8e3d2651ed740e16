# Runs in the guest for ./numa, behind exporter.guest.sh: CPU 0 is in node 0 and CPU 1 in node 1.
pages=8192
pipes=400
objects=$((2 * pipes)) # of each pipe what it is and its ring; files, inodes and names besides
# So many pages at most still lie in the LRU batch of CPU 0, and are freed there (include/linux/pagevec.h).
lru_batch=31
# The in-kernel engine may miss as many as two CPUs come to one place of its table at once.
races=8

fail() { echo "$test: $*"; cat /tmp/log; grep -E "^kmem_.*(_cpu_frees|_node_frees|_lost|live_[dc]|evicted)" /tmp/metrics; exit 1; }

# Of the last scrape.
frees() { awk -v series="kmem_$1_frees_total" '$1 == series {print $2; found = 1} END {exit !found}' /tmp/metrics || fail "no $1"; }
# The frees that the in-kernel engine says it missed (recursion): by so much less may have been counted.
lost() { awk '/^kmem_exporter_events_lost_total/ {sum += $2} END {print sum + 0}' /tmp/metrics; }

# Of the load's frees: `same` CPU, another CPU (`cpu`), another node (`node`), and `missed`.
count() { # page|slab LOAD...
    what=$1
    shift
    scrape
    same=$(frees ${what}_same_cpu)
    cpu=$(frees ${what}_cross_cpu)
    node=$(frees ${what}_cross_node)
    missed=$(lost)
    "$@" || fail "$*"
    # A drain settles what happened before it: the last events need one that begins later.
    scrape
    scrape
    same=$(($(frees ${what}_same_cpu) - same))
    cpu=$(($(frees ${what}_cross_cpu) - cpu))
    node=$(($(frees ${what}_cross_node) - node))
    missed=$(($(lost) - missed))
    echo "$test: $engine: $*: of the ${what}s freed $same on the same CPU, $cpu on another one, $node on another node; $missed missed"
    # Each node has one CPU.
    [ "$node" = "$cpu" ] || fail "on another CPU, but not on another node"
}

for node in 0 1; do
    [ "$(cat /sys/devices/system/node/node$node/cpulist)" = $node ] || fail "CPU $node is not that of node $node"
done
# Every page and object, and room for all that there are.
printf '%s\n' 'overhead: {budget_percent: 0}' \
    'tracefs: {buffer_size_kb: 16384}' \
    'collectors:' '  slab: {live: {enabled: true, max_objects: 65536}}' \
    '  page: {cross_cpu: {sample_one_in: 1, max_pages: 262144}}' >/tmp/config.yaml

for engine in tracefs bpf; do
    start --engine=$engine --config.file=/tmp/config.yaml
    count page workload crosscpu $pages
    [ $((node + missed)) -ge $((pages - lru_batch - races)) ] || fail "$pages pages were handed over"
    count page taskset 1 workload anon $pages
    [ $((same + missed)) -ge $((pages - races)) ] || fail "$pages pages were freed where they had been allocated"
    [ "$node" -lt $((pages / 10)) ] || fail "they were not handed over"
    count slab workload crosspipes $pipes
    [ $((node + missed)) -ge $objects ] && [ "$node" -gt $((2 * same)) ] || fail "$objects objects and more were handed over"
    count slab taskset 1 workload pipes $pipes
    [ $((same + missed)) -ge $objects ] || fail "$objects objects and more were freed where they had been allocated"
    [ "$same" -gt $((4 * node)) ] || fail "they were not handed over"
    stop
done
