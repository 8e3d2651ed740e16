"""The processes of the benchmark, none of which outlives it."""
import contextlib
import ctypes
import os
import signal
import subprocess
import time

_libc = ctypes.CDLL(None)


class Skipped(Exception):
    """Something can't be measured here. Says why, in one line."""


def start(command, cpus, **options):
    """Starts a program on these CPUs. The kernel kills it if we die."""
    def prepare():
        _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        os.sched_setaffinity(0, cpus)
    try:
        return subprocess.Popen(command, preexec_fn=prepare, encoding="utf-8", **options)
    except FileNotFoundError:
        raise Skipped(f"no {os.path.basename(command[0])} here") from None


def end(process, number=signal.SIGTERM):
    """Ends a program, by force if need be. Returns what it still wrote to its pipes."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        return process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()


@contextlib.contextmanager
def started(command, cpus, **options):
    process = start(command, cpus, **options)
    try:
        yield process
    finally:
        end(process)


def cpu_seconds(pid):
    """CPU time of all threads of a process, to the nanosecond: its CPU-time clock."""
    return time.clock_gettime((~pid << 3) | 2)


def last_line(text):
    """The last thing that a program said, for a reason of one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing"
