"""What counting may cost, and whether it does, by the results of run, of run_pieces and of run_whole."""
import report

HEADER = ("What", "At most", "Measured", "")
BY_NAME, PAIRING = "by call site and cache, ", "pairing slab objects, of which {} are alive"
MANY_SERIES = 10000
# Milliseconds, of the default's series and of many.
SCRAPE_MS = {False: {"text": 2, "gzip": 2}, True: {"text": 10, "gzip": 20}}
STORM_RATE, STORM_S = 1_000_000, 60
RESIDENT_MIB = 32
ENGINES = ("tracefs", "bpf")


def _of_pieces(results):
    """(what, at most, measured or None, how that is written)"""
    pieces = {name: piece["ns"] for name, piece in results["pieces"].items()}

    def added(with_names):
        without = f"{with_names}, nothing by name"
        return pieces[with_names] - pieces[without] if {with_names, without} <= pieces.keys() else None

    yield "reading an event", 10, pieces.get("read, all collectors"), "{:.1f} ns"
    yield "reading an event: " + BY_NAME + "more than without", 10, added("read, all collectors"), "{:.1f} ns"
    yield "reading a slab event: " + BY_NAME + "more than without", 10, added("read, slab alone"), "{:.1f} ns"
    for alive in ("20000", "200000"):
        yield PAIRING.format(alive), 40, pieces.get(f"pair slab objects, alive/{alive}"), "{:.1f} ns"
    for way, ms in SCRAPE_MS[True].items():
        p99 = [row["p99_ms"] for row in results["scrapes"] if row["way"] == way and row["samples"] >= MANY_SERIES]
        yield f"scrape of {MANY_SERIES} series of call sites, {way}, p99", ms, max(p99, default=None), "{:.1f} ms"
    yield _memory(f"behind {MANY_SERIES} series of call sites",
                  [row for row in results["scrapes"] if row["samples"] >= MANY_SERIES])


def _memory(what, rows):
    resident = max((row["resident_kib"] for row in rows), default=None)
    return f"resident memory {what}", RESIDENT_MIB, resident and resident / 1024, "{:.1f} MiB"


def _of_whole(results):
    """Of the storms, the first that was one counts: what it lost is lost, whatever a later one loses."""
    storms = [storm for storm in results["storms"] if storm["seconds"] >= STORM_S]
    lost = [storm["lost"] for storm in storms if storm["events_per_second"] >= STORM_RATE]
    too_slow = ""
    if storms and not lost:
        most = max(storms, key=lambda storm: storm["events_per_second"])
        too_slow = f" (no more than {most['events_per_second']:.0f} were made here, {most['lost']:.0f} lost)"
    yield (f"events lost in {STORM_S} s of {STORM_RATE} a second on each CPU{too_slow}", 0,
           lost[0] if lost else None, "{:.0f}")
    for engine in ENGINES:
        yield _memory(f"at {MANY_SERIES} series, {engine} engine",
                      [row for row in results["memory"] if row["engine"] == engine and row["series"] >= MANY_SERIES])
    for engine in ENGINES:
        for many, at_most in SCRAPE_MS.items():
            series = f"{MANY_SERIES} series" if many else "the default's series"
            for way, ms in at_most.items():
                p99 = [row["p99_ms"] for row in results["scrapes"] if (row["engine"], row["way"]) == (engine, way)
                       and (row["series"] >= MANY_SERIES) == many]
                yield f"scrape of {series}, {engine} engine, {way}, p99", ms, max(p99, default=None), "{:.1f} ms"


def _of_scenario(scenario):
    rows = {row["key"]: row for row in report.summarise(scenario)}
    title = report.TITLES[scenario["load"], scenario["cpus"]].replace("Slab", "slab")

    def value(key, what):
        return rows[key][what] if key in rows else None

    if scenario["load"] != "slab":
        return
    for key, names, at_most in (("bpf_sites", "by call site", 1.35), ("bpf_names", "by call site and cache", 1.45)):
        yield f"{title}: bpf engine, {names} / empty BPF programs", at_most, value(key, "per_empty"), "{:.2f}"
    yield (f"{title}: tracefs engine, all in / nobody reading", 1.35, value("tracefs_all", "per_nobody"), "{:.2f}")
    if scenario["cpus"] == "all":
        for engine in ENGINES:
            slower = value(f"{engine}_budget", "slower")
            yield (f"{title}: {engine} engine within the default budget, slower by", 1.5, slower and slower[1],
                   "{:.1f} %")


def judge(files):
    """Rows of the table, of the files' contents: (what, at most, measured, met | missed | not measured)."""
    for results in files:
        if "pieces" in results:
            found = _of_pieces(results)
        elif "storms" in results:
            found = _of_whole(results)
        else:
            found = (target for scenario in results["scenarios"] for target in _of_scenario(scenario))
        for what, at_most, measured, shape in found:
            if measured is None:
                yield what, shape.format(at_most), "-", "not measured"
            else:
                yield what, shape.format(at_most), shape.format(measured), "met" if measured <= at_most else "missed"


def text_table(rows):
    """Aligned, for a terminal."""
    table = [HEADER, *rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(HEADER))]
    for what, at_most, measured, verdict in table:
        yield f"{what.ljust(widths[0])}  {at_most.rjust(widths[1])}  {measured.rjust(widths[2])}  {verdict}".rstrip()


def markdown_table(rows):
    yield "| " + " | ".join(HEADER).rstrip() + " |"
    yield "|---|---:|---:|---|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
