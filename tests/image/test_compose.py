"""deploy/compose.yaml, as far as that goes without Docker and the network: runc runs the exporter and the
Prometheus with exactly the command, mounts and rights that the file gives them. In the place of Prometheus's
image stands this image with Debian's Prometheus in it; the two share a network, in which the exporter's name
is known as it is in that of compose."""
import json
import os
import re
import resource
import unittest
import urllib.error
import urllib.parse
import urllib.request

import yaml

import test_image
import tracefs
from harness import REPOSITORY, wait_until

DEPLOY = f"{REPOSITORY}/deploy"
PROMETHEUS = os.environ["KMEM_TEST_PROMETHEUS"]
# What says nothing of how the container runs.
OTHERWISE = ("image", "build", "restart", "depends_on", "ports", "stop_grace_period")
UNLIMITED = (1 << 64) - 1
SYS_RESOURCE = 24  # CAP_SYS_RESOURCE


def load(path):
    with open(f"{DEPLOY}/{path}", encoding="utf-8") as file:
        return yaml.safe_load(file)


def ask(path, **parameters):
    """What Prometheus's API answers."""
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"http://127.0.0.1:9090{path}?{query}", timeout=10) as response:
        return json.load(response)["data"]


def unlimited(name):
    """As high as this machine lets us raise a limit."""
    hard = resource.getrlimit(getattr(resource, name))[1]
    with open("/proc/self/status", encoding="utf-8") as status:
        capabilities = int(next(line.split()[1] for line in status if line.startswith("CapEff:")), 16)
    if capabilities >> SYS_RESOURCE & 1 or hard == resource.RLIM_INFINITY:
        return UNLIMITED
    print(f"\nSKIPPED: compose: {name} without a limit takes CAP_SYS_RESOURCE: it is {hard} here", flush=True)
    return hard


class Compose(test_image.ImageTest):
    def setUp(self):
        super().setUp()
        self.compose = load("compose.yaml")

    def bind(self, volume):
        if isinstance(volume, dict):
            self.assertEqual({**volume, "source": "", "target": ""}, {
                "type": "bind", "source": "", "target": "", "bind": {"create_host_path": False}})
            source, target, options = volume["source"], volume["target"], []
        else:
            source, target, *options = volume.split(":")
        self.assertIn(options, ([], ["ro"]))
        if source in self.compose["volumes"]:
            source = f"{self.directory}/{source}"
            os.mkdir(source)
        else:
            source = os.path.join(DEPLOY, source)
            self.assertTrue(os.path.exists(source), source)
        return {"type": "bind", "source": source, "destination": target, "options": ["bind", *(options or ["rw"])]}

    def translate(self, name):
        """runc's configuration. Each field is taken out, so that none is left that would be overlooked."""
        service = {key: value for key, value in self.compose["services"][name].items() if key not in OTHERWISE}
        if "cap_drop" in service:
            self.assertEqual(service.pop("cap_drop"), ["ALL"])
        capabilities = [f"CAP_{each}" for each in service.pop("cap_add", [])]
        config = test_image.runtime_config(service.pop("command"), capabilities, [
            self.bind(volume) for volume in service.pop("volumes")])
        security = service.pop("security_opt", [])
        self.assertIn(security, ([], ["no-new-privileges:true"]))
        config["process"]["noNewPrivileges"] = bool(security)
        config["root"]["readonly"] = service.pop("read_only", False)
        limits = service.pop("ulimits", {})
        self.assertLessEqual(set(limits.values()), {-1})
        highest = {f"RLIMIT_{limit.upper()}": unlimited(f"RLIMIT_{limit.upper()}") for limit in limits}
        config["process"]["rlimits"] = [{"type": each, "soft": value, "hard": value}
                                        for each, value in highest.items()]
        self.assertEqual(service, {}, "not translated")
        return config

    def start_exporter(self):
        container = self.run_container("exporter", self.translate("kmem_exporter"))
        container.wait_until_ready()
        return container

    def start_prometheus(self):
        config = self.translate("prometheus")
        config["process"]["args"][:1] = ["/bin/prometheus"]
        hosts = f"{self.directory}/hosts"
        with open(hosts, "w", encoding="utf-8") as file:
            file.write("127.0.0.1 localhost kmem_exporter\n")
        config["mounts"] += [{"type": "bind", "source": source, "destination": destination, "options": ["bind", "ro"]}
                             for source, destination in ((PROMETHEUS, "/bin/prometheus"), (hosts, "/etc/hosts"))]
        container = self.run_container("prometheus", config)

        def ready():
            self.assertIsNone(container.process.poll(), container.log())
            try:
                with urllib.request.urlopen("http://127.0.0.1:9090/-/ready", timeout=10) as response:
                    return response.status == 200
            except urllib.error.URLError:
                return False
        wait_until(ready, 30, "Prometheus is ready")
        return container

    @unittest.skipIf(tracefs.why_unusable(), f"{tracefs.why_unusable()}")
    def test_the_exporter_is_ready_and_counts_with_what_it_is_given(self):
        container = self.start_exporter()
        self.assertEqual(int(container.status("CapEff"), 16), 1 << 39 | 1 << 38 | 1 << 34)
        self.assertEqual((container.status("NoNewPrivs"), container.status("Seccomp")), ("1", "2"))
        self.assert_counts_real_events("bpf" if os.path.exists("/sys/kernel/btf/vmlinux") else "tracefs")
        self.assertEqual(container.stop(), 0, container.log())

    def test_prometheus_loads_every_rule(self):
        self.start_prometheus()
        loaded = [rule for group in ask("/api/v1/rules")["groups"] for rule in group["rules"]]
        there = [rule for file in ("kmem-rules", "kmem-alerts")
                 for group in load(f"prometheus/{file}.yaml")["groups"] for rule in group["rules"]]
        self.assertEqual(sorted(rule["name"] for rule in loaded),
                         sorted(rule.get("alert") or rule["record"] for rule in there))

    @unittest.skipIf(tracefs.why_unusable(), f"{tracefs.why_unusable()}")
    def test_prometheus_finds_the_exporter_and_its_dashboards_find_the_data(self):
        exporter = self.start_exporter()
        prometheus = self.start_prometheus()
        interval = load("compose/prometheus.yaml")["global"]["scrape_interval"]
        seconds = int(re.fullmatch(r"(\d+)s", interval)[1])

        def up():
            self.assertIsNone(prometheus.process.poll(), prometheus.log())
            return {target["labels"]["job"] for target in ask("/api/v1/targets")["activeTargets"]
                    if target["health"] == "up"} == {"kmem-exporter", "prometheus"}
        wait_until(up, 2 * seconds, "both targets are up")
        found, = ask("/api/v1/query", query="kmem_exporter_tracing_up == 1")["result"]
        self.assertEqual((found["metric"]["job"], found["metric"]["instance"]), ("kmem-exporter", "localhost"))
        # What Grafana is told to ask, and how often it may expect an answer.
        source, = load("compose/grafana-datasource.yaml")["datasources"]
        self.assertEqual(urllib.parse.urlsplit(source["url"]).port, 9090)
        self.assertEqual(source["jsonData"]["timeInterval"], interval)
        self.assertEqual(exporter.stop(), 0, exporter.log())


if __name__ == "__main__":
    unittest.main()
