"""The load by itself, and while a contender counts."""
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import processes
import tracefs

ROUND_MS = 20  # several of the kernel's batches of deferred frees
ROUNDS_AROUND = 25  # on either side of a round: a second in all, most of which no window takes
WARM_ROUNDS = 2  # switching events on or off leaves cold caches behind
SLAB = ("kmalloc", "kmalloc_node", "kfree", "kmem_cache_alloc", "kmem_cache_alloc_node",
        "kmem_cache_free")
PAGE = tuple(name for name in tracefs.TRACEPOINTS if name not in SLAB)


@dataclass(frozen=True)
class Lengths:
    """Of the stretches of the load, in rounds; and how many there are."""
    phase: int = 10
    # Who counts in windows costs something in some rounds only: after 6 s of load, a mean of 12 s. It is
    # some percent at most, and the bare load's own stretches of 0.2 s differ by that: 6 s of it on either side.
    in_windows_after: int = 300
    in_windows: int = 600
    in_windows_bare: int = 300
    counts: int = 3  # stretches, for how often each event fires


QUICK = Lengths(in_windows_after=20, in_windows=20, in_windows_bare=20, counts=1)  # to see that it works


@dataclass
class Phase:
    """One stretch of the load on all its CPUs."""
    ns: float  # per loop on the CPU: the median round, the mean of the CPUs
    mean_ns: float  # the same, but the mean of all rounds
    wall_ns: float  # per loop, waiting included: the mean of all rounds and CPUs
    beyond_ns: float  # what the mean round takes beyond the median one of the second around it
    wall_beyond_ns: float  # the same, waiting included
    loops: int  # of all rounds and CPUs, the warm ones included


def beyond_its_second(rounds):
    """By how much the mean round is longer than the median one of those around it: what slows down a part of the
    rounds only, and not what drifts in seconds."""
    around = ROUNDS_AROUND
    return statistics.mean(ns - statistics.median(rounds[max(0, at - around):at + around + 1])
                           for at, ns in enumerate(rounds))


class Loads:
    """The load on some CPUs: a process on each, at rest unless it is told to run."""

    def __init__(self, program, name, cpus, stack):
        self.cpus = cpus
        self._processes = [
            stack.enter_context(processes.started(
                [program, name, str(cpu), str(ROUND_MS)], [cpu],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            for cpu in cpus]
        for process in self._processes:
            if process.stdout.readline() != "ready\n":
                sys.exit("bench: the load does not start")

    def run(self, rounds):
        for process in self._processes:
            process.stdin.write(f"{rounds + WARM_ROUNDS}\n")
            process.stdin.flush()
        on_cpu, mean, wall, beyond, wall_beyond, all_loops = [], [], [], [], [], 0
        for process in self._processes:
            numbers = [int(word) for word in process.stdout.readline().split()]
            if not numbers:
                sys.exit("bench: the load has ended")
            results = list(zip(numbers[0::3], numbers[1::3], numbers[2::3]))
            all_loops += sum(numbers[0::3])
            results = results[WARM_ROUNDS:]
            rounds = [(ns - waited) / loops for loops, ns, waited in results]
            on_cpu.append(statistics.median(rounds))
            beyond.append(beyond_its_second(rounds))
            wall_beyond.append(beyond_its_second([ns / loops for loops, ns, _ in results]))
            mean.append(sum(ns - waited for _, ns, waited in results)
                        / sum(loops for loops, _, _ in results))
            wall.append(sum(ns for _, ns, _ in results) / sum(loops for loops, _, _ in results))
        return Phase(*map(statistics.mean, (on_cpu, mean, wall, beyond, wall_beyond)), all_loops)


def count_events(loads, lengths):
    """How often each event of this kernel fires per loop of the load, which runs on one CPU."""
    events = [name for name in tracefs.TRACEPOINTS if tracefs.kernel_has(name)]
    # A small buffer is full at once: what is dropped then is counted too.
    instance = tracefs.Recording(f"{tracefs.NAME_PREFIX}{os.getpid()}_count", [], 64)
    try:
        counts = {}
        for event in events:
            windows = []
            instance.write(f"events/kmem/{event}/enable", "1")
            for _ in range(lengths.counts):
                time.sleep(0.05)  # for the deferred frees, before and after the window
                instance.clear()
                instance.start()
                loops = loads.run(10).loops
                time.sleep(0.05)
                instance.stop()
                windows.append(instance.events_ever(loads.cpus[0]) / loops)
            instance.write(f"events/kmem/{event}/enable", "0")
            counts[event] = statistics.median(windows)
        return counts
    finally:
        instance.remove()


def measure_traced(contender, loads, lengths, events_per_loop):
    """Runs the load while the contender counts its events."""
    contender.start()
    try:
        if contender.in_windows:
            loads.run(lengths.in_windows_after)
        before = contender.reading()
        phase = loads.run(lengths.in_windows if contender.in_windows else lengths.phase)
        contender.settle()
        after = contender.reading()
    except BaseException:
        contender.stop()
        raise
    counted, lost = contender.stop()
    result = asdict(phase)
    if after is not None:
        result["reader_cpu_s"] = after.begin_cpu_s - before.end_cpu_s
        if after.counted is not None:
            counted, lost = after.counted - before.counted, after.lost - before.lost
        if after.accounted_s is not None:
            of_all_cpus = (after.at - before.at) * os.cpu_count()
            result["accounted_percent"] = 100 * (after.accounted_s - before.accounted_s) / of_all_cpus
    expected = phase.loops * events_per_loop
    if counted is not None:
        result["counted"] = counted
        # A few are always missing: frees that are deferred, events of a program that is busy.
        if counted + (lost or 0) < 0.9 * expected:
            raise processes.Skipped(f"of {expected:.0f} events it counted {counted} only")
    if lost is not None:
        result["lost"] = lost
    result["events"] = counted or expected
    return result
