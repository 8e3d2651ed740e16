"""A real Prometheus, for tests, drills and pictures."""
import http.client
import json
import random
import re
import socket
import subprocess
import time
import urllib.parse


def free_port():
    """For programs that can't tell which they got for 0. The kernel gives none below 32768 to whoever asks
    for any (Documentation/networking/ip-sysctl.rst, ip_local_port_range)."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


class Prometheus:
    """A running Prometheus. It keeps its files in the directory given, and ends with this process."""

    def __init__(self, program, directory, config, *flags):
        self.log_path = f"{directory}/prometheus.log"
        self.port = free_port()
        with open(f"{directory}/prometheus.yml", "w", encoding="utf-8") as file:
            json.dump(config, file)  # JSON is YAML
        with open(self.log_path, "wb") as log:
            # With setpriv it ends with this process, even a killed one.
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--",
                 program, f"--config.file={directory}/prometheus.yml",
                 f"--storage.tsdb.path={directory}/tsdb",
                 f"--web.listen-address=127.0.0.1:{self.port}", *flags],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def log(self):
        with open(self.log_path, encoding="utf-8") as log:
            return log.read()

    def complaints(self):
        return [line for line in self.log().splitlines() if re.search("level=(warn|error)", line, re.I)]

    def get(self, path, **parameters):
        """What the API answers; None while it is starting."""
        if self.process.poll() is not None:
            raise AssertionError(f"Prometheus ended:\n{self.log()}")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", f"{path}?{urllib.parse.urlencode(parameters)}")
            response = connection.getresponse()
            body = response.read()
        except ConnectionRefusedError:
            return None
        finally:
            connection.close()
        if response.status == 503:
            return None
        if response.status != 200:
            raise AssertionError(f"{path} {parameters}: {response.status} {body}")
        return json.loads(body)["data"]

    def samples(self, expression):
        """What an instant query gives: pairs of labels and a value."""
        answer = self.get("/api/v1/query", query=expression) or {"result": []}
        return [(sample["metric"], float(sample["value"][1])) for sample in answer["result"]]

    def value(self, expression):
        """The only value of an instant query, or None."""
        values = [value for _, value in self.samples(expression)]
        if len(values) > 1:
            raise AssertionError(f"{expression} gives {len(values)} values")
        return values[0] if values else None

    def wait_until(self, expression, seconds):
        """Waits until an instant query gives something."""
        deadline = time.monotonic() + seconds
        while not self.samples(expression):
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing within {seconds} s: {expression}\n{self.log()[-2000:]}")
            time.sleep(0.1)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()
