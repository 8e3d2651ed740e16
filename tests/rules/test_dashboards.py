"""The dashboards against their conventions, the metrics that exist, and a real Prometheus, in which
every query has to find data. Started by `run`, which has fetched one."""
import json
import os
import re
import shutil
import subprocess
import time
import unittest

import families
import harness
import prometheus
import test_rules
import tracefs

GRAFANA = families.REPOSITORY / "deploy/grafana"
VARIABLES = {"datasource": "", "cluster": ".*", "job": ".+", "instance": ".+"}
SCRAPE_SECONDS = 0.5
# What Grafana would take for it with these scrapes: four intervals.
RATE_INTERVAL = "2s"


def dashboards():
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in GRAFANA.glob("*.json")}


def panels():
    """All panels that show something, with the names of their dashboards."""
    return [(name, panel) for name, dashboard in dashboards().items()
            for panel in dashboard["panels"] if panel["type"] != "row"]


def filled_in(expression, **choices):
    """An expression as Grafana sends it, with every variable at All that is not chosen."""
    for name, value in {"__rate_interval": RATE_INTERVAL, **VARIABLES, **choices}.items():
        expression = expression.replace(f"${name}", value)
    return expression


class ConventionsTest(unittest.TestCase):
    def test_they_are_what_generate_writes(self):
        subprocess.run([GRAFANA / "generate", "--check"], check=True)

    def test_dashboards(self):
        self.assertEqual(set(dashboards()), {"kmem-cluster", "kmem-node", "kmem-exporter"})
        for name, dashboard in dashboards().items():
            with self.subTest(name):
                self.assertEqual(dashboard["uid"], name)
                self.assertIn("kmem_exporter", dashboard["tags"])
                self.assertEqual(
                    [dashboard[key] for key in ("timezone", "refresh", "graphTooltip", "editable")],
                    ["utc", "30s", 1, False])
                choices = dashboard["templating"]["list"]
                self.assertEqual([each["name"] for each in choices], list(VARIABLES))
                for each in choices[1:]:
                    self.assertTrue(each["multi"] and each["includeAll"])
                    self.assertEqual(each["allValue"], VARIABLES[each["name"]])

    def test_the_node_has_the_five_sections_of_the_kernels_document_in_its_order(self):
        rows = [panel["title"] for panel in dashboards()["kmem-node"]["panels"] if panel["type"] == "row"]
        self.assertEqual(rows, ["1. Slab allocation of small objects of unknown type (kmalloc)",
                                "2. Slab allocation of small objects of known type",
                                "3. Page allocation",
                                "4. Per-CPU allocator activity",
                                "5. External fragmentation"])

    def test_each_panel_says_what_it_shows_in_which_unit(self):
        for name, panel in panels():
            with self.subTest(f"{name}: {panel['title']}"):
                self.assertTrue(panel["title"] and panel["fieldConfig"]["defaults"]["unit"])
                self.assertRegex(panel["description"], r"[.?!]$")
                self.assertEqual(panel["datasource"]["uid"], "${datasource}")
                for target in panel["targets"]:
                    self.assertNotRegex(target["expr"], r"\[\d+\w\]", "a fixed range")

    def test_heatmaps(self):
        for name, panel in panels():
            if panel["type"] == "heatmap":
                with self.subTest(f"{name}: {panel['title']}"):
                    target, = panel["targets"]
                    self.assertEqual((target["format"], target["legendFormat"]), ("heatmap", "{{le}}"))
                    self.assertRegex(target["expr"],
                                     r"^sum by \(le\) \(rate\(\w+_bucket\{.*\}\[\$__rate_interval\]\)\)$")

    def test_panels_do_not_overlap(self):
        for name, dashboard in dashboards().items():
            taken = set()
            for panel in dashboard["panels"]:
                at = panel["gridPos"]
                cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                         for y in range(at["y"], at["y"] + at["h"])}
                self.assertFalse(cells & taken, f"{name}: {panel['title']}")
                self.assertLessEqual(at["x"] + at["w"], 24)
                taken |= cells

    def test_every_metric_and_recording_used_exists(self):
        known = families.existing() | families.OF_PROMETHEUS
        for name, panel in panels():
            for target in panel["targets"]:
                self.assertLessEqual(families.used_by(target["expr"]), known, f"{name}: {panel['title']}")
                self.assertLessEqual(families.recordings_used_by(target["expr"]),
                                     set(test_rules.recorded()), f"{name}: {panel['title']}")


