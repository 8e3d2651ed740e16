"""The metrics and labels that the documentation, the rules and the chart's notes name are those that there are."""
import re
import unittest

import families
import test_rules

# By names like those of metrics: the program, the kernel's functions and tracepoints, and the allocator.
NO_METRICS = re.compile(r"kmem_exporter$|kmem_cache($|_(alloc|free|create)(_node|_bulk)?$)")
PAGES = sorted([*families.REPOSITORY.glob("docs/**/*.md"),
                *(families.REPOSITORY / name for name in (
                    "README.md", "CHANGELOG.md", "helm/kmem-exporter/README.md"))])
NOTES = families.REPOSITORY / "helm/kmem-exporter/templates/NOTES.txt"


def pieces(page):
    """The blocks of code, and what else stands in `code`."""
    text = page.read_text(encoding="utf-8")
    block = r"^ *```\w*\n(.*?)^ *```$"
    yield from re.findall(block, text, re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`]+)`", re.sub(block, "", text, flags=re.MULTILINE | re.DOTALL))


class NamesTest(unittest.TestCase):
    LABELS = families.labels()
    RECORDED = test_rules.recorded()

    def of_recordings(self, names):
        return {family for name in names for family in families.used_by(self.RECORDED[name])}

    def assert_known(self, code, where):
        metrics = {name for name in families.used_by(code) if not NO_METRICS.match(name)}
        recordings = families.recordings_used_by(code)
        self.assertLessEqual(recordings, set(self.RECORDED), where)
        for name in metrics - families.OF_PROMETHEUS:
            self.assertTrue(any(known == name or (name.endswith("_") and known.startswith(name))
                                for known in self.LABELS), f"{where}: there is no metric {name}")
        for name, labels in families.selectors(code):
            start = name.removesuffix("*")
            having = [known for family, known in self.LABELS.items()
                      if family == name or (start != name and family.startswith(start))]
            self.assertTrue(any(known | families.OF_TARGETS >= set(labels) for known in having),
                            f"{where}: {name} has not all of the labels {labels}, but {having}")
        known = families.OF_TARGETS.union(*(self.LABELS.get(name, set())
                                            for name in metrics | self.of_recordings(recordings)))
        if metrics or recordings:
            self.assertLessEqual(families.groupings(code), known, where)

    def test_those_of_the_documentation(self):
        for page in PAGES:
            with self.subTest(page.name):
                for code in pieces(page):
                    self.assert_known(code, f"{page.name}: {code[:60]}")

    def test_those_of_the_chart_s_notes(self):
        self.assert_known(NOTES.read_text(encoding="utf-8"), NOTES.name)

    def test_those_of_the_rules(self):
        for file in ("kmem-rules.yaml", "kmem-alerts.yaml"):
            for rule in test_rules.rules(file):
                self.assert_known(rule["expr"], rule.get("alert") or rule["record"])

    def test_an_unknown_one_would_be_refused(self):
        for code, word in (("rate(kmem_pages_total[5m])", "kmem_pages_total"),
                           ('kmem_exporter_record_errors_total{reason="read_failed"}', "reason"),
                           ("kmem_slab_callsite_*{cache}", "cache"),
                           ("sum by (node) (kmem_page_allocations_total)", "node"),
                           ("instance:kmem_nothing:rate5m", "kmem_nothing")):
            with self.subTest(code), self.assertRaisesRegex(AssertionError, word):
                self.assert_known(code, "")


if __name__ == "__main__":
    unittest.main()
