"""What a real Prometheus makes of /metrics. Started by `run`, which has fetched one."""
import os
import re
import subprocess
import unittest

import harness
import load
import prometheus
import tracefs

PROMETHEUS = os.environ["KMEM_TEST_PROMETHEUS"]
PROMTOOL = os.environ["KMEM_TEST_PROMTOOL"]
OF_PROMETHEUS = ("__name__", "job", "instance")  # labels
OF_THE_KERNEL = re.compile(r"kmem_(?!exporter_)")  # and so the same in every scrape of a replay


def canonical(labels):
    """Labels with bucket bounds as numbers: OpenMetrics writes 1.0 where the older format has 1. An empty
    label is none to Prometheus."""
    return frozenset((name, float(value) if name == "le" else value) for name, value in labels if value)


class Prometheus(prometheus.Prometheus):
    """A running Prometheus that scrapes one exporter. Made by PrometheusTest.start_prometheus()."""

    def __init__(self, exporter, directory):
        super().__init__(PROMETHEUS, directory, {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
            "scrape_configs": [{"job_name": "kmem",
                                "static_configs": [{"targets": [exporter.address]}]}]})

    def query(self, expression):
        """The values of an instant query by metric name and labels."""
        result = {}
        for metric, value in self.samples(expression):
            labels = [pair for pair in metric.items() if pair[0] not in OF_PROMETHEUS]
            result[metric.get("__name__", ""), canonical(labels)] = value
        return result


class PrometheusTest(harness.ExporterTest):

    def start_prometheus(self, exporter):
        prometheus = Prometheus(exporter, self.directory)
        self.addCleanup(prometheus.stop)
        harness.wait_until(lambda: prometheus.value("up") is not None, 30,
                           "Prometheus has scraped the exporter")
        target, = prometheus.get("/api/v1/targets")["activeTargets"]
        self.assertEqual((target["health"], target["lastError"]), ("up", ""))
        return prometheus

    def assert_no_failure(self, prometheus):
        self.assertEqual(prometheus.value("min_over_time(up[10m])"), 1)
        self.assertEqual(prometheus.complaints(), [])

    def assert_promtool_content(self, exporter):
        done = subprocess.run([PROMTOOL, "check", "metrics"], input=exporter.text(), check=False,
                              encoding="utf-8", capture_output=True, timeout=60)
        said = (done.stdout + done.stderr).strip()
        print(f"\npromtool check metrics: status {done.returncode}, said: {said or 'nothing'}")
        self.assertEqual((done.returncode, said), (0, ""))


class ReplayTest(PrometheusTest):
    """The shipped trace: its values do not change."""

    def setUp(self):
        super().setUp()
        self.exporter = self.start(f"--replay={harness.TRACES}/kmem-5.10.dat")

    def test_every_query_gives_what_the_exporter_shows(self):
        shown = {(name, canonical(labels)): value
                 for name, samples in self.exporter.scrape().samples.items()
                 if OF_THE_KERNEL.match(name) for labels, value in samples.items()}
        prometheus = self.start_prometheus(self.exporter)
        stored = prometheus.query('{__name__=~"kmem_.*", __name__!~"kmem_exporter_.*"}')
        self.assertEqual(stored, shown)

        # The same by hand for one of each kind, so that no mistake above goes unseen.
        for name, labels in (
                ("kmem_tracepoint_events_total", {"tracepoint": "kmalloc"}),
                ("kmem_page_allocations_total", {"order": "0", "migratetype": "movable"}),
                ("kmem_slab_request_size_bytes_bucket", {"allocator": "kmalloc", "le": "+Inf"}),
                ("kmem_slab_request_size_bytes_sum", {"allocator": "kmem_cache"})):
            selector = name + "{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}"
            value = prometheus.value(selector)
            self.assertEqual(value, self.exporter.scrape().get(name, **labels), selector)
            self.assertGreater(value, 0, selector)
        quantile = prometheus.value(
            'histogram_quantile(0.5, kmem_slab_request_size_bytes_bucket{allocator="kmalloc"})')
        self.assertTrue(0 < quantile < 1 << 22, quantile)
        self.assert_no_failure(prometheus)

    def test_prometheus_takes_openmetrics_and_knows_every_family(self):
        prometheus = self.start_prometheus(self.exporter)
        known = {entry["metric"]: (entry["type"], entry["help"])
                 for entry in prometheus.get("/api/v1/targets/metadata")}
        # OpenMetrics names a counter's family without _total, the older format with it.
        self.assertIn("kmem_tracepoint_events", known)
        types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", self.exporter.text(), re.MULTILINE))
        families = {name.removesuffix("_total") if kind == "counter" else name: kind
                    for name, kind in types.items()}
        self.assertEqual({name: kind for name, (kind, _) in known.items() if name in families},
                         families)
        self.assertEqual([name for name, (_, text) in known.items() if not text], [])

    def test_promtool_is_content(self):
        self.assert_promtool_content(self.exporter)


@unittest.skipIf(tracefs.why_unusable(), f"no live kernel: {tracefs.why_unusable()}")
class LiveTest(PrometheusTest):

    def setUp(self):
        super().setUp()
        self.exporter = self.start()

    def test_rates_rise_under_load(self):
        prometheus = self.start_prometheus(self.exporter)
        wanted = {"kmalloc", "kfree", "kmem_cache_alloc", "kmem_cache_free", "mm_page_alloc",
                  "mm_page_free"}

        def rates():
            load.mixed()
            found = prometheus.query("rate(kmem_tracepoint_events_total[20s]) > 0")
            return {dict(labels)["tracepoint"]: value for (_, labels), value in found.items()}
        harness.wait_until(lambda: wanted <= rates().keys(), 30, f"rates above 0 of {wanted}")
        print("\nevents per second:", {name: round(value) for name, value in rates().items()})
        lost = prometheus.value("sum(kmem_exporter_events_lost_total)")
        print("events lost:", lost)
        self.assert_no_failure(prometheus)

    def test_promtool_is_content(self):
        load.mixed()
        self.assert_promtool_content(self.exporter)
