# The beginning of scripts that run the exporter in a guest. $test: the name that their lines begin with.
set -eu

fail() { echo "$test: $*"; cat /tmp/log; dmesg | grep -e apparmor= -e Lockdown: | tail -n 5; exit 1; }

# $run, if any, is what starts it.
start() { # ARGUMENT...
    $run kmem_exporter --web.listen-address=127.0.0.1:15636 "$@" 2>/tmp/log &
    exporter=$!
    for _ in $(seq 60); do
        wget -q -O /dev/null http://127.0.0.1:15636/-/ready 2>/dev/null && return
        sleep 0.5
    done
    fail "not ready: $*"
}

scrape() { wget -q -O /tmp/metrics http://127.0.0.1:15636/metrics || fail "no scrape"; }

value() { # SERIES
    scrape
    awk -v series="$1" '$1 == series {print $2}' /tmp/metrics
}

stop() {
    kill $exporter
    wait $exporter || fail "the exporter ended with status $?"
}

# The line of the log that says why there is no tracing, of which there has to be one.
assert_one_line() { # PATTERN
    [ "$(grep -c "$1" /tmp/log)" = 1 ] || fail "not one line that says why: $1"
    echo "$test: $(grep "$1" /tmp/log)"
}

# What a kernel says of its security, and the chart's answer to one that can't be traced: up all the same.
expect_refusals() {
    mount -t securityfs securityfs /sys/kernel/security
    echo 'on_tracing_failure: retry' >/tmp/retry.yaml
}

run=
: >/tmp/log
: >/tmp/metrics
