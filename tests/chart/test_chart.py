"""What the chart renders. Started by `run`."""
import json
import pathlib
import re
import tempfile

import yaml

from chart import (CHART, HELM, KUBECONFORM, KUBERNETES, REPOSITORY, SCHEMAS, VALUE_SETS, ChartTest, run,
                   values_of)


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
        volume = next(volume for volume in rendered.pod["volumes"] if volume["name"] == "tracefs")
        self.assertEqual(volume["hostPath"]["type"], "Directory")  # nothing is made where it is missing

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
        self.assertEqual(pod["nodeSelector"], {"kubernetes.io/os": "linux"})

    def test_nodes_that_the_image_is_not_for_are_left_out(self):
        required = self.render().pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        term, = required["nodeSelectorTerms"]  # all of them at once
        self.assertEqual({rule["key"]: (rule["operator"], rule["values"]) for rule in term["matchExpressions"]},
                         {"kubernetes.io/arch": ("In", ["amd64", "arm64"]),
                          "eks.amazonaws.com/compute-type": ("NotIn", ["fargate"]),
                          "type": ("NotIn", ["virtual-kubelet"])})
        workflow = (REPOSITORY / ".github/workflows/release.yaml").read_text(encoding="utf-8")
        for architecture in ("amd64", "arm64"):
            self.assertIn(f"{{arch: {architecture}, ", workflow)

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
