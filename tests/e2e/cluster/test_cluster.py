"""The chart in a real Kubernetes. Started by `run`."""
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import unittest
import urllib.parse

import yaml

import cluster
import load
import operator_jobs
from prometheus import free_port
from cluster import INSTANCE, ON_NODE, REPOSITORY, TRACEFS, kubectl, needs_node, render, run, wait_until

PROMETHEUS = os.environ["KMEM_TEST_PROMETHEUS"]
CRDS = pathlib.Path(os.environ["KMEM_TEST_CRDS"])
CAPABILITIES = {"BPF": 39, "PERFMON": 38, "SYSLOG": 34}
EARLY = cluster.Release("early")


def setUpModule():
    if not cluster.NODE:
        return
    # A node without tracefs, which gets one later: the exporter looks once a minute. Meanwhile the other tests
    # run; test_tracefs_that_is_mounted_later is the last.
    unittest.addModuleCleanup(EARLY.uninstall)
    while run("mountpoint", "-q", TRACEFS, check=False).returncode == 0:  # the machine has it: not this node
        run("umount", TRACEFS)
    EARLY.roll_out({"config.engine": "tracefs", "config.tracefs.instance": f"{INSTANCE}_early"})
    EARLY.without = EARLY.tracing(), EARLY.ready(), EARLY.log(), EARLY.metrics()
    run("mount", "-t", "tracefs", "nodev", TRACEFS)


def load_tests(loader, _, __):
    return unittest.TestSuite(loader.loadTestsFromTestCase(case) for case in (
        Lifecycle, Engines, Failures, NoPath, PodSecurity, Manifests, Discovery, Proxy, Early))


class ReleaseTest(unittest.TestCase):
    """One release for all tests of a class, each of which leaves it running with the settings below."""
    maxDiff = None
    settings = {}

    @classmethod
    def setUpClass(cls):
        cls.release = cluster.Release(re.sub(r"(?<=[a-z])(?=[A-Z])", "-", cls.__name__).lower())
        cls.addClassCleanup(cls.release.uninstall)
        cls.release.roll_out(cls.settings)

    def reset(self):
        self.addCleanup(self.release.roll_out, self.settings)


class Lifecycle(ReleaseTest):

    def test_the_service_shows_this_node_s_events(self):
        def events():
            found = self.release.metrics()
            return {name: cluster.value(found, "kmem_tracepoint_events_total", tracepoint=name)
                    for name in ("kmalloc", "kfree", "kmem_cache_alloc", "mm_page_alloc", "mm_page_free")}
        self.assertEqual(wait_until(self.release.tracing, 30, "the Service leads to the pod"), (1, ""))
        before = events()
        load.mixed()
        after = wait_until(lambda: (now := events()) and all(now[name] > before[name] for name in now) and now,
                           30, f"more events than {before}")
        if cluster.NODE:  # the load is this node's
            self.assertGreater(after["mm_page_alloc"] - before["mm_page_alloc"], 16 << 8)

    def test_helm_test_passes(self):
        try:
            self.assertRegex(self.release.helm("test"), r"Phase: +Succeeded")
        except AssertionError as error:
            log = kubectl("-n", self.release.namespace, "logs", f"{self.release.object}-test")
            raise AssertionError(f"the test's log: {log}") from error

    def test_helm_test_fails_where_nothing_answers(self):
        self.reset()
        self.release.install({"nodeSelector.nowhere": "at-all"})
        wait_until(lambda: not self.release.pods(), 60, "there is no pod")
        with self.assertRaisesRegex(AssertionError, r"Phase: +Failed"):
            self.release.helm("test")
        self.assertIn("does not answer", kubectl("-n", self.release.namespace, "logs", f"{self.release.object}-test"))

    def test_a_changed_configuration_rolls_the_pods_and_nothing_else_does(self):
        self.reset()
        name = self.release.pod()["metadata"]["name"]
        self.release.roll_out({"service.annotations.a": "b", "dashboards.enabled": "true"})
        self.assertEqual(self.release.pod()["metadata"]["name"], name)
        self.release.roll_out({"config.log.format": "json"})
        self.assertNotEqual(self.release.pod()["metadata"]["name"], name)
        json.loads(self.release.log("--tail=1"))

    def test_a_wrong_flag_says_so_and_a_rollback_mends_it(self):
        self.reset()
        revision = max(entry["revision"] for entry in json.loads(self.release.helm("history", "-o", "json")))
        self.release.install({"extraArgs": "{--no-such-flag}"})
        code, log = wait_until(self.release.exit, 60, "the exporter has ended")
        self.assertEqual(code, 1)
        self.assertIn("--no-such-flag: is an unknown flag", log)
        self.release.helm("rollback", revision)
        self.release.wait()
        self.assertEqual(self.release.tracing(), (1, ""))
        if cluster.NODE:
            self.assertEqual(cluster.instances().count(INSTANCE), 1)

    def test_a_wrong_configuration_says_what_and_where(self):
        """Of a ConfigMap that was changed by hand: what comes through Helm is refused by the schema."""
        self.reset()
        config = json.loads(kubectl("-n", self.release.namespace, "get", "cm", self.release.object, "-o", "json"))
        text = config["data"]["kmem_exporter.yaml"]
        self.patch_config(text + "web:\n  max_request: 1\n")
        code, log = wait_until(self.release.exit, 60, "the exporter has ended")
        self.assertEqual(code, 1)
        self.assertRegex(log, rf"/kmem_exporter\.yaml:{text.count(chr(10)) + 2}:3: web\.max_request: is an unknown key")
        self.patch_config(text)
        self.release.wait()
        self.assertEqual(wait_until(self.release.tracing, 30, "the Service leads to the pod"), (1, ""))

    def patch_config(self, text):
        kubectl("-n", self.release.namespace, "patch", "cm", self.release.object, "--type=merge", "--patch",
                json.dumps({"data": {"kmem_exporter.yaml": text}}))
        kubectl("-n", self.release.namespace, "delete", "pod", self.release.pod()["metadata"]["name"])

    def test_a_value_that_the_schema_refuses_changes_nothing(self):
        before = self.release.helm("history", "-o", "json")
        done = self.release.install({"config.engine": "ebpf"}, check=False)
        self.assertIn("at '/config/engine': value must be one of 'auto', 'tracefs', 'bpf'", done.stderr)
        self.assertEqual(self.release.helm("history", "-o", "json"), before)


