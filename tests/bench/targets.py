"""What counting may cost, and whether it does, by the results of run and of run_pieces."""
import report

HEADER = ("What", "At most", "Measured", "")
BY_NAME, PAIRING = "by call site and cache, ", "pairing slab objects, of which {} are alive"
DEFAULT_SERIES, MANY_SERIES = 1000, 10000  # fewer samples than the one, as many as the other


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
    for few, at_most in ((True, {"text": 2, "gzip": 2}), (False, {"text": 10, "gzip": 20})):
        for way, ms in at_most.items():
            p99 = [row["p99_ms"] for row in results["scrapes"] if row["way"] == way
                   and (row["samples"] < DEFAULT_SERIES if few else row["samples"] >= MANY_SERIES)]
            series = "the default's series" if few else f"{MANY_SERIES} series"
            yield f"scrape of {series}, {way}, p99", ms, max(p99, default=None), "{:.1f} ms"


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
        for engine in ("bpf", "tracefs"):
            yield (f"{title}: {engine} engine within the default budget, slower by", 1.5,
                   value(f"{engine}_budget", "slower"), "{:.1f} %")


def judge(files):
    """Rows of the table, of the files' contents: (what, at most, measured, met | missed | not measured)."""
    for results in files:
        found = _of_pieces(results) if "pieces" in results else (
            target for scenario in results["scenarios"] for target in _of_scenario(scenario))
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
