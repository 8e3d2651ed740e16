"""The image, run by runc with exactly the security context, arguments and mounts that the Helm chart
renders: what a kubelet would make of the pod, by hand."""
import os
import subprocess
import unittest
import unittest.mock
import urllib.request

import yaml

import test_image
import tracefs
from harness import REPOSITORY, Metrics

HELM = os.environ["KMEM_TEST_HELM"]
BITS = {"BPF": 39, "PERFMON": 38, "SYSLOG": 34}


def render(*arguments):
    done = subprocess.run([HELM, "template", "kmem", f"{REPOSITORY}/helm/kmem-exporter", "--kube-version",
                           "1.34.0", *arguments], check=True, capture_output=True, timeout=60)
    items = [item for item in yaml.safe_load_all(done.stdout) if item]
    config, = [item["data"] for item in items if item["kind"] == "ConfigMap"]
    daemonset, = [item["spec"]["template"]["spec"] for item in items if item["kind"] == "DaemonSet"]
    return daemonset, config


class SecurityContext(test_image.ImageTest):

    def bind(self, mount, volumes, files):
        kind, source = next((kind, source) for kind, source in volumes[mount["name"]].items() if kind != "name")
        self.assertIn(kind, ("configMap", "hostPath"))
        if kind == "hostPath":
            path = source["path"]
        else:
            path = f"{self.directory}/{mount['name']}"
            os.mkdir(path)
            for name, text in files.items():
                with open(f"{path}/{name}", "w", encoding="utf-8") as file:
                    file.write(text)
        return {"type": "bind", "source": path, "destination": mount["mountPath"],
                "options": ["bind", "ro" if mount.get("readOnly") else "rw",
                            "rslave" if mount.get("mountPropagation") == "HostToContainer" else "private"]}

    def translate(self, pod, files):
        """runc's configuration. Each field is taken out, so that none is left that would be overlooked."""
        container, = pod["containers"]
        context = dict(container["securityContext"])
        capabilities = context.pop("capabilities")
        self.assertEqual(capabilities.pop("drop"), ["ALL"])
        added = [f"CAP_{name}" for name in capabilities.pop("add", [])]
        self.assertEqual(capabilities, {})
        self.assertEqual(pod["securityContext"], {"seccompProfile": {"type": "RuntimeDefault"}})
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        config = test_image.runtime_config(container["args"], added, [
            self.bind(mount, volumes, files) for mount in container["volumeMounts"]])
        config["process"]["noNewPrivileges"] = not context.pop("allowPrivilegeEscalation")
        config["process"]["user"] = {"uid": context.pop("runAsUser"), "gid": context.pop("runAsGroup")}
        config["root"]["readonly"] = context.pop("readOnlyRootFilesystem")
        selinux = context.pop("seLinuxOptions")
        if os.path.exists("/sys/fs/selinux/enforce"):
            config["process"]["selinuxLabel"] = f"system_u:system_r:{selinux['type']}:{selinux['level']}"
        self.assertEqual(context, {}, "not translated")
        return config

    def run_as_rendered(self, *arguments):
        pod, files = render(*arguments)
        with unittest.mock.patch.object(test_image, "runtime_config",
                                        return_value=self.translate(pod, files)):
            container = self.start()
        probe = pod["containers"][0]["readinessProbe"]["httpGet"]
        self.assertEqual((probe["port"], probe["path"]), (15636, "/-/ready"))
        container.wait_until_ready()
        return container

    def assert_capabilities(self, container, *names):
        for kind in ("CapEff", "CapPrm", "CapBnd"):
            self.assertEqual(int(container.status(kind), 16), sum(1 << BITS[name] for name in names), kind)

    @unittest.skipIf(tracefs.why_unusable(), f"{tracefs.why_unusable()}")
    def test_of_the_defaults_is_enough_to_be_ready_and_to_count(self):
        container = self.run_as_rendered()
        self.assert_capabilities(container, "BPF", "PERFMON", "SYSLOG")
        self.assertEqual((container.status("NoNewPrivs"), container.status("Seccomp")), ("1", "2"))
        self.assert_counts_real_events("bpf" if os.path.exists("/sys/kernel/btf/vmlinux") else "tracefs")
        self.assertEqual(container.stop(), 0, container.log())

    @unittest.skipIf(tracefs.why_unusable(), f"{tracefs.why_unusable()}")
    def test_of_the_engine_tracefs_is_enough_without_any_capability(self):
        container = self.run_as_rendered("--values", f"{REPOSITORY}/tests/chart/values/tracefs.yaml",
                                         "--set", f"config.tracefs.instance=kmem_test_{os.getpid()}")
        self.assert_capabilities(container)
        self.assert_counts_real_events("tracefs")
        self.assertEqual(container.stop(), 0, container.log())

    @unittest.skipUnless(os.path.exists("/sys/kernel/btf/vmlinux"), "this kernel has no BTF")
    def test_of_the_engine_bpf_is_enough_without_a_mount(self):
        container = self.run_as_rendered("--values", f"{REPOSITORY}/tests/chart/values/bpf.yaml")
        self.assert_capabilities(container, "BPF", "PERFMON")
        self.assert_counts_real_events("bpf")
        self.assertEqual(container.stop(), 0, container.log())

    def test_the_page_of_metrics_is_where_the_chart_says(self):
        self.run_as_rendered("--values", f"{REPOSITORY}/tests/chart/values/bpf.yaml")
        with urllib.request.urlopen(f"{test_image.URL}/metrics", timeout=10) as response:
            self.assertIn("kmem_free_blocks", Metrics(response.read().decode()).samples)


if __name__ == "__main__":
    unittest.main()
