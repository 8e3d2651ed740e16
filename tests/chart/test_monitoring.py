"""What the chart renders for Prometheus and Grafana. Started by `run`."""
import json
import pathlib
import tempfile

import yaml

import operator_jobs
from chart import CHART, HELM, KUBERNETES, PROMTOOL, REPOSITORY, ChartTest, Rendered, run, values_of

VERSION = (REPOSITORY / "VERSION").read_text(encoding="utf-8").strip()


class Monitoring(ChartTest):

    def meta_labels(self, rendered, pod):
        """What Prometheus discovers of a pod on node-1, and would offer to relabelings."""
        template = rendered.one("DaemonSet")["spec"]["template"]["metadata"]
        container, = [container for container in rendered.pod["containers"] if "ports" in container]
        port, = container["ports"]
        found = {"__address__": f"10.0.0.{pod}:{port['containerPort']}",
                 "__meta_kubernetes_namespace": "kernel",
                 "__meta_kubernetes_service_name": "kmem-kmem-exporter",
                 "__meta_kubernetes_endpointslice_port_name": port["name"],
                 "__meta_kubernetes_endpointslice_address_target_kind": "Pod",
                 "__meta_kubernetes_endpointslice_address_target_name": f"kmem-kmem-exporter-{pod}",
                 "__meta_kubernetes_pod_name": f"kmem-kmem-exporter-{pod}",
                 "__meta_kubernetes_pod_uid": f"uid-{pod}",
                 "__meta_kubernetes_pod_ip": f"10.0.0.{pod}",
                 "__meta_kubernetes_pod_node_name": "node-1",
                 "__meta_kubernetes_pod_phase": "Running",
                 "__meta_kubernetes_pod_container_name": container["name"],
                 "__meta_kubernetes_pod_container_port_name": port["name"]}
        for of, item in (("pod", template), *(("service", one["metadata"]) for one in rendered.all("Service"))):
            for name, value in item["labels"].items():
                found[f"__meta_kubernetes_{of}_label_{operator_jobs.sanitized(name)}"] = value
                found[f"__meta_kubernetes_{of}_labelpresent_{operator_jobs.sanitized(name)}"] = "true"
        return found

    def labels(self, rendered, kind):
        """The labels of every series of two pods that follow each other, as Prometheus itself relabels them."""
        job = operator_jobs.job(rendered.one(kind))
        job["static_configs"] = [{"targets": [meta.pop("__address__")], "labels": meta}
                                 for meta in (self.meta_labels(rendered, pod) for pod in (1, 2))]
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump({"scrape_configs": [job]}, file)
            file.flush()
            done = run(PROMTOOL, "check", "service-discovery", "--timeout=2s", file.name, kind)
            self.assertEqual(done.returncode, 0, done.stderr)
        return [{name: value for name, value in target["labels"].items() if not name.startswith("__")}
                for target in json.loads(done.stdout)]

    def test_a_restarted_pod_makes_no_new_series(self):
        for kind, rendered, more in (
                ("ServiceMonitor", self.render(*values_of("operator")),
                 {"service": "kmem-kmem-exporter", "node": "node-1", "app_kubernetes_io_version": VERSION}),
                ("ServiceMonitor", self.render(*values_of("rbac-proxy")),
                 {"service": "kmem-kmem-exporter", "container": "kube-rbac-proxy", "endpoint": "https"}),
                ("PodMonitor", self.set("prometheus.podMonitor.enabled=true"), {}),
        ):
            with self.subTest(kind, more=more):
                first, second = self.labels(rendered, kind)
                self.assertEqual(first, {"job": "kmem-exporter", "instance": "node-1", "namespace": "kernel",
                                         "container": "exporter", "endpoint": "http"} | more)
                self.assertEqual(first, second)

    def test_without_nodes_as_instances_it_makes_new_ones(self):
        """That the check above can fail."""
        first, second = self.labels(self.render(*values_of("pod-monitor")), "PodMonitor")
        self.assertEqual({name for name in first if first[name] != second[name]}, {"instance", "pod"})

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
