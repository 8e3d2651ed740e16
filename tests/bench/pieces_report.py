"""The results of run_pieces as tables."""
INSTRUCTIONS_OF = {"read, all collectors": "all",
                   "read, all collectors, nothing by name": "nothing-by-name"}


def _pieces(results):
    yield "| Piece, per event | ns | Instructions |"
    yield "|---|---:|---:|"
    for name, piece in results["pieces"].items():
        if not piece["per_event"]:
            continue
        count = results["instructions"].get(INSTRUCTIONS_OF.get(name))
        yield f"| {name} | {piece['ns']:.1f} | {'-' if count is None else f'{count:.0f}'} |"
    yield ""
    yield "| Piece of a scrape, and how many series | µs |"
    yield "|---|---:|"
    for name, piece in results["pieces"].items():
        if not piece["per_event"]:
            yield f"| {name.replace('/', ', ')} | {piece['ns'] / 1000:.1f} |"


def _scrapes(results):
    yield "| Scrapes over HTTP | Samples | p50, ms | p99, ms | Bytes | Resident behind it, MiB |"
    yield "|---|---:|---:|---:|---:|---:|"
    for row in results["scrapes"]:
        yield (f"| {row['scrapes']}, {row['way']} | {row['samples']} | {row['p50_ms']:.1f} | "
               f"{row['p99_ms']:.1f} | {row['bytes']} | {row['resident_kib'] / 1024:.1f} |")


def lines(results):
    yield f"The load of the machine when it began: {results['load']:.1f}."
    yield ""
    yield from _pieces(results)
    yield ""
    yield from _scrapes(results)