class Engines(ReleaseTest):
    settings = {"config.engine": "tracefs", "symbols.enabled": "false"}

    def assert_capabilities(self, *names):
        with open(f"/proc/{self.release.process()}/status", encoding="utf-8") as file:
            status = dict(line.split(":\t", 1) for line in file.read().splitlines())
        expected = sum(1 << CAPABILITIES[name] for name in names)
        for kind in ("CapPrm", "CapEff", "CapBnd"):
            self.assertEqual(int(status[kind], 16), expected, kind)
        self.assertEqual(self.release.restarts(), 0)
        self.assertEqual((status["NoNewPrivs"], status["Seccomp"]), ("1", "2"))
        if pathlib.Path("/proc/sys/kernel/kptr_restrict").read_text().strip() != "2":  # hidden from everybody
            self.assertEqual(cluster.value(self.release.metrics(), "kmem_exporter_symbols_available"),
                             "SYSLOG" in names)

    @needs_node
    def test_tracefs_without_any_capability(self):
        self.assertEqual((self.release.engine(), self.release.tracing()), ("tracefs", (1, "")))
        self.assertIn(INSTANCE, cluster.instances())
        self.assert_capabilities()

    @needs_node
    def test_bpf_with_two_and_no_mount(self):
        self.reset()
        self.release.roll_out({"config.engine": "bpf", "symbols.enabled": "false"})
        self.assertEqual((self.release.engine(), self.release.tracing()), ("bpf", (1, "")))
        self.assertNotIn(INSTANCE, cluster.instances())
        self.assert_capabilities("BPF", "PERFMON")

    @needs_node
    def test_the_default_takes_bpf_and_knows_change_ownership_from_tracefs(self):
        self.reset()
        self.release.roll_out()
        self.assertEqual((self.release.engine(), self.release.tracing()), ("bpf", (1, "")))
        self.assertIn(INSTANCE, cluster.instances())
        self.assert_capabilities("BPF", "PERFMON", "SYSLOG")

    @needs_node
    def test_a_pod_deleted_by_force_leaves_nothing_tracing(self):
        self.reset()
        kubectl("-n", self.release.namespace, "delete", "ds", self.release.object, "--cascade=orphan")
        process = self.release.process()
        kubectl("-n", self.release.namespace, "delete", "pod", self.release.pod()["metadata"]["name"],
                "--grace-period=0", "--force")
        wait_until(lambda: not os.path.exists(f"/proc/{process}"), 30, "the process has ended")
        self.assertEqual([name for name in cluster.instances() if name == INSTANCE and cluster.tracing_is_on(name)],
                         [])

    @needs_node
    def test_a_killed_one_leaves_nothing_tracing_and_is_followed_by_one_that_traces(self):
        self.reset()
        kubectl("-n", self.release.namespace, "delete", "ds", self.release.object, "--cascade=orphan")
        pod, process = self.release.pod()["metadata"]["name"], self.release.process()
        os.kill(process, signal.SIGKILL)
        wait_until(lambda: self.release.restarts() == 1 and self.release.ready(), 30, "the container is started anew")
        self.assertEqual(self.release.tracing(), (1, ""))
        kubectl("-n", self.release.namespace, "delete", "pod", pod)
        self.assertNotIn(INSTANCE, cluster.instances())

    @needs_node
    def test_an_update_and_the_end_leave_no_instance_behind(self):
        self.release.roll_out({"config.log.level": "debug"} | self.settings)
        self.assertEqual(cluster.instances().count(INSTANCE), 1)
        self.assertEqual(self.release.tracing(), (1, ""))
        self.addCleanup(self.release.roll_out, self.settings)
        self.release.uninstall()
        self.assertNotIn(INSTANCE, cluster.instances())
        wait_until(lambda: not kubectl("get", "ns", self.release.namespace, "--ignore-not-found"), 60,
                   "the namespace is gone")


