"""What the pairs of a run come to, as numbers and as tables."""
import statistics

BPF_FLOORS = ("empty_tp_btf", "empty_raw_tp")  # the first that was measured is the floor
TRACING_FLOOR = "nobody_reading"
TITLES = {("slab", "one"): "Slab loop on one CPU", ("slab", "all"): "Slab loop on all CPUs",
          ("fault", "one"): "Page-fault loop on one CPU",
          ("fault", "all"): "Page-fault loop on all CPUs"}
HEADER = ("Contender", "Added, ns (quartiles)", "Reader, ns", "All in, ns", "Added / empty BPF",
          "All in / nobody reading", "Slower by, %", "Lost, %")


def _quartiles(values):
    if len(values) < 2:
        return values * 3
    return statistics.quantiles(values, n=4, method="inclusive")


def _lost_percent(phases):
    phases = [phase for phase in phases if phase.get("lost") is not None]
    lost = sum(phase["lost"] for phase in phases)
    return 100 * lost / (lost + sum(phase["counted"] for phase in phases)) if phases else None


def _summarise_row(row, slower_by):
    """All of it in ns per event, but the share of time by which the load gets slower."""
    phases = [pair["traced"] for pair in row["pairs"]]
    added, reader, slower = [], [], []
    for pair, traced in zip(row["pairs"], phases):
        # The mean of before and after: what drifts meanwhile cancels out.
        untraced = {key: (pair["before"][key] + pair["after"][key]) / 2 for key in ("ns", "wall_ns")}
        added.append((traced["ns"] - untraced["ns"]) / row["events_per_loop"])
        reader.append(1e9 * traced.get("reader_cpu_s", 0) / traced["events"])
        slower.append(100 * (traced[slower_by] / untraced[slower_by] - 1))
    return {
        "key": row["key"], "name": row["name"], "added": _quartiles(added),
        "reader": statistics.median(reader) if "reader_cpu_s" in phases[0] else None,
        "all_in": statistics.median(map(sum, zip(added, reader))),
        "slower": statistics.median(slower), "lost": _lost_percent(phases)}


def summarise(scenario):
    """A row for each contender that was measured, with the ratios to the floors beside it."""
    # Where the readers have CPUs of their own, others that run on the load's CPU are only noise.
    slower_by = "wall_ns" if scenario["load_cpus"] == scenario["reader_cpus"] else "ns"
    rows = [_summarise_row(row, slower_by) for row in scenario["rows"] if row["pairs"]]
    added = {row["key"]: row["added"][1] for row in rows}
    empty = next((added[key] for key in BPF_FLOORS if key in added), None)
    nobody = added.get(TRACING_FLOOR)
    for row in rows:
        row["per_empty"] = row["added"][1] / empty if empty else None
        row["per_nobody"] = row["all_in"] / nobody if nobody else None
    return rows


def description(scenario):
    """The lines above the table."""
    load, others = (", ".join(map(str, scenario[key])) for key in ("load_cpus", "reader_cpus"))
    yield f"{scenario['rounds']} pairs for each. The load is on CPU {load}, readers on CPU {others}."
    untraced = [pair[side]["ns"] for row in scenario["rows"] for pair in row["pairs"]
                for side in ("before", "after")]
    fires = ", ".join(f"{name} {count:.2f}" for name, count in scenario["events_per_loop"].items()
                      if count >= 0.005)
    if untraced:
        yield f"A loop takes {statistics.median(untraced):.0f} ns when nobody counts, and fires {fires}."


def skipped(scenario):
    """The lines below the table."""
    for row in scenario["rows"]:
        if row["skipped"]:
            yield f"SKIPPED: {row['name']}: {row['skipped']}"
    measured = [row["key"] for row in scenario["rows"] if row["pairs"]]
    if BPF_FLOORS[0] not in measured and BPF_FLOORS[1] in measured:
        yield "The floor of BPF is that of raw_tp."


def _number(value, digits):
    return "-" if value is None else f"{value:.{digits}f}"


def _cells(row):
    low, middle, high = row["added"]
    return [row["name"], f"{middle:.1f} ({low:.1f}..{high:.1f})", _number(row["reader"], 1),
            _number(row["all_in"], 1), _number(row["per_empty"], 2), _number(row["per_nobody"], 2),
            _number(row["slower"], 1), _number(row["lost"], 2)]


def text_table(rows):
    """Aligned, for a terminal."""
    table = [HEADER, *map(_cells, rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(HEADER))]
    for line in table:
        cells = [cell.rjust(width) for cell, width in zip(line, widths)]
        yield "  ".join([line[0].ljust(widths[0]), *cells[1:]])


def markdown_table(rows):
    yield "| " + " | ".join(HEADER) + " |"
    yield "|---" + "|---:" * (len(HEADER) - 1) + "|"
    for row in rows:
        yield "| " + " | ".join(_cells(row)) + " |"
