"""What the pairs of a run come to, as numbers and as tables."""
import statistics

BPF_FLOORS = ("empty_tp_btf", "empty_raw_tp")  # the first that was measured is the floor
TRACING_FLOOR = "nobody_reading"
TITLES = {("slab", "one"): "Slab loop on one CPU", ("slab", "all"): "Slab loop on all CPUs",
          ("fault", "one"): "Page-fault loop on one CPU",
          ("fault", "all"): "Page-fault loop on all CPUs"}
HEADER = ("Contender", "Added, ns (quartiles)", "Reader, ns", "All in, ns", "Added / empty BPF",
          "All in / nobody reading", "Slower by, % (quartiles)", "Lost, %")


def _quartiles(values):
    if len(values) < 2:
        return values * 3
    return statistics.quantiles(values, n=4, method="inclusive")


def _lost_percent(phases):
    phases = [phase for phase in phases if phase.get("lost") is not None]
    lost = sum(phase["lost"] for phase in phases)
    return 100 * lost / (lost + sum(phase["counted"] for phase in phases)) if phases else None


def _untraced(pair, key):
    """The mean of before and after: what drifts meanwhile cancels out."""
    return (pair["before"][key] + pair["after"][key]) / 2


def _added(pair, key):
    return pair["traced"][key] - _untraced(pair, key)


def _slower_as_a_whole(pair, key):
    return 100 * _added(pair, key) / _untraced(pair, key)


def _bare_differs(pair, key):
    """By how many percent the bare load after a contender differs from that before it."""
    return 100 * abs(pair["after"][key] - pair["before"][key]) / pair["before"]["ns"]


def _summarise_row(row, by_wall_time):
    """All of it in ns per event, but the share of time by which the load gets slower."""
    # Who counts in windows costs something in some rounds only, which a median of rounds does not show.
    slower_by = "wall_ns" if by_wall_time else "mean_ns" if row["in_windows"] else "ns"
    phases = [pair["traced"] for pair in row["pairs"]]
    added, reader, slower = [], [], []
    for pair, traced in zip(row["pairs"], phases):
        reader.append(1e9 * traced.get("reader_cpu_s", 0) / traced["events"])
        if row["in_windows"]:
            # What some rounds take beyond the others around them, less what the bare load's do.
            added.append(_added(pair, "beyond_ns") / row["events_per_loop"])
            beyond = _added(pair, "wall_beyond_ns" if by_wall_time else "beyond_ns")
            slower.append(100 * beyond / _untraced(pair, slower_by))
        else:
            added.append(_added(pair, "ns") / row["events_per_loop"])
            slower.append(_slower_as_a_whole(pair, slower_by))
    return {
        "key": row["key"], "name": row["name"], "added": _quartiles(added),
        "reader": statistics.median(reader) if "reader_cpu_s" in phases[0] else None,
        "all_in": statistics.median(map(sum, zip(added, reader))),
        "slower": _quartiles(slower), "lost": _lost_percent(phases), "in_windows": row["in_windows"],
        "slower_as_a_whole": _quartiles([_slower_as_a_whole(pair, slower_by) for pair in row["pairs"]]),
        "bare_differs": statistics.median(_bare_differs(pair, slower_by) for pair in row["pairs"]),
        "accounted": _quartiles([phase["accounted_percent"] for phase in phases if "accounted_percent" in phase])}


def summarise(scenario):
    """A row for each contender that was measured, with the ratios to the floors beside it."""
    # Where the readers have CPUs of their own, others that run on the load's CPU are only noise.
    by_wall_time = scenario["load_cpus"] == scenario["reader_cpus"]
    rows = [_summarise_row(row, by_wall_time) for row in scenario["rows"] if row["pairs"]]
    added = {row["key"]: row["added"][1] for row in rows}
    empty = next((added[key] for key in BPF_FLOORS if key in added), None)
    nobody = added.get(TRACING_FLOOR)
    for row in rows:
        row["per_empty"] = row["added"][1] / empty if empty else None
        row["per_nobody"] = row["all_in"] / nobody if nobody else None
    return rows


def _unsteadiness(rows):
    """The median of by how much the bare load differs, in that by which it is compared."""
    key = "beyond_ns" if rows[0]["in_windows"] else "ns"
    return statistics.median(_bare_differs(pair, key) for row in rows for pair in row["pairs"])


def description(scenario):
    """The lines above the table."""
    load, others = (", ".join(map(str, scenario[key])) for key in ("load_cpus", "reader_cpus"))
    most, budget = (max((len(row["pairs"]) for row in scenario["rows"] if row["in_windows"] == in_windows), default=0)
                    for in_windows in (False, True))
    others_than = [f"{most} of the cheapest"] if most > scenario["rounds"] else []
    others_than += [f"{budget} within a budget"] if budget else []
    fewer = f" ({', '.join(others_than)})" if others_than else ""
    yield f"{scenario['rounds']} pairs for each{fewer}. The load is on CPU {load}, readers on CPU {others}."
    untraced = [pair[side]["ns"] for row in scenario["rows"] for pair in row["pairs"]
                for side in ("before", "after")]
    fires = ", ".join(f"{name} {count:.2f}" for name, count in scenario["events_per_loop"].items()
                      if count >= 0.005)
    if untraced:
        yield f"A loop takes {statistics.median(untraced):.0f} ns when nobody counts, and fires {fires}."
    rows = [[row for row in scenario["rows"] if row["pairs"] and row["in_windows"] == in_windows]
            for in_windows in (False, True)]
    differs = [f"{_unsteadiness(each):.1f} %{where}"
               for each, where in zip(rows, ("", " in what sticks out of each second, for those within a budget")) if each]
    if differs:
        yield f"The bare load after a contender differs from that before it by {', and by '.join(differs)} (medians)."


def below(scenario):
    """The lines below the table."""
    for row in summarise(scenario):
        if row["in_windows"]:
            account = f" By its own account it took {_spread(row['accounted'])} % of the CPUs." if row["accounted"] else ""
            yield (f"{row['name']}: slower by {_spread(row['slower_as_a_whole'])} % by whole stretches, the bare load's "
                   f"own differing by {row['bare_differs']:.1f} %.{account}")
    for row in scenario["rows"]:
        if row["skipped"]:
            yield f"SKIPPED: {row['name']}: {row['skipped']}"
    measured = [row["key"] for row in scenario["rows"] if row["pairs"]]
    if BPF_FLOORS[0] not in measured and BPF_FLOORS[1] in measured:
        yield "The floor of BPF is that of raw_tp."


def _number(value, digits):
    return "-" if value is None else f"{value:.{digits}f}"


def _spread(quartiles):
    low, middle, high = quartiles
    return f"{middle:.1f} ({low:.1f}..{high:.1f})"


def _cells(row):
    return [row["name"], _spread(row["added"]), _number(row["reader"], 1), _number(row["all_in"], 1),
            _number(row["per_empty"], 2), _number(row["per_nobody"], 2), _spread(row["slower"]),
            _number(row["lost"], 2)]


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