class Failures(ReleaseTest):
    """What can't be traced is up and ready all the same, and says why."""
    settings = {"config.engine": "tracefs", "securityContext.runAsUser": "65534"}

    def test_tracing_that_is_not_permitted(self):
        self.assertEqual(self.release.tracing(), (0, "not_permitted"))
        self.assertTrue(self.release.ready())
        self.assertEqual(self.release.restarts(), 0)
        self.assertRegex(self.release.log(), r"level=(warn|error) .*/tracing.*(uid 0|[Pp]ermi)")
        self.assertTrue(any(name == "kmem_free_blocks" for name, _ in self.release.metrics()))

    def test_with_on_tracing_failure_exit_it_ends(self):
        self.reset()
        self.release.install(self.settings | {"config.on_tracing_failure": "exit"})
        code, log = wait_until(self.release.exit, 60, "the exporter has ended")
        self.assertEqual(code, 1)
        self.assertIn("/tracing", log)


class NoPath(unittest.TestCase):
    """A node that lacks the path of hostTracefs."""
    settings = {"hostTracefs.path": "/sys/kernel/nothing"}

    def test_an_event_says_so_and_what_the_notes_name_lets_the_pod_start(self):
        release = cluster.Release("no-path")
        self.addCleanup(release.uninstall)
        notes = release.install(self.settings).stdout
        wait_until(lambda: any("/sys/kernel/nothing is not a directory" in event["message"]
                               for event in cluster.objects("events", release.namespace)), 60, "the event")
        self.assertEqual(release.status()["state"]["waiting"]["reason"], "ContainerCreating")
        remedy = dict([re.search(r"\b(hostTracefs\.mount)=(\w+)", notes).groups()])
        release.roll_out(self.settings | remedy)
        self.assertTrue(release.ready())
        self.assertEqual(wait_until(release.tracing, 30, "the Service leads to the pod"), (1, ""))
        self.assertEqual(release.engine(), "bpf")
        # And where bpf can't be used either:
        release.roll_out(self.settings | remedy | {"securityContext.runAsUser": "65534"})
        self.assertTrue(release.ready())
        self.assertEqual(wait_until(release.tracing, 30, "the Service leads to the pod"), (0, "absent"))
        self.assertTrue(any(name == "kmem_free_blocks" for name, _ in release.metrics()))


class PodSecurity(unittest.TestCase):

    def test_a_namespace_that_forbids_it_says_so_and_the_notes_label_lets_it(self):
        release = cluster.Release("pod-security")
        self.addCleanup(release.uninstall)
        kubectl("create", "namespace", release.namespace)
        kubectl("label", "namespace", release.namespace, "pod-security.kubernetes.io/enforce=baseline")
        notes = release.install().stdout
        command = re.search(r"kubectl (label namespace .* pod-security.*)", notes)[1]
        wait_until(lambda: any("violates PodSecurity" in event["message"]
                               for event in cluster.objects("events", release.namespace)), 30, "the event")
        self.assertEqual(release.pods(), [])
        kubectl(*command.split(), "--overwrite")
        kubectl("-n", release.namespace, "annotate", "ds", release.object, "again=now")  # it tries less and less often
        wait_until(release.pods, 60, "a pod")
        release.wait()


