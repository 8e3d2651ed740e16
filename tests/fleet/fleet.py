"""Measures what a fleet of exporters costs one Prometheus: real exporters, which replay a recorded
trace, each at an address of its own on the loopback network, scraped and evaluated with the project's
rules. Prints a table, and with --update puts it into docs/scale.md; --check only looks whether one
Prometheus takes them all. Started by `run`.

The values of a replay stand still, so that their samples compress better than a live kernel's: what is
on disk is not measured here. Memory and CPU time hardly depend on the values.
"""
import argparse
import gzip
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

import prometheus

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
DOCUMENT = REPOSITORY / "docs/scale.md"
BEGIN, END = "<!-- results: made by tests/fleet/run --update -->\n", "<!-- end of results -->\n"
PORT = 15636
SCRAPE_SECONDS = 15
WARM_UP_SECONDS = 60
# The contract of docs/metrics.md for a machine of 64 CPUs and 2 NUMA nodes.
SERIES_AT_CAPS = 1500
FLEETS = (1000, 10000)


def address(number):
    return f"127.100.{number // 250}.{1 + number % 250}:{PORT}"


def start_exporters(count):
    """They end with this process."""
    command = ["setpriv", "--pdeathsig", "KILL", "--", REPOSITORY / "build/release/kmem_exporter",
               f"--replay={REPOSITORY}/tests/data/traces/kmem-6.18.dat",
               f"--path.procfs={REPOSITORY}/tests/data/proc/6.18",
               "--web.max-requests=2", "--log.level=error"]  # fewer threads
    return [subprocess.Popen([*command, f"--web.listen-address={address(number)}"],
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            for number in range(count)]


def scrape(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as response:
        return response.read()


def of_process(pid, key):
    status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.search(rf"^{key}:\s*(\d+)", status, re.MULTILINE)[1])


def cpu_seconds(pid):
    return time.clock_gettime((~pid << 3) | 2)  # the process's CPU-time clock


def own_value(server, name):
    text = scrape(f"http://127.0.0.1:{server.port}/metrics").decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))


def measure(targets, seconds, warm_up_seconds=WARM_UP_SECONDS):
    """What Prometheus needs for so many exporters, over so long."""
    exporters, server = [], None
    with tempfile.TemporaryDirectory(prefix="kmem_fleet_") as directory:
        try:
            exporters = start_exporters(targets)
            for file in (REPOSITORY / "deploy/prometheus").glob("*.yaml"):
                shutil.copy(file, directory)
            server = prometheus.Prometheus(os.environ["KMEM_TEST_PROMETHEUS"], directory, {
                "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "scrape_timeout": "10s",
                           "evaluation_interval": f"{SCRAPE_SECONDS}s"},
                "rule_files": [f"{directory}/kmem-*.yaml"],
                "scrape_configs": [{"job_name": "kmem_exporter", "static_configs": [
                    {"targets": [address(number)], "labels": {"instance": f"node-{number:04}"}}
                    for number in range(targets)]}]})
            server.wait_until(f"count(up == 1) == {targets}", 120 + 4 * SCRAPE_SECONDS)
            time.sleep(warm_up_seconds)  # the measured time begins in a steady state
            samples, cpu, begin = (own_value(server, "prometheus_tsdb_head_samples_appended_total"),
                                   cpu_seconds(server.process.pid), time.monotonic())
            time.sleep(seconds)
            took = time.monotonic() - begin
            result = {
                "targets": targets,
                "cores": (cpu_seconds(server.process.pid) - cpu) / took,
                "samples": (own_value(server, "prometheus_tsdb_head_samples_appended_total")
                            - samples) / took,
                "rss": of_process(server.process.pid, "VmRSS") << 10,
                "series": own_value(server, "prometheus_tsdb_head_series"),
                "scraped": server.value("avg(scrape_samples_scraped)"),
                "slowest": server.value(f"max(max_over_time(scrape_duration_seconds[{seconds}s]))"),
                "failed": own_value(server, "prometheus_rule_evaluation_failures_total"),
                "missed": own_value(server, "prometheus_rule_group_iterations_missed_total"),
                "down": server.value(f"count(min_over_time(up[{seconds}s]) == 0) or vector(0)"),
            }
            text = scrape(f"http://{address(0)}/metrics")
            packed = scrape(f"http://{address(0)}/metrics", **{"Accept-Encoding": "gzip"})
            assert gzip.decompress(packed)
            result.update(bytes=len(text), packed=len(packed),
                          exporter_rss=of_process(exporters[0].pid, "VmRSS") << 10)
            if result["down"]:
                sys.exit(f"fleet: {result['down']:.0f} exporters were not always up: nothing was measured")
            return result
        finally:
            if server:
                server.stop()
            for exporter in exporters:
                exporter.kill()
            for exporter in exporters:
                exporter.wait()


def mib(size):
    return f"{size / (1 << 20):,.0f} MiB" if size < 10 << 30 else f"{size / (1 << 30):,.0f} GiB"


