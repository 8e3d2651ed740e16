"""The chart as the tests see it: what helm renders of it, from values; nothing here needs a cluster."""
import os
import pathlib
import subprocess
import unittest

import yaml

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
CHART = REPOSITORY / "helm/kmem-exporter"
HELM, HELM_DOCS, KUBECONFORM, SCHEMAS, PROMTOOL = (
    os.environ["KMEM_TEST_" + name] for name in ("HELM", "HELM_DOCS", "KUBECONFORM", "SCHEMAS", "PROMTOOL"))
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
