"""What the chart renders for Prometheus and Grafana. Started by `run`."""
import json
import pathlib
import tempfile

import yaml

from chart import CHART, HELM, KUBERNETES, REPOSITORY, ChartTest, Rendered, run, values_of


class Monitoring(ChartTest):
    NODE_AS_INSTANCE = {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "instance"}

    def test_a_restarted_pod_makes_no_new_series(self):
        monitor = self.render(*values_of("operator")).one("ServiceMonitor")
        endpoint, = monitor["spec"]["endpoints"]
        self.assertEqual(endpoint["relabelings"][0], self.NODE_AS_INSTANCE)
        self.assertEqual(len(endpoint["relabelings"]), 2)
        endpoint, = self.set("prometheus.podMonitor.enabled=true").one("PodMonitor")["spec"]["podMetricsEndpoints"]
        self.assertEqual(endpoint["relabelings"], [self.NODE_AS_INSTANCE])

    def test_with_the_proxy_prometheus_shows_its_token(self):
        endpoint, = self.render(*values_of("rbac-proxy")).one("ServiceMonitor")["spec"]["endpoints"]
        self.assertEqual((endpoint["scheme"], endpoint["port"]), ("https", "https"))
        self.assertIn("bearerTokenFile", endpoint)

    def sources(self):
        for path in ("kmem-rules", "kmem-alerts"):
            yield from yaml.safe_load((REPOSITORY / f"deploy/prometheus/{path}.yaml").read_text())["groups"]

    def test_the_rules_are_those_of_deploy_prometheus(self):
        self.assertEqual(self.set("prometheusRules.enabled=true").one("PrometheusRule")["spec"]["groups"],
                         list(self.sources()))

    def test_an_alert_can_be_left_out(self):
        names = [rule["alert"] for group in self.sources() for rule in group["rules"] if "alert" in rule]
        self.assertGreater(len(names), 1)
        for name in names:
            rendered = self.set("prometheusRules.enabled=true", f"prometheusRules.rules.{name}.enabled=false")
            left = [rule["alert"] for group in rendered.one("PrometheusRule")["spec"]["groups"]
                    for rule in group["rules"] if "alert" in rule]
            self.assertEqual(left, [other for other in names if other != name])

    def test_the_dashboards_are_those_of_deploy_grafana(self):
        rendered = self.render(*values_of("operator"))
        found = {}
        for item in rendered.all("ConfigMap"):
            if item["metadata"]["labels"].get("grafana_dashboard") == "1":
                self.assertEqual(item["metadata"]["namespace"], "monitoring")
                found.update(item["data"])
        sources = {path.name: path.read_text() for path in (REPOSITORY / "deploy/grafana").glob("*.json")}
        self.assertEqual({name: json.loads(text) for name, text in found.items()},
                         {name: json.loads(text) for name, text in sources.items()})

    def test_the_package_holds_what_the_links_point_to(self):
        with tempfile.TemporaryDirectory() as directory:
            done = run(HELM, "package", CHART, "--destination", directory)
            self.assertEqual(done.returncode, 0, done.stderr)
            package, = pathlib.Path(directory).iterdir()
            done = run(HELM, "template", "kmem", package, *values_of("operator"), "--namespace", "kernel",
                       "--kube-version", KUBERNETES[-1])
            self.assertEqual(Rendered(done.stdout).objects, self.render(*values_of("operator")).objects)