def report(small, large):
    """The lines of the result, in Markdown."""
    cpus = {line.split(": ")[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8")
            if line.startswith("model name")}
    version = subprocess.run([os.environ["KMEM_TEST_PROMETHEUS"], "--version"], check=True,
                             stdout=subprocess.PIPE, text=True).stdout.split()[2]
    kernel = platform.release().split("-")[0]
    yield (f"Measured on {time.strftime('%Y-%m-%d')} with Prometheus {version} on {', '.join(sorted(cpus))}, "
           f"{os.cpu_count()} CPUs, Linux {kernel}; scraped and evaluated every {SCRAPE_SECONDS} s.")
    yield ""
    yield "| | " + " | ".join(f"{each['targets']} exporters" for each in (small, large)) + " |"
    yield "|---|---:|---:|"
    for name, value in (
            ("Series per exporter (a recorded trace of 2 CPUs)", lambda each: f"{each['scraped']:,.0f}"),
            ("Bytes per scrape", lambda each: f"{each['bytes']:,}"),
            ("the same, gzip, as Prometheus asks for it", lambda each: f"{each['packed']:,}"),
            ("Samples per second, those of the rules included", lambda each: f"{each['samples']:,.0f}"),
            ("Series in Prometheus, those of the rules included", lambda each: f"{each['series']:,.0f}"),
            ("Prometheus's resident memory", lambda each: mib(each["rss"])),
            ("Prometheus's CPU time, in CPUs", lambda each: f"{each['cores']:.3f}"),
            ("Slowest scrape", lambda each: f"{each['slowest'] * 1000:.0f} ms"),
            ("Resident memory of an exporter", lambda each: f"{each['exporter_rss'] / (1 << 20):.1f} MiB")):
        yield f"| {name} | {value(small)} | {value(large)} |"
    yield ""
    # What the second half of the fleet costs is what each further one does.
    added = large["series"] - small["series"]
    per_series = max(0, large["rss"] - small["rss"]) / added
    base = small["rss"] - per_series * small["series"]
    per_sample = (large["cores"] - small["cores"]) / (large["samples"] - small["samples"])
    of_rules = small["series"] / small["targets"] - small["scraped"]
    yield (f"A further series takes {per_series / 1024:.1f} KiB of Prometheus's memory, a further sample "
           f"{per_sample * 1e6:.1f} us of CPU time, rules included. From these two:")
    yield ""
    yield "| Machines | Series each | Series | Samples/s | Memory | CPUs | Network, gzip |"
    yield "|---:|---:|---:|---:|---:|---:|---:|"
    for machines in FLEETS:
        for each, name in ((small["scraped"], ""), (SERIES_AT_CAPS, " (the most)")):
            series = machines * (each + of_rules)
            samples = series / SCRAPE_SECONDS
            network = machines * small["packed"] * each / small["scraped"] / SCRAPE_SECONDS
            yield (f"| {machines:,} | {each:,.0f}{name} | {series:,.0f} | {samples:,.0f} | "
                   f"{mib(base + per_series * series)} | {per_sample * samples:.1f} | "
                   f"{network / 1e6:.1f} MB/s |")


def check(result):
    """What is wrong with a fleet that was measured beside other work, a line each."""
    for what in ("failed", "missed"):
        if result[what]:
            yield f"{result[what]:.0f} evaluations of rules {what}"
    expected = result["targets"] * result["scraped"] / SCRAPE_SECONDS
    if result["samples"] < 0.9 * expected:
        yield f"{result['samples']:.0f} samples/s, but the scrapes alone are {expected:.0f}"
    if result["scraped"] > SERIES_AT_CAPS:
        yield f"an exporter has {result['scraped']:.0f} series, of at most {SERIES_AT_CAPS}"
    if result["slowest"] > 5:
        yield f"a scrape took {result['slowest']:.1f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, default=200,
                        help="exporters of the smaller fleet; the other has twice as many")
    parser.add_argument("--seconds", type=int, default=180, help="how long to measure each")
    parser.add_argument("--update", action="store_true", help="put the result into docs/scale.md")
    parser.add_argument("--check", action="store_true",
                        help="only the smaller fleet, for two rounds of scrapes; measure nothing")
    args = parser.parse_args()
    if args.targets < 200:
        parser.error("--targets: at least 200, or the difference is lost in the noise")
    if args.check:
        result = measure(args.targets, 2 * SCRAPE_SECONDS, 0)
        print(f"fleet: {result['targets']} exporters of {result['scraped']:.0f} series, "
              f"{result['samples']:.0f} samples/s, the slowest scrape {result['slowest'] * 1000:.0f} ms")
        faults = list(check(result))
        print(*(f"fleet: {fault}" for fault in faults), sep="\n", end="\n" if faults else "")
        sys.exit(1 if faults else 0)
    results = []
    for targets in (args.targets, 2 * args.targets):
        print(f"fleet: {targets} exporters, some {WARM_UP_SECONDS + args.seconds + 30} s", flush=True)
        results.append(measure(targets, args.seconds))
    text = "\n".join(report(*results)) + "\n"
    print(text)
    if args.update:
        document = DOCUMENT.read_text(encoding="utf-8")
        head, rest = document.split(BEGIN)
        DOCUMENT.write_text(head + BEGIN + text + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