class QueriesTest(harness.ExporterTest):
    """Every query, for a replayed trace and, where it can be traced, for the live kernel."""

    def setUp(self):
        super().setUp()
        everything = {"collectors": {"slab": {"live": {"enabled": True}}}}  # what is off by default
        replay = self.start(f"--replay={harness.TRACES}/kmem-6.18.dat",
                            f"--path.procfs={families.REPOSITORY}/tests/data/proc/6.18", config=everything)
        targets = {"replay": replay.address}
        self.why_no_live = tracefs.why_unusable()
        if not self.why_no_live:
            targets["live"] = self.start(config=everything).address
        self.instances = set(targets)
        for file in test_rules.RULES.glob("*.yaml"):
            shutil.copy(file, self.directory)
        self.prometheus = prometheus.Prometheus(
            os.environ["KMEM_TEST_PROMETHEUS"], self.directory, {
                "global": {"scrape_interval": f"{SCRAPE_SECONDS * 1000:.0f}ms",
                           "scrape_timeout": f"{SCRAPE_SECONDS * 1000:.0f}ms",
                           "evaluation_interval": "1s"},
                "rule_files": [f"{self.directory}/kmem-*.yaml"],
                "scrape_configs": [{"job_name": "kmem_exporter", "static_configs": [
                    {"targets": [address], "labels": {"instance": name}}
                    for name, address in targets.items()]}]})
        self.addCleanup(self.prometheus.stop)

    def test_every_query_of_the_dashboards_finds_data(self):
        recorded = test_rules.recorded()
        asked = [(name, panel["title"], target["expr"]) for name, panel in panels()
                 for target in panel["targets"]
                 if not families.is_of_other_machines(target["expr"], recorded)]
        of_live = [each for each in asked if families.needs(each[2], recorded, families.live_only())]
        missing = {(name, title, filled_in(expression, instance=instance))
                   for name, title, expression in asked for instance in self.instances
                   if instance != "replay" or (name, title, expression) not in of_live}
        deadline = time.monotonic() + 60 * harness.TIME_SCALE
        while missing:
            missing = {query for query in missing if not self.prometheus.samples(query[2])}
            if missing and time.monotonic() > deadline:
                self.fail("no data for:\n" + "\n".join(map(str, sorted(missing))))
        found = len(asked) - len(of_live) if self.why_no_live else len(asked)
        print(f"\n{found} queries found data of {' and '.join(sorted(self.instances))}")
        if self.why_no_live:
            print(f"SKIPPED: dashboards: {len(of_live)} queries need a live kernel: {self.why_no_live}")
        others = sum(len(panel["targets"]) for _, panel in panels()) - len(asked)
        print(f"SKIPPED: dashboards: {others} queries need several NUMA nodes")
        self.assertTrue(asked)

    def test_every_recording_rule_finds_data(self):
        recorded = test_rules.recorded()
        for name in recorded:
            if not families.is_of_other_machines(name, recorded):
                self.prometheus.wait_until(name, 60 * harness.TIME_SCALE)

    def test_every_rule_can_be_evaluated(self):
        self.prometheus.wait_until(f"count(kmem_exporter_build_info) == {len(self.instances)}",
                                   30 * harness.TIME_SCALE)

        def rules():
            answer = self.prometheus.get("/api/v1/rules")
            return [rule for group in answer["groups"] for rule in group["rules"]]
        harness.wait_until(lambda: all(rule["health"] != "unknown" for rule in rules()), 30,
                           "every rule was evaluated")
        self.assertEqual([rule for rule in rules() if rule["health"] != "ok"], [])
        self.assertEqual(len(rules()), len(test_rules.recorded()) + len(test_rules.alerts()))

    def test_a_variable_has_the_values_of_the_targets(self):
        self.prometheus.wait_until(f"count(kmem_exporter_build_info) == {len(self.instances)}",
                                   30 * harness.TIME_SCALE)
        for each in dashboards()["kmem-node"]["templating"]["list"][1:]:
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", each["definition"]).groups()
            values = {labels.get(label) for labels, _ in self.prometheus.samples(filled_in(selector))}
            self.assertEqual(values, {"cluster": {None}, "job": {"kmem_exporter"},
                                      "instance": self.instances}[each["name"]])


if __name__ == "__main__":
    unittest.main()
