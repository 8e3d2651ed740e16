"""The image, run by runc with what its documentation says that it needs and nothing else: uid 0, a
read-only root, no new privileges, the seccomp profile of container runtimes, no capability but those
of the engine. Needs a network namespace of its own, where the default port is free (see run)."""
import json
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.request

import load
import tracefs
from harness import REPOSITORY, Metrics, wait_until

ROOT = os.environ["KMEM_IMAGE_ROOT"]
IMAGE = json.loads(os.environ["KMEM_IMAGE_CONFIG"])["Docker"]["config"]
ARCHIVE = os.environ["KMEM_IMAGE_ARCHIVE"]
SECCOMP = "/usr/share/containers/seccomp.json"  # the default profile of podman, much as Docker's
URL = "http://127.0.0.1:15636"
MIB = 1 << 20
INSTANCE = "kmem_test_image"  # the kernel is the machine's, where another exporter may run
# Measured: 79 MiB, of which debian:bookworm-slim has 72 to 75.
IMAGE_LIMIT, OWN_LIMIT = 90 * MIB, 12 * MIB


def container_seccomp(capabilities):
    """The default profile as runc takes it, for a container with these capabilities. Docker since 23
    and containerd since 1.7 let bpf(2) pass with CAP_BPF, podman's profile with CAP_SYS_ADMIN only."""
    with open(SECCOMP, encoding="utf-8") as file:
        profile = json.load(file)
    arch = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    rules = [{"names": ["bpf"], "action": "SCMP_ACT_ALLOW"}] if "CAP_BPF" in capabilities else []
    for rule in profile["syscalls"]:
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if not set(includes.get("caps") or []) <= set(capabilities):
            continue
        if set(excludes.get("caps") or []) & set(capabilities):
            continue
        if arch not in (includes.get("arches") or [arch]) or arch in (excludes.get("arches") or []):
            continue
        kept = {key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key)}
        kept["names"] = [name for name in rule["names"] if name != "bpf" or "CAP_BPF" not in capabilities]
        rules.append(kept)
    return {"defaultAction": profile["defaultAction"],
            "defaultErrnoRet": profile.get("defaultErrnoRet", 1), "syscalls": rules}


def runtime_config(arguments, capabilities, mounts):
    """runc's config.json: the image's own user, environment and entry point."""
    def mount(kind, destination, *options, source=None):
        return {"type": kind, "source": source or kind, "destination": destination,
                "options": list(options)}
    uid, gid = (int(each) for each in IMAGE["User"].split(":"))
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": [*IMAGE["Entrypoint"], *arguments], "env": IMAGE["Env"], "cwd": "/",
            "user": {"uid": uid, "gid": gid}, "noNewPrivileges": True,
            "capabilities": {each: capabilities for each in ("bounding", "effective", "permitted")},
        },
        "root": {"path": ROOT, "readonly": True},
        "mounts": [
            mount("proc", "/proc"),
            mount("tmpfs", "/dev", "nosuid", "mode=755", "size=65536k"),
            mount("sysfs", "/sys", "nosuid", "noexec", "nodev", "ro"), *mounts],
        "linux": {
            # Of Docker's namespaces all but the network's: the tests scrape it.
            "namespaces": [{"type": each} for each in ("pid", "ipc", "uts", "mount")],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                              "/proc/sysrq-trigger"],
            "seccomp": container_seccomp(capabilities),
        },
    }


def host_tracefs(destination):
    return {"type": "bind", "source": tracefs.ROOT, "destination": destination,
            "options": ["bind", "nosuid", "noexec", "nodev"]}


def get(path):
    with urllib.request.urlopen(URL + path, timeout=10) as response:
        return response.read().decode()


