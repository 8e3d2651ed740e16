"""What the chart renders, from its values; nothing here needs a cluster. Started by `run`."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import yaml

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
CHART = REPOSITORY / "helm/kmem-exporter"
HELM, HELM_DOCS, KUBECONFORM, SCHEMAS = (
    os.environ["KMEM_TEST_" + name] for name in ("HELM", "HELM_DOCS", "KUBECONFORM", "SCHEMAS"))
VALUE_SETS = sorted(path.stem for path in (HERE / "values").glob("*.yaml"))
KUBERNETES = ("1.25.0", "1.31.0", "1.37.0")  # the oldest that the chart takes, and the newest known


def run(*command, **options):
    return subprocess.run([str(word) for word in command], check=False, encoding="utf-8", timeout=60,
                          capture_output=True, **options)


def helm_template(*arguments, release="kmem"):
    return run(HELM, "template", release, CHART, "--namespace", "kernel", "--kube-version", KUBERNETES[-1],
               *arguments)


def values_of(name):
    return "--values", HERE / "values" / f"{name}.yaml"


class Rendered:
    """The objects that `helm template` makes."""

    def __init__(self, text):
        self.text = text
        self.objects = [document for document in yaml.safe_load_all(text) if document]

    def all(self, kind):
        return [item for item in self.objects if item["kind"] == kind]

    def one(self, kind, **labels):
        found = [item for item in self.all(kind)
                 if labels.items() <= item["metadata"].get("labels", {}).items()]
        if len(found) != 1:
            raise AssertionError(f"{len(found)} objects of kind {kind} with {labels}")
        return found[0]

    @property
    def pod(self):
        return self.one("DaemonSet")["spec"]["template"]["spec"]

    @property
    def container(self):
        return self.pod["containers"][0]

    @property
    def config(self):
        return yaml.safe_load(next(item for item in self.all("ConfigMap")
                                   if "kmem_exporter.yaml" in item["data"])["data"]["kmem_exporter.yaml"])

    def capabilities(self):
        return self.container["securityContext"]["capabilities"]

    def host_paths(self):
        return [volume["hostPath"]["path"] for volume in self.pod["volumes"] if "hostPath" in volume]


class ChartTest(unittest.TestCase):
    maxDiff = None

    def render(self, *arguments, **options):
        done = helm_template(*arguments, **options)
        self.assertEqual(done.returncode, 0, done.stderr)
        return Rendered(done.stdout)

    def set(self, *settings):
        return self.render(*(word for setting in settings for word in ("--set", setting)))


class EveryValueSet(ChartTest):

    def each(self):
        self.assertGreaterEqual(len(VALUE_SETS), 8)
        for name in VALUE_SETS:
            with self.subTest(values=name):
                yield name

    def test_lints_without_a_warning(self):
        for name in self.each():
            done = run(HELM, "lint", "--strict", CHART, *values_of(name))
            self.assertEqual((done.returncode, re.findall(r"\[(?:WARNING|ERROR)\].*", done.stdout)), (0, []),
                             done.stdout + done.stderr)

    def test_is_valid_for_the_oldest_and_the_newest_kubernetes(self):
        with tempfile.TemporaryDirectory() as directory:
            for name in self.each():
                text = self.render(*values_of(name)).text
                pathlib.Path(directory, f"{name}.yaml").write_text(text, encoding="utf-8")
            for version in KUBERNETES:
                with self.subTest(kubernetes=version):
                    self.assert_valid(directory, version)

    def assert_valid(self, path, version):
        done = run(KUBECONFORM, "-strict", "-summary", "-output", "json", "-kubernetes-version", version,
                   "-schema-location",
                   SCHEMAS + "/{{.NormalizedKubernetesVersion}}/{{.ResourceKind}}{{.KindSuffix}}.json",
                   "-schema-location", SCHEMAS + "/{{.ResourceKind}}{{.KindSuffix}}.json", path)
        answer = json.loads(done.stdout)
        self.assertEqual(answer["resources"], [], "what kubeconform refuses or does not know")
        self.assertGreater(answer["summary"]["valid"], 0)
        self.assertEqual(done.returncode, 0)

    def test_an_unknown_field_would_be_refused(self):
        """That the check above can fail: of Kubernetes' own and of the operator's resources."""
        for kind in ("DaemonSet", "ServiceMonitor", "PrometheusRule"):
            item = self.render(*values_of("operator")).one(kind)
            item["spec"]["unheardOf"] = 1
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                yaml.safe_dump(item, file)
                file.flush()
                with self.assertRaisesRegex(AssertionError, "unheardOf"):
                    self.assert_valid(file.name, KUBERNETES[-1])

    def test_every_object_has_the_labels_and_a_namespace(self):
        for name in self.each():
            for item in self.render(*values_of(name)).objects:
                metadata = item["metadata"]
                if metadata["name"].endswith("-test") or "-of-a-" in "-" + metadata["name"]:
                    continue  # the test's pod, which is not to be taken for an exporter, and extraManifests
                label = metadata["labels"]
                self.assertLessEqual({"helm.sh/chart", "app.kubernetes.io/name", "app.kubernetes.io/instance",
                                      "app.kubernetes.io/version", "app.kubernetes.io/component",
                                      "app.kubernetes.io/managed-by"}, label.keys())
                self.assertEqual("namespace" in metadata, not item["kind"].startswith("Cluster"))
                self.assertLessEqual(len(metadata["name"]), 76 if item["kind"].startswith("Cluster") else 63)

    def test_the_service_and_the_monitors_select_the_pods(self):
        for name in self.each():
            rendered = self.render(*values_of(name))
            daemonset = rendered.one("DaemonSet")
            labels = daemonset["spec"]["template"]["metadata"]["labels"].items()
            ports = {port["name"]: port["containerPort"] for container in rendered.pod["containers"]
                     for port in container.get("ports", [])}
            self.assertEqual(len(ports), 1)
            self.assertLessEqual(daemonset["spec"]["selector"]["matchLabels"].items(), labels)
            for probe in ("livenessProbe", "readinessProbe"):  # a name would be one of that container's own
                self.assertIn(rendered.container[probe]["httpGet"]["port"], ports.values())
            for service in rendered.all("Service"):
                self.assertLessEqual(service["spec"]["selector"].items(), labels)
                self.assertEqual([port["targetPort"] for port in service["spec"]["ports"]], list(ports))
            for monitor in rendered.all("ServiceMonitor"):
                self.assertLessEqual(monitor["spec"]["selector"]["matchLabels"].items(),
                                     rendered.one("Service")["metadata"]["labels"].items())
            for monitor in rendered.all("ServiceMonitor") + rendered.all("PodMonitor"):
                self.assertEqual(monitor["spec"]["namespaceSelector"]["matchNames"], ["kernel"])
                endpoint, = monitor["spec"].get("endpoints") or monitor["spec"]["podMetricsEndpoints"]
                self.assertIn(endpoint["port"], ports)
            for policy in rendered.all("NetworkPolicy"):
                self.assertLessEqual(policy["spec"]["podSelector"]["matchLabels"].items(), labels)
                self.assertEqual([rule["port"] for rule in policy["spec"]["ingress"][0]["ports"]], list(ports))

    def test_no_container_can_gain_privileges_or_write_its_root(self):
        for name in self.each():
            for container in self.render(*values_of(name)).pod["containers"]:
                context = container["securityContext"]
                self.assertIs(context["allowPrivilegeEscalation"], False)
                self.assertIs(context["readOnlyRootFilesystem"], True)
                self.assertEqual(context["capabilities"]["drop"], ["ALL"])
                self.assertNotIn("privileged", context)


class Privileges(ChartTest):

    def test_tracefs_has_no_capability_and_the_tracefs_mount(self):
        rendered = self.render(*values_of("tracefs"))
        self.assertEqual(rendered.capabilities(), {"drop": ["ALL"]})
        self.assertEqual(rendered.host_paths(), ["/sys/kernel/tracing"])
        mount = next(mount for mount in rendered.container["volumeMounts"] if mount["name"] == "tracefs")
        self.assertEqual(mount, {"name": "tracefs", "mountPath": "/tracing",
                                 "mountPropagation": "HostToContainer"})
        self.assertEqual(rendered.config["paths"]["tracefs"], "/tracing")

    def test_bpf_has_its_two_capabilities_and_nothing_of_the_host(self):
        rendered = self.render(*values_of("bpf"))
        self.assertEqual(rendered.capabilities(), {"drop": ["ALL"], "add": ["BPF", "PERFMON"]})
        self.assertEqual(rendered.host_paths(), [])

    def test_bpf_gets_tracefs_if_wanted(self):
        rendered = self.render(*values_of("bpf-with-tracefs"))
        self.assertEqual(rendered.capabilities()["add"], ["BPF", "PERFMON", "SYSLOG", "SYS_RESOURCE"])
        self.assertEqual(rendered.host_paths(), ["/sys/kernel/debug/tracing"])

    def test_the_default_can_do_either(self):
        rendered = self.render()
        self.assertEqual(rendered.capabilities()["add"], ["BPF", "PERFMON", "SYSLOG"])
        self.assertEqual(rendered.host_paths(), ["/sys/kernel/tracing"])
        self.assertEqual((rendered.config["engine"], rendered.config["on_tracing_failure"]), ("auto", "retry"))

    def test_names_of_call_sites_cost_one_capability(self):
        self.assertEqual(self.set("config.engine=tracefs").capabilities()["add"], ["SYSLOG"])
        self.assertEqual(self.set("symbols.enabled=false").capabilities()["add"], ["BPF", "PERFMON"])

    def test_each_capability_says_why(self):
        lines = self.render(*values_of("bpf-with-tracefs")).text.splitlines()
        for capability in ("BPF", "PERFMON", "SYSLOG"):
            line = next(number for number, text in enumerate(lines) if text.strip() == f"- {capability}")
            self.assertRegex(lines[line - 1], r"^ +# .{20}")

    def test_nothing_else_of_the_host_is_shared(self):
        pod = self.render().pod
        self.assertEqual({key: pod.get(key, False) for key in ("hostNetwork", "hostPID", "hostIPC")},
                         {"hostNetwork": False, "hostPID": False, "hostIPC": False})
        self.assertIs(pod["automountServiceAccountToken"], False)
        self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
        self.assertEqual(self.render().container["securityContext"]["seLinuxOptions"]["type"], "spc_t")

    def test_the_api_s_token_is_for_the_proxy_alone(self):
        rendered = self.render(*values_of("rbac-proxy"))
        exporter, proxy = rendered.pod["containers"]
        self.assertIs(rendered.pod["automountServiceAccountToken"], False)
        self.assertNotIn("token", [mount["name"] for mount in exporter["volumeMounts"]])
        self.assertIn("token", [mount["name"] for mount in proxy["volumeMounts"]])
        self.assertIn("--web.listen-address=127.0.0.1:15637", exporter["args"])
        rules = rendered.one("ClusterRole")["rules"]
        self.assertEqual([(rule["resources"], rule["verbs"]) for rule in rules],
                         [(["tokenreviews"], ["create"]), (["subjectaccessreviews"], ["create"])])
        subject, = rendered.one("ClusterRoleBinding")["subjects"]
        self.assertEqual((subject["name"], subject["namespace"]), (rendered.pod["serviceAccountName"], "kernel"))


class Scheduling(ChartTest):

    def test_every_node_has_a_pod_whatever_its_taints(self):
        pod = self.render().pod
        self.assertEqual(pod["tolerations"], [{"operator": "Exists"}])
        self.assertEqual(pod["nodeSelector"], {"kubernetes.io/os": "linux"})  # any architecture

    def test_no_cpu_limit_since_throttling_loses_events(self):
        self.assertEqual(list(self.render().container["resources"]["limits"]), ["memory"])

    def test_an_update_takes_as_many_steps_in_a_big_cluster_as_in_a_small_one(self):
        self.assertEqual(self.render().one("DaemonSet")["spec"]["updateStrategy"],
                         {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}})

    def test_a_changed_configuration_changes_the_pods_and_nothing_else_does(self):
        def pod(*settings):
            return self.set(*settings).one("DaemonSet")["spec"]["template"]
        self.assertNotEqual(pod(), pod("config.log.level=debug"))
        self.assertEqual(pod(), pod("service.port=80", "prometheusRules.enabled=true", "dashboards.enabled=true"))


class Configuration(ChartTest):

    def test_is_what_the_values_say(self):
        config = self.render(*values_of("everything")).config
        self.assertEqual(config["collectors"]["slab"]["callsites"], {"enabled": True, "max_series": 20})
        self.assertEqual(config["overhead"], {"budget_percent": 0.5})

    def test_big_numbers_stay_whole(self):
        """The exporter takes digits only; Go would write 1.6777216e+07."""
        text = self.render(*values_of("bpf-with-tracefs")).text
        self.assertIn("buffer_total_max_kb: 16777216\n", text)
        self.assertIn("sampleLimit: 2000000\n",
                      self.set("prometheus.monitor.enabled=true", "prometheus.monitor.sampleLimit=2000000").text)

    def test_the_port_is_the_same_everywhere(self):
        rendered = self.render(*values_of("annotations"))
        self.assertIn("--web.listen-address=:9999", rendered.container["args"])
        self.assertEqual(rendered.container["ports"], [{"name": "http", "containerPort": 9999}])
        port, = rendered.one("Service")["spec"]["ports"]
        self.assertEqual((port["port"], port["targetPort"], port["nodePort"]), (80, "http", 30080))
        annotations = rendered.one("DaemonSet")["spec"]["template"]["metadata"]["annotations"]
        self.assertEqual({key: value for key, value in annotations.items() if key.startswith("prometheus.io/")},
                         {"prometheus.io/scrape": "true", "prometheus.io/port": "9999",
                          "prometheus.io/path": "/kmem/metrics", "prometheus.io/scheme": "http"})

    def test_image_by_tag_digest_and_registry(self):
        version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
        self.assertEqual(self.render().container["image"], f"ghcr.io/kmem-exporter/kmem_exporter:{version}")
        self.assertEqual(self.render(*values_of("everything")).container["image"], "mirror/kmem_exporter:v9")
        digest = "sha256:" + "0123456789abcdef" * 4
        self.assertEqual(self.set(f"image.digest={digest}", "image.tag=v9").container["image"],
                         f"ghcr.io/kmem-exporter/kmem_exporter@{digest}")

    def test_chart_and_program_have_one_version(self):
        version = (REPOSITORY / "VERSION").read_text(encoding="utf-8").strip()
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
        self.assertEqual((chart["version"], chart["appVersion"]), (version, version))

    def test_the_schema_knows_every_key_of_the_program(self):
        """A key that deploy/kmem_exporter.yaml has and the schema lacks could not be set by the chart."""
        config = yaml.safe_load((REPOSITORY / "deploy/kmem_exporter.yaml").read_text())
        del config["web"]["listen_addresses"]  # the chart's own
        config["paths"]["tracefs"] = "/tracing"
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump({"config": config}, file)
            file.flush()
            self.assertEqual(self.render("--values", file.name).config, config)


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


class WrongValues(ChartTest):

    def test_are_refused_with_a_line_that_says_what_and_where(self):
        for settings, expected in (
                ("confg.engine=bpf", "additional properties 'confg' not allowed"),
                ("config.engin=bpf", "at '/config': additional properties 'engin' not allowed"),
                ("config.engine=ebpf", "at '/config/engine': value must be one of 'auto', 'tracefs', 'bpf'"),
                ("config.engine=null", "at '/config': missing property 'engine'"),
                ("config.web.max_requests=0", "at '/config/web/max_requests': minimum: got 0, want 1"),
                ("config.web.max_request=1", "at '/config/web': additional properties 'max_request' not allowed"),
                ("config.log.level=loud", "at '/config/log/level': value must be one of"),
                ("config.tracefs.buffer_size_kb=1MB", "at '/config/tracefs/buffer_size_kb': got string, want integer"),
                ("config.tracefs.subbuffer_size_kb=65", "at '/config/tracefs/subbuffer_size_kb': value must be one of"),
                ("config.collectors.slabs.enabled=false",
                 "at '/config/collectors': additional properties 'slabs' not allowed"),
                ("config.collectors.slab.enabled=yes",
                 "at '/config/collectors/slab/enabled': got string, want boolean"),
                ("config.collectors.slab.caches.max_series=0",
                 "at '/config/collectors/slab/caches/max_series': minimum: got 0, want 1"),
                ("config.paths.tracefs=/sys/kernel/tracing", "at '/config/paths/tracefs'"),
                ("config.web.listen_addresses={:80}",
                 "config.web.listen_addresses: set containerPort instead, by which the probes"),
                ("config.engine=tracefs,hostTracefs.mount=never",
                 "hostTracefs.mount: \"never\" leaves the engine \"tracefs\" nothing to trace with"),
                ("containerPort=http", "at '/containerPort': got string, want integer"),
                ("containerPort=65536", "at '/containerPort': maximum: got 65,536, want 65,535"),
                ("hostTracefs.mount=yes", "at '/hostTracefs/mount': value must be one of"),
                ("image.digest=latest", "at '/image/digest': 'latest' does not match pattern"),
                ("image.pullPolicy=Sometimes", "at '/image/pullPolicy': value must be one of"),
                ("tolerations=all", "at '/tolerations': got string, want array"),
                ("securityContext.capabilities.add={CAP_SYS_ADMIN}", "at '/securityContext/capabilities/add/0'"),
                ("updateStrategy.rollingUpdate.maxSurge=1",
                 "at '/updateStrategy/rollingUpdate': additional properties 'maxSurge' not allowed"),
                ("updateStrategy.rollingUpdate.maxUnavailable=0", "at '/updateStrategy/rollingUpdate/maxUnavailable'"),
                ("prometheus.monitor.interval=30", "at '/prometheus/monitor/interval': got number, want string"),
                ("prometheus.monitor.enabled=true,prometheus.podMonitor.enabled=true",
                 "prometheus: monitor and podMonitor are both enabled"),
                ("prometheus.monitor.enabled=true,service.enabled=false",
                 "prometheus.monitor.enabled: a ServiceMonitor needs the Service"),
                ("prometheusRules.enabled=true,prometheusRules.rules.KmemNothing.enabled=false",
                 "prometheusRules.rules.KmemNothing: there is no such alert; there are "),
                ("kubeRBACProxy.enabled=true,kubeRBACProxy.upstreamPort=15636",
                 "kubeRBACProxy.upstreamPort: is the same as containerPort"),
        ):
            with self.subTest(values=settings):
                done = helm_template("--set", settings)
                self.assertNotEqual(done.returncode, 0)
                self.assertEqual(done.stdout, "")
                self.assertIn(expected, done.stderr)

    def test_an_older_kubernetes_is_refused(self):
        done = run(HELM, "template", CHART, "--kube-version", "1.24.0")
        self.assertIn("requires kubeVersion: >=1.25.0-0", done.stderr)


class Documents(ChartTest):

    def test_the_chart_s_readme_is_current(self):
        with tempfile.TemporaryDirectory() as directory:
            done = run(HELM_DOCS, "--chart-search-root", CHART, "--dry-run", "--log-level", "warning",
                       cwd=directory)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(done.stdout.strip(), (CHART / "README.md").read_text().strip(),
                             "run deploy/render")

    def test_every_value_is_described_and_in_the_schema(self):
        readme = (CHART / "README.md").read_text()
        self.assertEqual(re.findall(r"^\| (\S+) \|.*\|  \|$", readme, re.MULTILINE), [])
        schema = json.loads((CHART / "values.schema.json").read_text())
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        self.assertEqual(set(schema["properties"]) - {"global"}, set(values))

    def test_the_plain_manifests_are_current(self):
        for name in ("kmem-exporter.yaml", "monitoring.yaml"):
            done = run(REPOSITORY / "deploy/render", "--print", name)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(done.stdout, (REPOSITORY / "deploy/kubernetes" / name).read_text(),
                             "run deploy/render")

    def test_the_notes_name_the_fixes(self):
        with tempfile.TemporaryDirectory() as directory:  # helm shows notes only of what it installs
            chart = pathlib.Path(shutil.copytree(CHART, pathlib.Path(directory, "chart")))
            (chart / "templates/NOTES.txt").rename(chart / "notes")
            (chart / "templates/notes.yaml").write_text(
                'kind: Notes\nmetadata: {}\ntext: {{ tpl (.Files.Get "notes") . | toJson }}\n')
            for name in VALUE_SETS:
                with self.subTest(values=name):
                    done = run(HELM, "template", "kmem", chart, "--namespace", "kernel", "--kube-version",
                               KUBERNETES[-1], *values_of(name))
                    self.assertEqual(done.returncode, 0, done.stderr)
                    self.assert_notes(name, Rendered(done.stdout).one("Notes")["text"])

    def assert_notes(self, name, notes):
        self.assertIn("pod-security.kubernetes.io/enforce=privileged", notes)
        self.assertIn("mount tracefs on the node (/sys/kernel/", notes)
        self.assertEqual("WARNING: there is a CPU limit" in notes, name == "everything")
        self.assertEqual("WARNING: with config.on_tracing_failure" in notes, name == "everything")
        self.assertEqual("Nothing tells Prometheus of these pods yet" in notes,
                         name in ("defaults", "tracefs", "bpf", "bpf-with-tracefs", "everything"))


if __name__ == "__main__":
    unittest.main()
