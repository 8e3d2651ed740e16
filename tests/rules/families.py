"""The metrics that there are: what the golden files of the exporter hold."""
import pathlib
import re

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Only where CPUs belong to several NUMA nodes, as on no machine of the golden files.
OF_SEVERAL_NODES = {"kmem_page_cross_node_frees_total", "kmem_slab_cross_node_frees_total"}
# In no expression by these names: Prometheus's own, and those of every process.
OF_PROMETHEUS = {"up", "ALERTS", "scrape_duration_seconds", "scrape_samples_scraped"}
# Labels of every target, and of the parts of a histogram.
OF_TARGETS = {"instance", "job", "cluster", "le"}
# Families of web.per_cpu_detail, which no golden file has, and their labels.
OF_CPUS = {"kmem_exporter_cpu_events_read_total": {"cpu"},
           "kmem_exporter_cpu_events_lost_total": {"cpu", "reason"}}


def _names_in(file):
    return set(re.findall(r"^(\w+)(?:\{.*\})? \S+$", file.read_text(encoding="utf-8"), re.MULTILINE))


def existing():
    """The names of all series that a scrape of some kernel gives."""
    return set(OF_SEVERAL_NODES).union(*map(_names_in, (REPOSITORY / "tests/golden").glob("*.prom")))


def live_only():
    """Those that a recorded trace does not have."""
    return _names_in(REPOSITORY / "tests/golden/overhead.prom")


def without_strings(text):
    return re.sub(r'"(?:[^"\\\n]|\\.)*"', '""', text)


def used_by(expression):
    """The names of the metrics in an expression, those of recording rules left out."""
    text = without_strings(expression)
    return set(re.findall(r"(?<![\w:])(?:kmem_|process_|scrape_)\w+(?![\w:])", text)) | (
        {name for name in ("up", "ALERTS") if re.search(rf"(?<![\w:]){name}(?![\w:(])", text)})


def recordings_used_by(expression):
    return set(re.findall(r"\binstance\w*:\w+:\w+", without_strings(expression)))


def needs(expression, recorded, names):
    """Whether an expression needs one of these families, by itself or through a recording rule."""
    needed = used_by(expression)
    for name in recordings_used_by(expression):
        needed |= used_by(recorded[name])
    return bool(needed & names)


def is_of_other_machines(expression, recorded):
    return needs(expression, recorded, OF_SEVERAL_NODES)


def labels():
    """The names of the labels by family; of a histogram also by its name alone."""
    found = {name: set() for name in OF_SEVERAL_NODES} | {name: set(names) for name, names in OF_CPUS.items()}
    for file in (REPOSITORY / "tests/golden").glob("*.prom"):
        for name, inside in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", without_strings(
                file.read_text(encoding="utf-8")), re.MULTILINE):
            for family in {name, re.sub(r"_(bucket|sum|count)$", "", name)}:
                found.setdefault(family, set()).update(re.findall(r'(\w+)=""', inside))
    return found


def selectors(code):
    """The families with braces behind their names, and the labels in these; NAME_* is what begins so."""
    for name, inside in re.findall(r"(?<![\w:])((?:kmem|process|scrape)_\w+\*?)\{([^{}]*)\}", without_strings(code)):
        yield name, re.findall(r"([a-zA-Z_]\w*)\s*(?==|!|,|$)", inside)


def groupings(code):
    """The labels that an expression groups or matches by."""
    lists = re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right) ?\(([^()]*)\)", without_strings(code))
    return {name for names in lists for name in re.findall(r"\w+", names)}
