"""Starts the exporter and looks at it from outside: its log, its HTTP, its metrics, its end."""
import ctypes
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import load
import tracefs

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.path.abspath(os.environ.get("KMEM_EXPORTER",
                                         f"{REPOSITORY}/build/release/kmem_exporter"))
TRACES = f"{REPOSITORY}/tests/data/traces"
TIME_SCALE = float(os.environ.get("KMEM_TEST_TIME_SCALE", "1"))
NOBODY = 65534
# How Prometheus 3 asks for metrics.
PROMETHEUS = {"Accept": "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
                        "application/openmetrics-text;version=0.0.1;q=0.5,"
                        "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
              "Accept-Encoding": "gzip"}

only_where_speed_counts = unittest.skipIf(
    TIME_SCALE != 1, "the targets of speed and memory are not meant for this build")
_numbers = itertools.count()
_libc = ctypes.CDLL(None)


def _die_with_parent():
    _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def wait_until(condition, seconds, what):
    """Polls until the condition gives something true, and returns that."""
    deadline = time.monotonic() + seconds * TIME_SCALE
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds * TIME_SCALE:g} s: {what}")
        time.sleep(0.01)


def observe(condition, seconds, what):
    """Demands that the condition stays true for so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not condition():
            raise AssertionError(f"no longer true: {what}")
        time.sleep(0.05)


class Metrics:
    """A scrape in the text format: the samples by name and labels."""

    _sample = re.compile(r'^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$')
    _label = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)",?')

    def __init__(self, text):
        self.samples = {}
        for line in text.splitlines():
            if not line or line.startswith("#"):
                continue
            found = self._sample.match(line)
            if not found:
                raise AssertionError(f"not a sample: {line}")
            labels = frozenset(self._label.findall(found[2] or ""))
            self.samples.setdefault(found[1], {})[labels] = float(found[3])

    def __contains__(self, name):
        return name in self.samples

    def __getitem__(self, name):
        """The only sample of a family, or its samples' sum."""
        return sum(self.samples[name].values())

    def get(self, name, **labels):
        return self.samples[name][frozenset(labels.items())]

    def by(self, name, label):
        """The samples of a family, summed up by the value of one label."""
        result = {}
        for labels, value in self.samples[name].items():
            key = dict(labels)[label]
            result[key] = result.get(key, 0) + value
        return result

    def events(self):
        """What each tracepoint counted."""
        return self.by("kmem_tracepoint_events_total", "tracepoint")


class Exporter:
    """A running exporter. Made by ExporterTest.start()."""

    def __init__(self, command, log_path, user=None):
        self._log_path = log_path
        self.started_at = time.monotonic()
        with open(log_path, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=user, group=user,
                extra_groups=None if user is None else [], preexec_fn=_die_with_parent)
        self.pid = self.process.pid
        self.address = None
        self._snapshot_taken = 0.0

    def log(self):
        with open(self._log_path, encoding="utf-8") as log:
            return log.read()

    def log_lines(self, pattern):
        return [line for line in self.log().splitlines() if re.search(pattern, line)]

    def wait_for_address(self):
        def find():
            if self.process.poll() is not None:
                raise AssertionError(f"the exporter ended at once:\n{self.log()}")
            return re.search(r'listening on http://([^/"]+)/', self.log())
        self.address = wait_until(find, 10, "the exporter logs its address")[1]

    def wait_until_ready(self):
        wait_until(lambda: self.request("/-/ready").status == 200, 10, "/-/ready gives 200")

    def request(self, path="/metrics", method="GET", headers=None):
        """Sends one request; the response's `body` holds its bytes."""
        connection = http.client.HTTPConnection(self.address, timeout=10 * TIME_SCALE)
        try:
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            response.body = response.read()
            return response
        finally:
            connection.close()

    def text(self):
        """The text of a scrape."""
        begin = time.monotonic()
        response = self.request()
        if response.status != 200:
            raise AssertionError(f"/metrics gives {response.status}")
        text = response.body.decode()
        age = re.search(r"^kmem_exporter_snapshot_age_seconds (\S+)$", text, re.MULTILINE)
        if age:
            self._snapshot_taken = begin - float(age[1])
        return text

    def text_now(self):
        """The same, with values that hold everything that happened before this call."""
        asked = time.monotonic()
        text = self.text()
        while self._snapshot_taken < asked:
            if time.monotonic() > asked + 10 * TIME_SCALE:
                raise AssertionError("the values of a scrape stay old")
            text = self.text()
        return text

    def scrape(self):
        return Metrics(self.text())

    def scrape_now(self):
        return Metrics(self.text_now())

    def cpu_seconds(self):
        """CPU time of all threads, to the nanosecond: the process's CPU-time clock."""
        return time.clock_gettime((~self.pid << 3) | 2)

    def status(self, key):
        with open(f"/proc/{self.pid}/status", encoding="utf-8") as status:
            return re.search(rf"^{key}:\s*(\S+)", status.read(), re.MULTILINE)[1]

    def descriptors(self):
        """What each open descriptor is, once all connections are closed."""
        directory = f"/proc/{self.pid}/fd"

        def look():
            try:
                open_now = [os.readlink(f"{directory}/{fd}") for fd in os.listdir(directory)]
            except FileNotFoundError:  # closed between the two calls
                return None
            sockets = sum(each.startswith("socket:") for each in open_now)
            return sorted(open_now) if sockets == 1 else None  # the one that listens
        return wait_until(look, 5, "all connections are closed")

    def kill(self, number):
        self.process.send_signal(number)

    def wait(self, seconds):
        """The exit status, or a failure if there is none within so many seconds."""
        try:
            return self.process.wait(seconds * TIME_SCALE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds * TIME_SCALE:g} s") from None

    def stop(self, number=signal.SIGTERM):
        self.kill(number)
        return self.wait(5)

    def running(self):
        return self.process.poll() is None