class Container:
    """A running container, by runc's configuration."""

    def __init__(self, directory, name, config):
        self.name = name
        self._runc = ["runc", "--root", f"{directory}/runc"]
        self._log_path = f"{directory}/log"
        with open(f"{directory}/config.json", "w", encoding="utf-8") as file:
            json.dump(config, file)
        with open(self._log_path, "wb") as log:
            self.process = subprocess.Popen([*self._runc, "run", "--bundle", directory, name],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def log(self):
        with open(self._log_path, encoding="utf-8") as log:
            return log.read()

    def _state(self):
        done = subprocess.run([*self._runc, "state", self.name], capture_output=True, check=True)
        return json.loads(done.stdout)

    def status(self, key):
        with open(f"/proc/{self._state()['pid']}/status", encoding="utf-8") as status:
            return next(line.split()[1] for line in status if line.startswith(f"{key}:"))

    def wait_until_ready(self):
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"the container ended:\n{self.log()}")
            try:
                return get("/-/ready")
            except urllib.error.URLError:
                return False
        wait_until(ready, 20, "/-/ready answers with 200")

    def health(self, **environment):
        """The exit status of the image's HEALTHCHECK, run in the container."""
        kind, *command = IMAGE["Healthcheck"]["Test"]
        assert kind == "CMD", kind
        env = [each for name, value in environment.items() for each in ("-e", f"{name}={value}")]
        return subprocess.run([*self._runc, "exec", *env, self.name, *command],
                              stdin=subprocess.DEVNULL, capture_output=True, check=False,
                              timeout=30).returncode

    def kill(self, number):
        subprocess.run([*self._runc, "kill", self.name, str(int(number))], check=True)

    def stop(self):
        """The exit status after the image's own stop signal."""
        self.kill(getattr(signal, IMAGE["StopSignal"]))
        return self.process.wait(10)

    def remove(self):
        subprocess.run([*self._runc, "delete", "--force", self.name], check=False,
                       stderr=subprocess.DEVNULL)
        self.process.wait(10)


class ImageTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="kmem_test_image_")
        self.addCleanup(shutil.rmtree, self.directory)

    def start(self, *arguments, capabilities=(), mounts=()):
        return self.run_container("exporter", runtime_config(arguments, list(capabilities), list(mounts)))

    def run_container(self, name, config):
        directory = f"{self.directory}/{name}"
        os.makedirs(directory, exist_ok=True)
        container = Container(directory, f"kmem_test_{os.getpid()}_{name}", config)
        self.addCleanup(container.remove)
        return container

    def with_tracefs(self):
        """The arguments and mounts of a container that uses tracefs, in an instance of its own."""
        if tracefs.why_unusable():
            self.skipTest(tracefs.why_unusable())
        return (["--engine=tracefs", "--path.tracefs=/tracing", "--config.file=/etc/kmem_exporter.yaml"],
                [host_tracefs("/tracing"), self.config_mount(f"tracefs: {{instance: {INSTANCE}}}\n")])

    def config_mount(self, text):
        path = f"{self.directory}/kmem_exporter.yaml"
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return {"type": "bind", "source": path, "destination": "/etc/kmem_exporter.yaml",
                "options": ["bind", "ro"]}

    def assert_counts_real_events(self, engine):
        before = Metrics(get("/metrics"))
        self.assertIn(engine, before.by("kmem_exporter_engine_info", "engine"))
        self.assertEqual(before["kmem_exporter_tracing_up"], 1)
        load.pipes(500)
        wait_until(lambda: sum(Metrics(get("/metrics")).events().values()) >=
                   sum(before.events().values()) + 500 * load.PIPE_PAIR_EVENTS, 10,
                   "the events of 500 pipes are counted")


class Running(ImageTest):
    def test_without_any_capability_it_counts_from_tracefs(self):
        arguments, mounts = self.with_tracefs()
        container = self.start(*arguments, mounts=mounts)
        container.wait_until_ready()
        for capabilities in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
            self.assertEqual(int(container.status(capabilities), 16), 0, capabilities)
        self.assertEqual(container.status("NoNewPrivs"), "1")
        self.assertEqual(container.status("Seccomp"), "2", "filtered")
        self.assert_counts_real_events("tracefs")
        self.assertEqual(container.stop(), 0, container.log())
        self.assertNotIn(INSTANCE, os.listdir(tracefs.INSTANCES))

    def test_with_two_capabilities_and_no_tracefs_it_counts_in_the_kernel(self):
        if not os.path.exists("/sys/kernel/btf/vmlinux"):
            self.skipTest("this kernel has no BTF")
        container = self.start("--engine=bpf", capabilities=["CAP_BPF", "CAP_PERFMON"])
        container.wait_until_ready()
        self.assertEqual(int(container.status("CapEff"), 16), 1 << 38 | 1 << 39)
        self.assert_counts_real_events("bpf")
        self.assertEqual(Metrics(get("/metrics"))["kmem_exporter_symbols_available"], 0)
        self.assertEqual(container.stop(), 0, container.log())

    def test_with_a_third_call_sites_have_names(self):
        if not os.path.exists("/sys/kernel/btf/vmlinux"):
            self.skipTest("this kernel has no BTF")
        container = self.start("--engine=bpf", capabilities=["CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG"])
        container.wait_until_ready()
        self.assertEqual(Metrics(get("/metrics"))["kmem_exporter_symbols_available"], 1)
        self.assertEqual(container.stop(), 0, container.log())

    def test_killed_it_leaves_an_idle_instance_that_its_cleanup_removes(self):
        arguments, mounts = self.with_tracefs()
        container = self.start(*arguments, mounts=mounts)
        container.wait_until_ready()
        container.kill(signal.SIGKILL)
        container.process.wait(10)
        container.remove()
        with open(f"{tracefs.INSTANCES}/{INSTANCE}/tracing_on", encoding="utf-8") as file:
            self.assertEqual(file.read().strip(), "0")
        cleanup = self.start("--cleanup", *arguments, mounts=mounts)
        self.assertEqual(cleanup.process.wait(20), 0, cleanup.log())
        self.assertNotIn(INSTANCE, os.listdir(tracefs.INSTANCES))

    def test_a_wrong_configuration_ends_it_with_one_line(self):
        container = self.start("--config.file=/etc/kmem_exporter.yaml",
                               mounts=[self.config_mount("web: {max_requests: 0}\n")])
        self.assertEqual(container.process.wait(20), 1)
        self.assertRegex(container.log(), r"\Akmem_exporter: /etc/kmem_exporter.yaml:1:21: "
                                          r"web.max_requests: .*\n\Z")

    def test_without_tracing_it_is_up_and_ready_where_that_is_asked_for(self):
        container = self.start("--engine=tracefs", "--path.tracefs=/tracing",
                               "--config.file=/etc/kmem_exporter.yaml",
                               mounts=[self.config_mount("on_tracing_failure: retry\n")])
        container.wait_until_ready()
        self.assertEqual(
            Metrics(get("/metrics")).get("kmem_exporter_tracing_up", reason="absent"), 0)
        self.assertEqual(container.health(), 0)
        self.assertEqual(container.stop(), 0)