class Manifests(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        for name in ("kmem-exporter", "kernel", "monitoring"):
            if not kubectl("get", "namespace", name, "--ignore-not-found"):
                cls.addClassCleanup(kubectl, "delete", "namespace", name, "--wait=false")
                kubectl("create", "namespace", name)
        for kind in ("servicemonitors", "podmonitors", "prometheusrules"):
            path = CRDS / f"monitoring.coreos.com_{kind}.yaml"
            if kubectl("get", "crd", f"{kind}.monitoring.coreos.com", "--ignore-not-found"):
                continue
            cls.addClassCleanup(kubectl, "delete", "-f", path)
            kubectl("apply", "--server-side", "-f", path)
            wait_until(lambda name=f"{kind}.monitoring.coreos.com": kubectl(
                "wait", "--for=condition=Established", "crd", name, "--timeout=1s"), 30, f"{path.name} is in force")

    def assert_accepted(self, text):
        done = run("kubectl", "apply", "--dry-run=server", "--validate=strict", "-f", "-",
                   input=text, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)

    def test_the_plain_ones_are_accepted(self):
        for name in ("kmem-exporter.yaml", "monitoring.yaml"):
            text = (REPOSITORY / "deploy/kubernetes" / name).read_text(encoding="utf-8")
            items = [item for item in yaml.safe_load_all(text) if item["kind"] != "Namespace"]
            self.assert_accepted(yaml.safe_dump_all(items))

    def test_those_of_every_value_set_are_accepted(self):
        for values in sorted((REPOSITORY / "tests/chart/values").glob("*.yaml")):
            with self.subTest(values=values.stem):
                items = render("--namespace", "kernel", "--values", values)
                items = [item for item in items if item["kind"] != "VerticalPodAutoscaler"]
                self.assert_accepted(yaml.safe_dump_all(items))

    def test_an_unknown_field_would_be_refused(self):
        items = render("--namespace", "kernel")
        next(item for item in items if item["kind"] == "DaemonSet")["spec"]["unheardOf"] = 1
        with self.assertRaisesRegex(AssertionError, "unheardOf"):
            self.assert_accepted(yaml.safe_dump_all(items))


@needs_node  # by whose network the pods are reached
class Discovery(ReleaseTest):
    """A real Prometheus beside the cluster finds the pods."""
    settings = {"prometheus.annotations.enabled": "true", "config.web.telemetry_path": "/kmem"}

    def scrape_configs(self):
        kubernetes = {"kubeconfig_file": os.environ["KUBECONFIG"],
                      "namespaces": {"names": [self.release.namespace]}}
        # As the example of the Prometheus project goes by annotations.
        annotation = "__meta_kubernetes_pod_annotation_prometheus_io_"
        yield {"job_name": "annotations", "kubernetes_sd_configs": [{"role": "pod", **kubernetes}],
               "relabel_configs": [
                   {"source_labels": [annotation + "scrape"], "action": "keep", "regex": "true"},
                   {"source_labels": [annotation + "path"], "target_label": "__metrics_path__"},
                   {"source_labels": [annotation + "scheme"], "target_label": "__scheme__"},
                   {"source_labels": ["__meta_kubernetes_pod_ip", annotation + "port"], "separator": ":",
                    "target_label": "__address__"},
                   {"source_labels": ["__meta_kubernetes_pod_node_name"], "target_label": "instance"}]}
        for values, role in (("monitor", "endpointslice"), ("podMonitor", "pod")):
            monitor, = [item for item in render(
                "--namespace", self.release.namespace, "--set",
                f"prometheus.{values}.enabled=true,config.web.telemetry_path=/kmem", release=self.release.name)
                if item["kind"].endswith("Monitor")]
            yield operator_jobs.job(monitor) | {"kubernetes_sd_configs": [{"role": role, **kubernetes}]}

    def test_by_annotations_and_as_the_monitors_say(self):
        jobs = list(self.scrape_configs())
        for job in jobs:
            job["relabel_configs"].append({"target_label": "found_by", "replacement": job["job_name"]})
        names = {job["job_name"] for job in jobs}
        port = free_port()
        with tempfile.TemporaryDirectory() as directory:
            config = pathlib.Path(directory, "prometheus.yml")
            config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
            with open(f"{directory}/log", "wb") as log:
                prometheus = subprocess.Popen(
                    [*ON_NODE, "setpriv", "--pdeathsig", "KILL", "--", PROMETHEUS, f"--config.file={config}",
                     f"--storage.tsdb.path={directory}/tsdb", f"--web.listen-address=127.0.0.1:{port}"],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self.addCleanup(prometheus.wait)
            self.addCleanup(prometheus.terminate)

            def query(expression):
                url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
                return json.loads(run("curl", "-sf", url).stdout)["data"]["result"]

            nodes = {node["metadata"]["name"] for node in cluster.objects("nodes", "default")}

            def found():
                return {name: {sample["metric"]["instance"] for sample in query(f'up{{found_by="{name}"}} == 1')}
                        for name in names}
            wait_until(lambda: found() == dict.fromkeys(names, nodes), 60, f"every job finds {nodes}")
            wait_until(lambda: len(query('sum by (found_by) (rate(kmem_tracepoint_events_total[10s])) > 0')) ==
                       len(names), 60, "rates of every job")

            def youngest():
                return {sample["metric"]["found_by"]: float(sample["value"][1]) for sample in
                        query("max by (found_by) (process_start_time_seconds)")}
            before = youngest()
            self.assertEqual(set(before), names)

            # A pod's successor goes on with its node's series: there are no others.
            kubectl("-n", self.release.namespace, "delete", "pod", self.release.pod()["metadata"]["name"])
            self.release.wait()
            wait_until(lambda: (now := youngest()).keys() == names and all(now[name] > before[name] for name in names),
                       60, "every job has scraped the new pod")
            series = query('count by (found_by) (count_over_time(kmem_min_free_bytes[10m]))')
            self.assertEqual({sample["metric"]["found_by"]: int(sample["value"][1]) for sample in series},
                             dict.fromkeys(names, len(nodes)))


@needs_node  # by whose network the pod is reached
class Proxy(ReleaseTest):
    """kube-rbac-proxy before the exporter, of the version that the chart names."""
    settings = {"kubeRBACProxy.enabled": "true", "kubeRBACProxy.image.registry": "",
                "kubeRBACProxy.image.repository": "localhost/kube-rbac-proxy"}

    def answer(self, url, *options):
        """The status and what came with it."""
        body, _, status = run("curl", "-sk", "-w", "\n%{http_code}", *options, url).stdout.rpartition("\n")
        return int(status), body

    def token(self, account):
        kubectl("-n", self.release.namespace, "create", "serviceaccount", account)
        return kubectl("-n", self.release.namespace, "create", "token", account).strip()

    def test_who_may_get_the_metrics_gets_them_and_nobody_else(self):
        self.assertTrue(self.release.ready())  # the probes have no token
        address = self.release.pod()["status"]["podIP"]
        url = f"https://{address}:15636/metrics"
        self.assertEqual(self.answer(url)[0], 401)
        bearer = "Authorization: Bearer " + self.token("scraper")
        self.assertEqual(self.answer(url, "-H", bearer)[0], 403)

        kubectl("create", "clusterrole", "scrapes-kmem", "--verb=get", "--non-resource-url=/metrics")
        self.addCleanup(kubectl, "delete", "clusterrole", "scrapes-kmem")
        kubectl("create", "clusterrolebinding", "scrapes-kmem", "--clusterrole=scrapes-kmem",
                f"--serviceaccount={self.release.namespace}:scraper")
        self.addCleanup(kubectl, "delete", "clusterrolebinding", "scrapes-kmem")

        def metrics():
            status, body = self.answer(url, "-H", bearer)
            return status == 200 and cluster.samples(body)
        # What was refused is remembered for some seconds.
        found = wait_until(metrics, 60, "who is bound to the role gets the metrics")
        self.assertEqual(cluster.value(found, "kmem_exporter_tracing_up", reason=""), 1)
        # Around the proxy there is no way.
        self.assertEqual(run("curl", "-s", f"http://{address}:15637/metrics", check=False).returncode, 7)

    def test_helm_test_passes(self):
        self.assertRegex(self.release.helm("test"), r"Phase: +Succeeded")


@needs_node
class Early(unittest.TestCase):

    def test_a_node_without_tracefs_is_up_and_says_why(self):
        tracing, ready, log, metrics = EARLY.without
        self.assertEqual((tracing, ready), ((0, "absent"), True))
        self.assertRegex(log, r"level=(warn|error) .*/tracing")
        self.assertTrue(any(name == "kmem_free_blocks" for name, _ in metrics))

    def test_tracefs_that_is_mounted_later_is_found_without_a_restart(self):
        wait_until(lambda: EARLY.tracing() == (1, ""), 75, "it traces")
        self.assertEqual(EARLY.restarts(), 0)
        self.assertIn(f"{INSTANCE}_early", cluster.instances())


if __name__ == "__main__":
    unittest.main()
