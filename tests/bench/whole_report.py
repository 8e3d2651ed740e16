"""The results of run_whole as tables."""


def _storms(results):
    yield "| Storm of, s | On CPUs | Events/s on each, at least | Read | Lost | Reader, ns of CPU time each |"
    yield "|---:|---:|---:|---:|---:|---:|"
    for storm in results["storms"]:
        yield (f"| {storm['seconds']:g} | {storm['cpus']} | {storm['events_per_second']:.0f} | {storm['read']:.0f} | "
               f"{storm['lost']:.0f} | {storm['reader_ns']:.1f} |")


def _memory(results):
    yield "| Engine | Series | Resident, MiB | At most, with so many scrapers at once | Afterwards |"
    yield "|---|---:|---:|---:|---:|"
    for row in results["memory"]:
        resident, peak, later = (f"{row[key] / 1024:.1f}" for key in ("resident_kib", "peak_kib", "later_kib"))
        yield f"| {row['engine']} | {row['series']} | {resident} | {peak} ({row['at_once']}) | {later} |"


def _scrapes(results):
    yield "| Engine | Series | Scrapes | ms | ms, the slowest of 100 |"
    yield "|---|---:|---|---:|---:|"
    for row in results["scrapes"]:
        yield (f"| {row['engine']} | {row['series']} | {row['scrapes']}, {row['way']} | {row['p50_ms']:.1f} | "
               f"{row['p99_ms']:.1f} |")


def lines(results):
    yield from _storms(results)
    yield ""
    yield from _memory(results)
    yield ""
    yield from _scrapes(results)
