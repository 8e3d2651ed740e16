"""The running program over HTTP."""
import gzip
import socket
import statistics
import time

from harness import TIME_SCALE, Metrics, TracingTest

OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


class Http(TracingTest):
    def test_a_scrape_beside_50_idle_connections_takes_less_than_100_ms(self):
        exporter = self.start()
        host, port = exporter.address.split(":")
        idle = [socket.create_connection((host, int(port))) for _ in range(50)]
        try:
            # Half of them half-open: a request that never ends.
            for each in idle[::2]:
                each.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
            seconds = []
            for _ in range(5):
                begin = time.monotonic()
                exporter.scrape()
                seconds.append(time.monotonic() - begin)
        finally:
            for each in idle:
                each.close()
        self.assertLess(statistics.median(seconds), 0.1 * TIME_SCALE)

    def test_text_is_the_default_and_names_its_version(self):
        response = self.start().request()
        self.assertIn("text/plain; version=0.0.4", response.getheader("Content-Type"))
        self.assertTrue(response.body.endswith(b"\n"))
        self.assertNotIn(b"# EOF", response.body)

    def test_openmetrics_is_given_on_demand_and_ends_with_eof(self):
        response = self.start().request(headers=OPENMETRICS)
        self.assertIn("application/openmetrics-text; version=1.0.0",
                      response.getheader("Content-Type"))
        self.assertTrue(response.body.endswith(b"\n# EOF\n"))

    def test_gzip_is_given_on_demand(self):
        exporter = self.start()
        response = exporter.request(headers={"Accept-Encoding": "gzip"})
        self.assertEqual(response.getheader("Content-Encoding"), "gzip")
        self.assertIn("kmem_tracepoint_events_total", Metrics(gzip.decompress(
            response.body).decode()))
        self.assertIsNone(exporter.request().getheader("Content-Encoding"))

    def test_head_gives_the_head_alone(self):
        exporter = self.start()
        for path in ("/metrics", "/", "/-/healthy", "/-/ready"):
            response = exporter.request(path, "HEAD")
            self.assertEqual((response.status, response.body), (200, b""), path)
            self.assertGreater(int(response.getheader("Content-Length")), 0)

    def test_other_methods_are_not_allowed(self):
        exporter = self.start()
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            response = exporter.request(method=method)
            self.assertEqual((response.status, response.getheader("Allow")), (405, "GET, HEAD"),
                             method)
        self.assertEqual(exporter.scrape().get("kmem_exporter_http_requests_total", code="405"), 5)

    def test_other_paths_are_not_found(self):
        exporter = self.start()
        for path in ("/metricsx", "/-/", "/../etc/passwd", "/%2e%2e/etc/passwd"):
            self.assertEqual(exporter.request(path).status, 404, path)

    def test_the_landing_page_names_collectors_and_tracepoints(self):
        page = self.start().request("/").body.decode()
        for text in ("kmem_exporter", '"/metrics"', "slab: tracing", "mm_page_alloc: in use",
                     "fragmentation: from /proc"):
            self.assertIn(text, page)

    def test_another_telemetry_path_is_served(self):
        exporter = self.start("--web.telemetry-path=/else/where")
        self.assertEqual(exporter.request("/else/where").status, 200)
        self.assertEqual(exporter.request("/metrics").status, 404)

    def test_every_family_has_help_and_type_before_its_samples(self):
        text = self.start().text()
        known = {}
        for line in text.splitlines():
            words = line.split(" ", 3)
            if words[0] == "#":
                known.setdefault(words[2], []).append(words[1])
        for name, kinds in known.items():
            self.assertEqual(kinds, ["HELP", "TYPE"], name)
        for name in Metrics(text).samples:
            family = name
            for suffix in ("_bucket", "_sum", "_count"):
                if name not in known:
                    family = name.removesuffix(suffix) if name.endswith(suffix) else family
            self.assertIn(family, known)
