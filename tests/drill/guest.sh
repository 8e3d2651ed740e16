# Runs in the guest for ./drill, which says over HTTP, at $host, what phase it is in.
set -eu

# The phase, and for the remedy the value of vm.min_free_kbytes.
phase() { wget -q -O - "http://$host/phase"; }

wait_for_phase() {
    until phase >/tmp/phase && grep -q "^$1" /tmp/phase; do sleep 0.5; done
    echo "guest: $(cat /tmp/phase)"
}

# A reserve that is tuned down: with the kernel's own, what one step of the remedy leaves is seldom told from chance.
echo 1024 >/proc/sys/vm/min_free_kbytes

kmem_exporter --web.listen-address=:15636 &
exporter=$!
# Memory gets short on purpose.
echo -1000 >/proc/$exporter/oom_score_adj

# The kernel's own answer to such events, which would end them before the remedy could.
echo 0 >/proc/sys/vm/watermark_boost_factor

wait_for_phase fragment
fragment full &
load=$!

wait_for_phase remedy
cut -d' ' -f2 /tmp/phase >/proc/sys/vm/min_free_kbytes

wait_for_phase room
kill $load
wait $load || true
fragment room &
load=$!

wait_for_phase end
kill $load $exporter
wait $exporter
