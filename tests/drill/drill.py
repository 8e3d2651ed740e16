"""The fragmentation alert, from the event in the kernel to the page at night and back: a guest with a
real kernel and 640 MiB fragments its memory, a Prometheus on the host scrapes the exporter in it with
the project's rules, their times shortened, and an Alertmanager gets the alert. Then the guest is given
the remedy, vm.min_free_kbytes as the alert's description says, and nothing else: the same load goes on at
the same pace, and the rate falls. Last it is given, as the runbook says of memory that is full, free memory,
the pace still the same, and the alert resolves. The kernel's own answer to such events,
vm.watermark_boost_factor, is switched off from the start, as it would end them before the remedy could; and
the reserve is a small one, so that a step shows.
fragment.c says why a higher reserve helps, and how far. Started by `run`."""
import http.client
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

import prometheus

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HERE = os.path.dirname(os.path.abspath(__file__))
ALERT = "KmemMemoryFragmentingFast"
KERNEL = "6.1"
FACTOR = 30  # a minute of the rules is 2 s here
RATE = "instance:kmem_extfrag_fragmenting_events:rate5m"
STEADY = f"avg_over_time({RATE}[20s])"  # of which RATE is the rate over 10 s: few events
PACE = 'rate(kmem_page_allocations_total{order="0",migratetype="unmovable"}[10s])'
LABELS = {"alertname": ALERT, "severity": "warning", "cluster": "drill", "job": "kmem_exporter",
          "instance": "guest"}
begin = time.monotonic()


def say(text):
    print(f"drill: {time.monotonic() - begin:5.1f} s: {text}", flush=True)


