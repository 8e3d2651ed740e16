"""Every value of the sets ends up in the objects that it is for. Started by `run`."""
from chart import ChartTest, values_of

FULL = "kernel-memory-of-the-nodes-with-a-name-of-52-letters"
OURS = {"app.kubernetes.io/name": "kmem-exporter", "app.kubernetes.io/instance": "kmem"}


def labels(item):
    return item["metadata"]["labels"]


class WithTheOperator(ChartTest):

    def setUp(self):
        self.rendered = self.render(*values_of("operator"))

    def test_the_service_monitor(self):
        monitor = self.rendered.one("ServiceMonitor")
        self.assertEqual(monitor["metadata"]["namespace"], "monitoring")
        self.assertLessEqual({"release": "prometheus", "team": "kernel"}.items(), labels(monitor).items())
        endpoint, = monitor["spec"].pop("endpoints")
        self.assertEqual(monitor["spec"], {
            "jobLabel": "app.kubernetes.io/name", "selector": {"matchLabels": OURS},
            "namespaceSelector": {"matchNames": ["kernel"]},
            "podTargetLabels": ["app.kubernetes.io/version"], "sampleLimit": 5000})
        self.assertEqual(endpoint, {
            "port": "http", "path": "/metrics", "interval": "30s", "scrapeTimeout": "10s",
            "relabelings": [{"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "instance"},
                            {"action": "labeldrop", "regex": "pod"},
                            {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}],
            "metricRelabelings": [{"action": "drop", "sourceLabels": ["__name__"],
                                   "regex": "kmem_exporter_cpu_.*"}]})

    def test_the_rules_and_the_dashboards(self):
        rule = self.rendered.one("PrometheusRule")
        self.assertEqual((rule["metadata"]["namespace"], labels(rule)["release"]), ("monitoring", "prometheus"))
        dashboards = [item for item in self.rendered.all("ConfigMap") if "grafana_dashboard" in labels(item)]
        self.assertEqual({item["metadata"]["name"] for item in dashboards},
                         {f"kmem-kmem-exporter-{name}" for name in ("cluster", "node", "exporter")})
        for item in dashboards:
            self.assertEqual(labels(item)["shard"], "a")
            self.assertEqual(item["metadata"]["annotations"], {"grafana_folder": "Kernel"})

    def test_the_network_policy_lets_in_who_may_scrape_and_nothing_out(self):
        self.assertEqual(self.rendered.one("NetworkPolicy")["spec"], {
            "podSelector": {"matchLabels": OURS}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"ports": [{"port": "http"}], "from": [{"namespaceSelector": {
                "matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]}]})


class WithTheProxy(ChartTest):

    def test_it_stands_before_the_exporter(self):
        rendered = self.render(*values_of("rbac-proxy"))
        exporter, proxy = rendered.pod["containers"]
        self.assertEqual(proxy["args"], [
            "--secure-listen-address=:15636", "--upstream=http://127.0.0.1:15637/",
            "--ignore-paths=/-/healthy,/-/ready", "--tls-cert-file=/etc/tls/tls.crt",
            "--tls-private-key-file=/etc/tls/tls.key", "--v=2"])
        self.assertEqual(proxy["image"], "quay.io/brancz/kube-rbac-proxy@sha256:" + "0123456789abcdef" * 4)
        self.assertEqual((proxy["ports"], exporter.get("ports")),
                         ([{"name": "https", "containerPort": 15636}], None))
        self.assertEqual((proxy["securityContext"]["runAsUser"], proxy["securityContext"]["runAsNonRoot"]),
                         (65532, True))
        self.assertEqual(list(proxy["resources"]["limits"]), ["memory"])
        self.assertEqual({volume["name"]: volume["secret"]["secretName"] for volume in rendered.pod["volumes"]
                          if "secret" in volume}, {"tls": "kmem-exporter-tls"})
        for probe, path in (("livenessProbe", "/-/healthy"), ("readinessProbe", "/-/ready")):
            self.assertEqual(exporter[probe]["httpGet"], {"path": path, "port": 15636, "scheme": "HTTPS"})

    def test_it_may_ask_the_api_and_anybody_may_ask_it(self):
        policy = self.render(*values_of("rbac-proxy")).one("NetworkPolicy")["spec"]
        self.assertEqual((policy["policyTypes"], policy["ingress"]), (["Ingress"], [{"ports": [{"port": "https"}]}]))

    def test_a_pod_monitor_brings_token_and_certificate_and_rights_can_be_had_elsewhere(self):
        rendered = self.render(*values_of("rbac-proxy-pod-monitor"))
        endpoint, = rendered.one("PodMonitor")["spec"]["podMetricsEndpoints"]
        self.assertEqual((endpoint["scheme"], endpoint["port"]), ("https", "https"))
        self.assertEqual(endpoint["tlsConfig"], {"serverName": "kmem-exporter",
                                                 "ca": {"secret": {"name": "tls", "key": "ca.crt"}}})
        self.assertEqual(endpoint["authorization"], {"credentials": {"name": "prometheus-token", "key": "token"}})
        self.assertEqual([rendered.all(kind) for kind in ("ClusterRole", "ClusterRoleBinding", "Service")], [[], [], []])

    def test_without_a_certificate_the_monitor_does_not_verify_it(self):
        endpoint, = self.render(*values_of("rbac-proxy")).one("ServiceMonitor")["spec"]["endpoints"]
        self.assertEqual(endpoint["tlsConfig"], {"insecureSkipVerify": True})


class WithEverything(ChartTest):

    def setUp(self):
        self.rendered = self.render(*values_of("everything"))

    def test_the_pods(self):
        daemonset, pod = self.rendered.one("DaemonSet"), self.rendered.pod
        template = daemonset["spec"]["template"]["metadata"]
        self.assertEqual(daemonset["metadata"]["annotations"], {"a": "b"})
        self.assertEqual((template["annotations"]["c"], template["labels"]["e"]), ("d", "f"))
        self.assertEqual(daemonset["spec"]["updateStrategy"], {"type": "OnDelete"})
        self.assertEqual({key: pod.get(key) for key in (
            "imagePullSecrets", "serviceAccountName", "hostNetwork", "dnsPolicy", "priorityClassName", "nodeSelector",
            "tolerations", "affinity")}, {
                "imagePullSecrets": [{"name": "pull"}], "serviceAccountName": "somebody", "hostNetwork": True,
                "dnsPolicy": "ClusterFirstWithHostNet", "priorityClassName": "system-node-critical",
                "nodeSelector": {"kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64"},
                "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
                "affinity": None})

    def test_the_container(self):
        container = self.rendered.container
        self.assertEqual(container["imagePullPolicy"], "Always")
        self.assertEqual(container["args"][-1], "--no-collector.slab")
        self.assertEqual(container["env"], [{"name": "TZ", "value": "UTC"}])
        self.assertEqual(container["resources"], {"requests": {"cpu": 1, "memory": "1Gi"},
                                                  "limits": {"cpu": 2, "memory": "1Gi"}})
        self.assertIn({"name": "traces", "mountPath": "/var/traces", "readOnly": True}, container["volumeMounts"])
        self.assertIn({"name": "traces", "hostPath": {"path": "/var/traces"}}, self.rendered.pod["volumes"])

    def test_names_and_labels(self):
        for item in self.rendered.objects:
            if "-of-a-" not in "-" + item["metadata"]["name"] and not item["metadata"]["name"].endswith("-test"):
                self.assertEqual((labels(item)["team"], labels(item)["app.kubernetes.io/name"]),
                                 ("kernel", "kernel-memory"))
        for kind in ("DaemonSet", "Service", "VerticalPodAutoscaler"):
            self.assertEqual(self.rendered.one(kind)["metadata"]["name"], FULL)
        self.assertEqual(self.rendered.one("ServiceAccount")["metadata"]["annotations"], {"iam": "none"})
        self.assertIs(self.rendered.one("ServiceAccount")["automountServiceAccountToken"], False)

    def test_the_service(self):
        service = self.rendered.one("Service")["spec"]
        self.assertEqual({key: service[key] for key in ("type", "clusterIP", "ipFamilyPolicy", "ipFamilies")},
                         {"type": "ClusterIP", "clusterIP": "None", "ipFamilyPolicy": "SingleStack",
                          "ipFamilies": ["IPv4"]})
        annotations = self.render(*values_of("annotations")).one("Service")
        self.assertEqual((annotations["metadata"]["annotations"], labels(annotations)["c"],
                          annotations["spec"]["type"], annotations["spec"]["internalTrafficPolicy"]),
                         ({"a": "b"}, "d", "NodePort", "Local"))

    def test_the_autoscaler_leaves_the_cpu_without_a_limit(self):
        spec = self.rendered.one("VerticalPodAutoscaler")["spec"]
        self.assertEqual(spec, {
            "targetRef": {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": FULL},
            "recommenders": [{"name": "another"}], "updatePolicy": {"updateMode": "Initial"},
            "resourcePolicy": {"containerPolicies": [{
                "containerName": "exporter", "controlledResources": ["cpu", "memory"],
                "controlledValues": "RequestsAndLimits", "minAllowed": {"memory": "32Mi"},
                "maxAllowed": {"memory": "1Gi"}}]}})

    def test_further_manifests_are_templates(self):
        found = {item["metadata"]["name"]: item for item in self.rendered.all("ConfigMap")}
        self.assertEqual(found["of-a-map"]["data"], {"release": "kmem"})
        self.assertIn("kmem-of-a-text", found)


class WithLittle(ChartTest):

    def test_the_defaults_of_the_pods(self):
        daemonset = self.render().one("DaemonSet")["spec"]
        pod = daemonset["template"]["spec"]
        self.assertEqual((daemonset["revisionHistoryLimit"], pod["terminationGracePeriodSeconds"], pod["dnsPolicy"],
                          pod["serviceAccountName"]), (10, 15, "Default", "kmem-kmem-exporter"))
        container, = pod["containers"]
        self.assertEqual(container["livenessProbe"], {
            "httpGet": {"path": "/-/healthy", "port": 15636}, "periodSeconds": 15, "timeoutSeconds": 5,
            "failureThreshold": 4})
        self.assertEqual(container["readinessProbe"], {
            "httpGet": {"path": "/-/ready", "port": 15636}, "periodSeconds": 5, "timeoutSeconds": 5,
            "failureThreshold": 3})
        self.assertEqual(daemonset["template"]["metadata"]["annotations"].get(
            "cluster-autoscaler.kubernetes.io/safe-to-evict"), "true")

    def test_objects_that_are_not_wanted_are_not_there(self):
        def kinds(rendered):
            return sorted(item["kind"] for item in rendered.objects)
        self.assertEqual(kinds(self.render()), ["ConfigMap", "DaemonSet", "Pod", "Service", "ServiceAccount"])
        self.assertEqual(kinds(self.set("service.enabled=false", "serviceAccount.create=false")),
                         ["ConfigMap", "DaemonSet"])
        self.assertEqual(self.set("serviceAccount.create=false").pod["serviceAccountName"], "default")

    def test_a_pod_monitor_without_nodes_as_instances(self):
        monitor = self.render(*values_of("pod-monitor")).one("PodMonitor")
        self.assertEqual(labels(monitor)["release"], "prometheus")
        self.assertEqual(monitor["metadata"]["namespace"], "kernel")
        self.assertEqual(monitor["spec"], {
            "jobLabel": "app.kubernetes.io/name", "selector": {"matchLabels": OURS}, "sampleLimit": 3000,
            "namespaceSelector": {"matchNames": ["kernel"]},
            "podMetricsEndpoints": [{"port": "http", "path": "/metrics"}]})
