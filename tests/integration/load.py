"""Loads that make kmem events fire."""
import mmap
import os
import signal
import time

PIPE_PAIR_EVENTS = 12  # a pair of pipe2 and close makes at least so many slab events


def pipes(count):
    """Makes, fills and closes pipes: slab objects and a page for each."""
    for _ in range(count):
        read_end, write_end = os.pipe()
        os.write(write_end, b"x")
        os.close(read_end)
        os.close(write_end)


def pages(mebibytes, rounds=1):
    """Maps anonymous memory, touches every small page of it and unmaps it."""
    for _ in range(rounds):
        with mmap.mmap(-1, mebibytes << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            memory.madvise(mmap.MADV_NOHUGEPAGE)
            for at in range(0, len(memory), mmap.PAGESIZE):
                memory[at] = 1


def mixed():
    """Something of everything, some ten thousand events."""
    pipes(500)
    pages(16)


def storm(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pipes(200)
        pages(1)


class Storm:
    """Does the same over and over on every CPU, and counts what it did: what `do` returns."""

    def __init__(self, do):
        self._do = do
        self._cpus = sorted(os.sched_getaffinity(0))
        # Not by struct.pack_into(), which clears what it writes to first.
        self._counts = memoryview(mmap.mmap(-1, 8 * len(self._cpus))).cast("Q")
        self._children = [self._start(place, cpu) for place, cpu in enumerate(self._cpus)]

    def _start(self, place, cpu):
        child = os.fork()
        if child != 0:
            return child
        try:
            os.sched_setaffinity(0, {cpu})
            count, do, parent = 0, self._do, os.getppid()
            while os.getppid() == parent:
                count += do()
                self._counts[place] = count
        finally:
            os._exit(0)

    def done(self):
        return sum(self._counts)

    def stop(self):
        for child in self._children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        self._children = []