class Healthcheck(ImageTest):
    def setUp(self):
        super().setUp()
        self.container = self.start("--config.file=/etc/kmem_exporter.yaml",
                                    mounts=[self.config_mount("on_tracing_failure: retry\n")])
        self.container.wait_until_ready()

    def test_is_good_while_the_exporter_answers(self):
        self.assertEqual(self.container.health(), 0)

    def test_is_bad_where_nobody_listens(self):
        self.assertNotEqual(self.container.health(HEALTHCHECK_PORT=15637), 0)

    def test_is_bad_while_the_exporter_hangs(self):
        self.container.kill(signal.SIGSTOP)
        self.assertNotEqual(self.container.health(), 0)
        self.container.kill(signal.SIGCONT)
        self.assertEqual(self.container.health(), 0)


class Contents(unittest.TestCase):
    def test_its_labels_say_what_it_is(self):
        labels = IMAGE["Labels"]
        with open(f"{REPOSITORY}/VERSION", encoding="utf-8") as file:
            version = file.read().strip()
        self.assertEqual(labels["org.opencontainers.image.version"], version)
        self.assertRegex(labels["org.opencontainers.image.revision"], r"\A[0-9a-f]{12}\Z")
        self.assertEqual(labels["org.opencontainers.image.licenses"], "Apache-2.0")
        self.assertEqual(labels["org.opencontainers.image.title"], "kmem_exporter")
        self.assertIn("kmem tracepoints", labels["org.opencontainers.image.description"])
        self.assertTrue(labels["org.opencontainers.image.documentation"].startswith(
            f"{labels['org.opencontainers.image.source']}/blob/main/docs/"))
        said = subprocess.run(["chroot", ROOT, *IMAGE["Entrypoint"], "--version"],
                              capture_output=True, check=True, encoding="utf-8").stdout
        self.assertIn(f"version {version} ", said)
        self.assertIn(f"revision: {labels['org.opencontainers.image.revision']})", said)

    def test_it_is_small(self):
        listing = subprocess.run(["tar", "-tvf", ARCHIVE], capture_output=True, check=True,
                                 encoding="utf-8").stdout
        sizes = [int(line.split()[2]) for line in listing.splitlines()
                 if line.startswith("-") and line.endswith(".tar")]
        total, own = sum(sizes), sum(sizes) - max(sizes)
        print(f"\nimage: {total / MIB:.1f} MiB, of which {own / MIB:.1f} above debian:bookworm-slim",
              flush=True)
        self.assertLess(total, IMAGE_LIMIT)
        self.assertLess(own, OWN_LIMIT)

    def test_it_has_only_what_runs(self):
        for absent in ("usr/bin/g++", "usr/bin/clang", "usr/bin/cmake", "src", "usr/bin/curl"):
            self.assertFalse(os.path.exists(f"{ROOT}/{absent}"), absent)
        for empty in ("var/lib/apt/lists", "var/log"):
            self.assertEqual(os.listdir(f"{ROOT}/{empty}"), [], empty)


if __name__ == "__main__":
    unittest.main()