class ExporterTest(unittest.TestCase):
    """A test with exporters. All of them use one instance of tracefs, of a name of this test's own;
    at the end of the test they are stopped and the instance must be gone."""

    ENGINE = "tracefs"  # of a configuration that names none

    def setUp(self):
        self.assertTrue(os.access(PROGRAM, os.X_OK), f"{PROGRAM} is no program; build it first")
        self.instance_name = f"{tracefs.NAME_PREFIX}{os.getpid()}_{next(_numbers)}"
        self.instance = tracefs.Instance(self.instance_name)
        # Others than root have to read what is in it.
        self.directory = tempfile.mkdtemp(prefix="kmem_test_")
        os.chmod(self.directory, 0o755)
        self.addCleanup(shutil.rmtree, self.directory)
        self.addCleanup(self._demand_clean_kernel)
        self._exporters = []
        self.addCleanup(self._stop_all)

    def _stop_all(self):
        for exporter in self._exporters:
            # A failure of the one must not leave the others running.
            self.addCleanup(self._stop_one, exporter)

    def _stop_one(self, exporter):
        if exporter.running():
            exporter.kill(signal.SIGCONT)
            exporter.kill(signal.SIGTERM)
            try:
                status = exporter.wait(10)
            except AssertionError:
                exporter.kill(signal.SIGKILL)
                exporter.wait(10)
                raise
            self.assertEqual(status, 0, f"exit status at the end:\n{exporter.log()}")
        self._demand_no_report(exporter.log())

    def _demand_clean_kernel(self):
        if tracefs.mounted() and os.access(tracefs.INSTANCES, os.X_OK):
            self.assertFalse(tracefs.remove(self.instance_name), "an instance was left behind")

    def _demand_no_report(self, output):
        self.assertNotRegex(output, "Sanitizer|runtime error:", "a sanitizer's report")

    def file(self, name, content=b""):
        path = f"{self.directory}/{name}"
        with open(path, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
        os.chmod(path, 0o644)
        return path

    def config_file(self, config):
        """Writes a configuration, with the test's instance where it names none."""
        # Numbers are compared with what happened: all of it is to be traced.
        merged = {"engine": self.ENGINE, "overhead": {"budget_percent": 0}, **config,
                  "tracefs": {"instance": self.instance_name,
                                        **config.get("tracefs", {})}}
        return self.file(f"config{next(_numbers)}.yaml", json.dumps(merged))  # JSON is YAML

    def program_for_all(self):
        """A copy of the program that any user can start."""
        path = f"{self.directory}/kmem_exporter"
        if not os.path.exists(path):
            shutil.copyfile(PROGRAM, path)
            os.chmod(path, 0o755)
        return path

    def launch(self, *arguments, config=None, user=None, prefix=(), listen="127.0.0.1:0"):
        """Starts an exporter, and waits for nothing."""
        program = PROGRAM if user is None else self.program_for_all()
        command = [*prefix, program, f"--config.file={self.config_file(config or {})}",
                   f"--web.listen-address={listen}", *arguments]
        log = f"{self.directory}/log{next(_numbers)}"
        exporter = Exporter(command, log, user)
        self._exporters.append(exporter)
        return exporter

    def start(self, *arguments, **options):
        """Starts an exporter, and waits until it is ready."""
        exporter = self.launch(*arguments, **options)
        exporter.wait_for_address()
        exporter.wait_until_ready()
        return exporter

    def run_program(self, *arguments, user=None, seconds=1.0):
        """Runs the program to its end, within so many seconds."""
        program = PROGRAM if user is None else self.program_for_all()
        begin = time.monotonic()
        done = subprocess.run(
            [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False,
            encoding="utf-8", user=user, group=user, extra_groups=None if user is None else [],
            timeout=20 * TIME_SCALE, preexec_fn=_die_with_parent)
        done.seconds = time.monotonic() - begin
        self._demand_no_report(done.stderr)
        # Where others leave it a share of the CPUs only, it may take the longer.
        share = max(1, os.getloadavg()[0] / os.cpu_count())
        self.assertLessEqual(done.seconds, seconds * TIME_SCALE * share,
                             f"took too long: {arguments}")
        return done

    def assert_refused(self, done, pattern):
        """Status not zero, and one line beside the log that says why. Returns that line."""
        self.assertGreater(done.returncode, 0, f"exit status; a signal if negative: {done.stderr}")
        lines = [line for line in done.stderr.splitlines() if not line.startswith("time=")]
        self.assertEqual(len(lines), 1, f"not one line:\n{done.stderr}")
        self.assertRegex(lines[0], pattern)
        return lines[0]


class TracingTest(ExporterTest):
    """A test that needs the kernel's tracefs; skipped where there is none."""

    @classmethod
    def setUpClass(cls):
        reason = tracefs.why_unusable()
        if reason is not None:
            raise unittest.SkipTest(reason)

    def assert_counting(self, exporter, pipes=500):
        """Demands that the exporter counts what happens from now on; its buffer must hold it."""
        before = exporter.scrape_now().events()
        load.pipes(pipes)
        after = exporter.scrape_now().events()
        events = sum(after.values()) - sum(before.values())
        self.assertGreaterEqual(events, pipes * load.PIPE_PAIR_EVENTS, f"events of {pipes} pipes")
