"""The metrics that there are: what the golden files of the exporter hold."""
import pathlib
import re

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Only where CPUs belong to several NUMA nodes, as on no machine of the golden files.
OF_SEVERAL_NODES = {"kmem_page_cross_node_frees_total", "kmem_slab_cross_node_frees_total"}
# In no expression by these names: Prometheus's own, and those of every process.
OF_PROMETHEUS = {"up", "ALERTS", "scrape_duration_seconds", "scrape_samples_scraped"}


def _names_in(file):
    return set(re.findall(r"^(\w+)(?:\{.*\})? \S+$", file.read_text(encoding="utf-8"), re.MULTILINE))


def existing():
    """The names of all series that a scrape of some kernel gives."""
    return set(OF_SEVERAL_NODES).union(*map(_names_in, (REPOSITORY / "tests/golden").glob("*.prom")))


def live_only():
    """Those that a recorded trace does not have."""
    return _names_in(REPOSITORY / "tests/golden/overhead.prom")


def used_by(expression):
    """The names of the metrics in an expression, those of recording rules left out."""
    without_strings = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    return set(re.findall(r"(?<![\w:])(?:kmem_|process_|scrape_)\w+(?![\w:])", without_strings)) | (
        {name for name in ("up", "ALERTS") if re.search(rf"(?<![\w:]){name}(?![\w:(])", without_strings)})


def recordings_used_by(expression):
    return set(re.findall(r"\binstance\w*:\w+:\w+", re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)))


def needs(expression, recorded, names):
    """Whether an expression needs one of these families, by itself or through a recording rule."""
    needed = used_by(expression)
    for name in recordings_used_by(expression):
        needed |= used_by(recorded[name])
    return bool(needed & names)


def is_of_other_machines(expression, recorded):
    return needs(expression, recorded, OF_SEVERAL_NODES)
