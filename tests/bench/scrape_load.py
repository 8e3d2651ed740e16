"""Times scrapes, as a Prometheus makes them: a new connection each, one after the other."""
import gzip
import http.client
import re
import subprocess
import time

from harness import PROMETHEUS

HEADERS = {"text": {"Accept": PROMETHEUS["Accept"]}, "gzip": PROMETHEUS}


def resident_kib(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return int(re.search(r"^VmRSS:\s*(\d+)", file.read(), re.MULTILINE)[1])


def scrape(address, headers):
    """Seconds until the last byte has come, and the body."""
    begin = time.perf_counter()
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("GET", "/metrics", headers=headers)
    response = connection.getresponse()
    body = response.read()
    seconds = time.perf_counter() - begin
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"/metrics gives {response.status}")
    return seconds, body


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure(address, pid, count):
    """A row for each way of asking: milliseconds at the middle and at the slow end, bytes, and what
    the server has resident behind it."""
    samples = sum(not line.startswith(b"#") for line in scrape(address, {})[1].splitlines())
    for name, headers in HEADERS.items():
        seconds = []
        for _ in range(count):
            took, body = scrape(address, headers)
            seconds.append(took)
        if name == "gzip":
            gzip.decompress(body)
        yield {"way": name, "samples": samples, "scrapes": count,
               "p50_ms": 1000 * percentile(seconds, 0.5), "p99_ms": 1000 * percentile(seconds, 0.99),
               "bytes": len(body), "resident_kib": resident_kib(pid)}


def measure_served(program, series, count):
    """The same of bench_pieces --serve."""
    with subprocess.Popen([program, "--serve", str(series)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, encoding="utf-8") as process:
        try:
            address = process.stdout.readline().strip()
            return list(measure(address, process.pid, count))
        finally:
            process.stdin.close()
