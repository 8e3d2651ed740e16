"""Loads that make kmem events fire."""
import mmap
import os
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
