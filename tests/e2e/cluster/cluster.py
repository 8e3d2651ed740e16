"""The cluster as the tests use it: kubectl, helm, releases of the chart, and a look at the node."""
import json
import os
import pathlib
import re
import subprocess
import time
import unittest

import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
CHART = REPOSITORY / "helm/kmem-exporter"
HELM = os.environ["KMEM_TEST_HELM"]
REPOSITORY_OF_IMAGE, _, TAG = os.environ["KMEM_TEST_IMAGE"].rpartition(":")
NODE = os.environ.get("KMEM_TEST_NODE")  # a process in the namespaces of the node that `up` started
ON_NODE = ("nsenter", "-t", NODE, "-m", "-n", "--") if NODE else ()
TRACEFS = "/sys/kernel/tracing"
INSTANCE = "kmem_cluster_test"  # others may trace on this machine too

needs_node = unittest.skipUnless(NODE, "looks at the node, which only the cluster that `up` starts lets us")


def run(*command, check=True, **options):
    """In the network of the node, if it is ours."""
    done = subprocess.run([*ON_NODE, *(str(word) for word in command)], check=False, encoding="utf-8",
                          capture_output=True, timeout=180, **options)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    return done


def kubectl(*arguments, **options):
    return run("kubectl", *arguments, **options).stdout


def objects(kind, namespace, *arguments):
    return json.loads(kubectl("-n", namespace, "get", kind, "-o", "json", *arguments))["items"]


def wait_until(condition, seconds, what):
    """The first true value of a condition; an AssertionError of it counts as not yet."""
    deadline, why = time.monotonic() + seconds, ""
    while True:
        try:
            value = condition()
            if value:
                return value
        except AssertionError as error:
            why = f": {error}"
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}{why}")
        time.sleep(0.2)


def samples(text):
    """Values by name and labels as they are written."""
    found = re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE)
    return {(name, frozenset(re.findall(r'(\w+)="([^"]*)"', labels))): float(value)
            for name, labels, value in found}


def value(found, metric, **labels):
    return found.get((metric, frozenset(labels.items())))


class Release:
    """A release of the chart in a namespace of its own."""

    def __init__(self, name):
        self.name = self.namespace = name
        self.object = f"{name}-kmem-exporter"
        self.selector = f"app.kubernetes.io/instance={name},app.kubernetes.io/name=kmem-exporter"

    def settings(self, settings):
        ours = {"image.registry": "", "image.repository": REPOSITORY_OF_IMAGE, "image.tag": TAG,
                "config.tracefs.instance": INSTANCE, "livenessProbe.periodSeconds": 3,
                "readinessProbe.periodSeconds": 1} | settings
        return [word for key, setting in ours.items() for word in ("--set", f"{key}={setting}")]

    def install(self, settings=(), check=True):
        return run(HELM, "upgrade", "--install", self.name, CHART, "--namespace", self.namespace,
                   "--create-namespace", *self.settings(dict(settings)), check=check)

    def roll_out(self, settings=()):
        self.install(settings)
        self.wait()

    def wait(self):
        kubectl("-n", self.namespace, "rollout", "status", f"ds/{self.object}", "--timeout=60s")

    def helm(self, command, *arguments):
        return run(HELM, command, self.name, "--namespace", self.namespace, *arguments).stdout

    def uninstall(self):
        run(HELM, "uninstall", self.name, "--namespace", self.namespace, "--ignore-not-found", "--wait")
        kubectl("-n", self.namespace, "wait", "--for=delete", "pod", "-l", self.selector, "--timeout=60s")
        kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")

    def pods(self):
        return objects("pods", self.namespace, "-l", self.selector)

    def pod(self):
        """The only pod that is not about to end."""
        pods = [pod for pod in self.pods() if "deletionTimestamp" not in pod["metadata"]]
        if len(pods) != 1:
            raise AssertionError(f"{len(pods)} pods in {self.namespace}")
        return pods[0]

    def status(self):
        """Of the exporter's container."""
        for status in self.pod()["status"].get("containerStatuses", []):
            return status
        raise AssertionError(f"no container in {self.namespace} yet")

    def exit(self):
        """The exit status and the log of an exporter that has ended; whether it is started anew or not."""
        status = self.status()
        ended = status["state"].get("terminated") or status["lastState"].get("terminated")
        return ended and (ended["exitCode"], self.log())

    def ready(self):
        return any(condition["type"] == "Ready" and condition["status"] == "True"
                   for condition in self.pod()["status"].get("conditions", []))

    def restarts(self):
        return self.status()["restartCount"]

    def log(self, *arguments):
        return kubectl("-n", self.namespace, "logs", self.pod()["metadata"]["name"], *arguments)

    def metrics(self):
        """Scraped through the Service, by the API server's proxy."""
        return samples(kubectl("get", "--raw", f"/api/v1/namespaces/{self.namespace}/services/"
                                               f"http:{self.object}:http/proxy/metrics"))

    def tracing(self):
        """1, or 0, and the reason."""
        found, = [(number, dict(labels)["reason"]) for (name, labels), number in self.metrics().items()
                  if name == "kmem_exporter_tracing_up"]
        return found

    def engine(self):
        found, = [dict(labels)["engine"] for name, labels in self.metrics() if name == "kmem_exporter_engine_info"]
        return found

    def process(self):
        """The exporter's process on the node."""
        identifier = self.status()["containerID"].partition("//")[2]
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if identifier in (path / "cgroup").read_text() and (path / "comm").read_text() == "kmem_exporter\n":
                    return int(path.name)
            except OSError:
                pass
        raise AssertionError(f"no process of {identifier}")


def render(*arguments, release="kmem"):
    done = run(HELM, "template", release, CHART, "--kube-version", "1.34.0", *arguments)
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def instances():
    """The tracefs instances of our name, whatever follows."""
    return [name for name in run("ls", f"{TRACEFS}/instances").stdout.split() if name.startswith(INSTANCE)]


def tracing_is_on(instance):
    return run("cat", f"{TRACEFS}/instances/{instance}/tracing_on").stdout.strip() == "1"