class Host(http.server.BaseHTTPRequestHandler):
    """Tells the guest the phase, and takes the notifications of Alertmanager."""
    phase = "boot"
    notified = []

    def do_GET(self):
        self._answer(f"{Host.phase}\n".encode())

    def do_POST(self):
        Host.notified += json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"]
        self._answer(b"")

    def _answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Drill:
    def __init__(self, directory):
        self._directory = directory
        self._host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
        threading.Thread(target=self._host.serve_forever, daemon=True).start()
        self._exporter_port, self._alertmanager_port = (prometheus.free_port() for _ in range(2))
        self._prometheus = None
        self._processes = []

    def _path(self, name):
        return f"{self._directory}/{name}"

    def _write(self, name, content):
        with open(self._path(name), "w", encoding="utf-8") as file:
            file.write(content if isinstance(content, str) else json.dumps(content))  # JSON is YAML
        return self._path(name)

    def _start(self, name, *command, **options):
        with open(self._path(f"{name}.log"), "wb") as log:
            # With setpriv it ends with this process, even a killed one.
            self._processes.append((name, subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "--", *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options)))

    def start(self):
        host = f"127.0.0.1:{self._host.server_port}"
        script = self._write("guest.sh", f"host=10.0.2.2:{self._host.server_port}\n" +
                             open(f"{HERE}/guest.sh", encoding="utf-8").read())
        self._start("guest", f"{REPOSITORY}/tests/kernels/guest", "--kernel", KERNEL,
                    "--memory", "640", "--timeout", "420", "--append", "transparent_hugepage=never", "--script", script,
                    "--out", self._path("out"), "--forward", f"{self._exporter_port}:15636",
                    "--file", os.environ["KMEM_DRILL_EXPORTER"], "--file", os.environ["KMEM_DRILL_LOAD"])
        # It wants its templates below /usr/share, where they would be if it were installed.
        alertmanager = os.environ["KMEM_DRILL_ALERTMANAGER"]
        self._start("alertmanager", "unshare", "--mount", "sh", "-c",
                    'mount -t overlay -o "lowerdir=$0/usr/share:/usr/share" nodev /usr/share && exec "$@"',
                    alertmanager, f"{alertmanager}/usr/bin/prometheus-alertmanager",
                    "--config.file=" + self._write("alertmanager.yml", {
                        "route": {"receiver": "drill", "group_wait": "1s", "group_interval": "1s"},
                        "receivers": [{"name": "drill", "webhook_configs": [
                            {"url": f"http://{host}/alerts", "send_resolved": True}]}]}),
                    f"--storage.path={self._path('alertmanager')}", "--cluster.listen-address=",
                    f"--web.listen-address=127.0.0.1:{self._alertmanager_port}")
        rules = [f"{REPOSITORY}/deploy/prometheus/kmem-{name}.yaml" for name in ("rules", "alerts")]
        subprocess.run([f"{REPOSITORY}/tests/rules/scale", str(FACTOR), self._directory, *rules],
                       check=True)
        self._prometheus = prometheus.Prometheus(os.environ["KMEM_DRILL_PROMETHEUS"], self._directory, {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [self._path("kmem-*.yaml")],
            "alerting": {"alertmanagers": [{"static_configs": [
                {"targets": [f"127.0.0.1:{self._alertmanager_port}"]}]}]},
            "scrape_configs": [{"job_name": "kmem_exporter", "static_configs": [
                {"targets": [f"127.0.0.1:{self._exporter_port}"],
                 "labels": {"cluster": "drill", "instance": "guest"}}]}]})
        self.value = self._prometheus.value
        self._processes.append(("prometheus", self._prometheus.process))

    def stop(self):
        for _, process in self._processes:
            process.send_signal(signal.SIGTERM)
        for _, process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._host.shutdown()

    def logs(self):
        return "".join(f"--- {name}\n" + "".join(
            open(self._path(f"{name}.log"), encoding="utf-8", errors="replace").readlines()[-25:])
            for name, _ in self._processes)

    def wait_until(self, condition, seconds, what):
        deadline = time.monotonic() + seconds
        while True:
            for name, process in self._processes:
                if process.poll() is not None:
                    raise AssertionError(f"{name} ended with {process.returncode} before: {what}")
            result = condition()
            if result:
                return result
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {what}; rate {self.value(STEADY)}, pace {self.value(PACE)}, "
                                     f"alert {self.value(f'ALERTS{{alertname={ALERT!r}}}')}")
            time.sleep(0.2)

    def notification(self, status):
        """The latest notification of our alert with that status."""
        mine = [alert for alert in Host.notified
                if alert["labels"]["alertname"] == ALERT and alert["status"] == status]
        return mine[-1] if mine else None

    def active(self):
        """Our alert in Alertmanager, while it is active."""
        connection = http.client.HTTPConnection("127.0.0.1", self._alertmanager_port, timeout=10)
        connection.request("GET", "/api/v2/alerts?active=true")
        alerts = json.loads(connection.getresponse().read())
        connection.close()
        return [alert for alert in alerts if alert["labels"]["alertname"] == ALERT]

    def wait_until_fewer(self, share, rate, pace, what):
        """Until of the rate at most that share is left, while the pace is as before. Both at once: when
        the exporter begins to sample its counters grow more slowly for a while, so that the pace
        seems to fall, too."""
        self.wait_until(lambda: self.value(STEADY) <= share * rate and 0.7 < self.value(PACE) / pace < 1.5, 60, what)
        say(f"{self.value(STEADY):.1f} events per second, {rate:.1f} before, at {self.value(PACE):.0f} allocations of "
            f"unmovable pages per second, {pace:.0f} before")

    def run(self):
        self.wait_until(lambda: self.value("kmem_exporter_tracing_up") == 1, 120,
                        "the exporter in the guest counts and is scraped")
        min_free = self.value("kmem_min_free_bytes")
        step = self.value("kmem_min_free_step_bytes")
        say(f"the guest is scraped; vm.min_free_kbytes is {min_free / 1024:.0f}, the step "
            f"{step / 1024:.0f}")
        if self.value(f"ALERTS{{alertname={ALERT!r}}}") is not None:
            raise AssertionError("the alert is there before anything happened")

        Host.phase = "fragment"
        self.wait_until(lambda: (self.value(RATE) or 0) > 1, 90, "memory fragments")
        say(f"memory fragments: {self.value(RATE):.1f} events per second")
        firing = self.wait_until(lambda: self.notification("firing"), 120, "the alert fires")
        say(f"Alertmanager tells of it: {firing['annotations']['description']}")
        if firing["labels"] != LABELS:
            raise AssertionError(f"labels {firing['labels']}, not {LABELS}")
        if not self.active():
            raise AssertionError("Alertmanager's API does not have the alert")
        said = re.fullmatch(
            r"On guest (\d+\.\d) allocations per second put pages that can't be moved into pageblocks of "
            r"movable ones\. Large allocations will start to fail\. One step of the remedy: sysctl "
            r"vm\.min_free_kbytes=(\d+)", firing["annotations"]["description"])
        if not said or float(said[1]) <= 1 or int(said[2]) != (min_free + step) / 1024:
            raise AssertionError("the description is wrong")
        runbook = firing["annotations"]["runbook_url"].rsplit("/blob/main/", 1)[1]
        if not os.path.exists(f"{REPOSITORY}/{runbook}"):
            raise AssertionError(f"no {runbook}")
        before, pace = self.value(STEADY), self.value(PACE)

        Host.phase = f"remedy {said[2]}"
        self.wait_until(lambda: self.value("kmem_min_free_bytes") == int(said[2]) * 1024, 60,
                        "the guest has the remedy")
        say(f"vm.min_free_kbytes is {said[2]}; the load goes on")
        self.wait_until_fewer(0.6, before, pace, "the rate falls, and the load is the same")

        Host.phase = "room"
        self.wait_until(lambda: self.notification("resolved"), 60, "the alert resolves")
        if self.notification("resolved")["labels"] != LABELS or self.active():
            raise AssertionError("something else resolved")
        say("memory is freed: it resolves")
        self.wait_until_fewer(0.1, before, pace, "the rate falls to a tenth, and the load is the same")

        Host.phase = "end"
        guest = dict(self._processes)["guest"]
        status = guest.wait(60)
        if status != 0:
            raise AssertionError(f"the guest ended with {status}")


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="kmem_drill_") as directory:
        drill = Drill(directory)
        try:
            drill.start()
            drill.run()
        except AssertionError as failure:
            say(f"FAILED: {failure}")
            print(drill.logs(), file=sys.stderr)
            sys.exit(1)
        finally:
            drill.stop()
    say("passed")


if __name__ == "__main__":
    main()
