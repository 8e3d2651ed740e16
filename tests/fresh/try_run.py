"""Runs `make run` as a user would, in a new machine (see run):

    python3 try_run.py replay|live|bpf [COMMAND...]      COMMAND make run

Demands that it says what it does, that /metrics answers, and that Ctrl-C leaves no process, no mount
and no tracefs instance behind. Needs a network namespace of its own, whose loopback is still down.
"""
import fcntl
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
URL = "http://127.0.0.1:15636/metrics"
SAID = {"replay": ["showing a recorded trace instead"], "live": ["tracing the live kernel"],
        "bpf": ["tracing the live kernel", "engine bpf"]}
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1


def poll(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            sys.exit(f"try_run: not within {seconds} s: {what}")
        time.sleep(0.05)
    return result


def processes():
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def mounts():
    with open("/proc/self/mounts", encoding="utf-8") as file:
        return file.read()


def program():
    """The id of the running program."""
    for pid in processes():
        try:
            if os.readlink(f"/proc/{pid}/exe") == f"{REPOSITORY}/build/release/kmem_exporter":
                return pid
        except OSError:  # ended meanwhile
            pass
    return None


def events():
    """How many events /metrics shows; None while it does not answer."""
    try:
        with urllib.request.urlopen(URL, timeout=5) as response:
            text = response.read().decode()
    except urllib.error.URLError:
        return None
    samples = re.findall(r"^kmem_tracepoint_events_total\{.*\} (\S+)$", text, re.MULTILINE)
    return sum(float(value) for value in samples)


def main(mode, command):
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
    before = processes(), mounts()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        make = subprocess.Popen([*command, "make", "run"], cwd=REPOSITORY, stdin=subprocess.DEVNULL,
                                stdout=log, stderr=log, start_new_session=True)
        try:
            def answer():
                if make.poll() is not None:
                    sys.exit("try_run: make run ended by itself")
                return events()
            seen = poll(answer, 900, "/metrics answers and shows events")
            pid = program()
            if mode != "replay":
                poll(lambda: events() > seen, 10, "the live kernel's events are counted")
            elif events() != seen:
                sys.exit("try_run: the recorded trace's events change")
            os.killpg(make.pid, signal.SIGINT)  # as a terminal does at Ctrl-C
            poll(lambda: make.poll() is not None and not os.path.exists(f"/proc/{pid}"), 10,
                 "make run ends at Ctrl-C")
        finally:
            if make.poll() is None:
                os.killpg(make.pid, signal.SIGKILL)
                make.wait()
            log.seek(0)
            output = log.read()
            print(output, flush=True)
    for what in SAID[mode]:
        if what not in output:
            sys.exit(f"try_run: it does not say: {what}")
    if (processes(), mounts()) != before:
        sys.exit(f"try_run: left behind: {processes() - before[0]}, {mounts()} (was {before[1]})")
    print(f"try_run: {seen:g} events were shown; nothing was left behind", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
