"""tracefs as the tests use it: whether it can be used here, and instances of the tests' own."""
import errno
import os
import re

ROOT = "/sys/kernel/tracing"
INSTANCES = f"{ROOT}/instances"
NAME_PREFIX = "kmem_test_"  # followed by the id of the test process

# The tracepoints of the kernel's Documentation/trace/events-kmem.rst.
TRACEPOINTS = (
    "kmalloc", "kmalloc_node", "kfree", "kmem_cache_alloc", "kmem_cache_alloc_node",
    "kmem_cache_free", "mm_page_alloc", "mm_page_alloc_zone_locked", "mm_page_free",
    "mm_page_free_batched", "mm_page_pcpu_drain", "mm_page_alloc_extfrag")


def mounted():
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        return any(line.split()[1:3] == [ROOT, "tracefs"] for line in mounts)


def why_unusable():
    """Why we can't trace here, or None."""
    if not mounted():
        return f"no tracefs is mounted at {ROOT}, and it can't be mounted (not root?)"
    probe = f"{INSTANCES}/{NAME_PREFIX}{os.getpid()}_probe"
    try:
        os.mkdir(probe)
        os.rmdir(probe)
    except OSError as error:
        return f"no instance of tracefs can be made: {error}"
    return None


def kernel_has(event):
    return os.path.isdir(f"{ROOT}/events/kmem/{event}")


def remove_leftovers():
    """Removes the instances of test processes that were killed."""
    if not mounted() or not os.access(INSTANCES, os.R_OK):
        return
    for name in os.listdir(INSTANCES):
        found = re.match(rf"{NAME_PREFIX}(\d+)_", name)
        if found and not os.path.exists(f"/proc/{found[1]}"):
            try:
                os.rmdir(f"{INSTANCES}/{name}")
            except OSError as error:  # in use, or gone by now
                if error.errno not in (errno.EBUSY, errno.ENOENT):
                    raise


def remove(name):
    """Removes an instance, whoever made it; whether there was one."""
    try:
        os.rmdir(f"{INSTANCES}/{name}")
        return True
    except FileNotFoundError:
        return False


class Instance:
    """The files of an instance, the exporter's or our own."""

    def __init__(self, name):
        self.directory = f"{INSTANCES}/{name}"

    def path(self, file):
        return f"{self.directory}/{file}"

    def exists(self):
        return os.path.isdir(self.directory)

    def has(self, file):
        return os.path.exists(self.path(file))

    def read(self, file):
        with open(self.path(file), encoding="utf-8") as stream:
            return stream.read().strip()

    def write(self, file, value):
        with open(self.path(file), "w", encoding="utf-8") as stream:
            stream.write(value)

    def cpus(self):
        return sorted(int(name[3:]) for name in os.listdir(self.path("per_cpu")))

    def stats(self, cpu):
        """per_cpu/cpuN/stats as a dict; its times and sizes are left out."""
        # In one read: the kernel writes the text anew for each.
        fd = os.open(self.path(f"per_cpu/cpu{cpu}/stats"), os.O_RDONLY)
        try:
            lines = os.read(fd, 4096).decode().splitlines()
        finally:
            os.close(fd)
        pairs = (line.split(": ") for line in lines)
        return {key: int(value) for key, value in pairs if value.isdigit()}

    def events_ever(self, cpu):
        """Events since the buffer's last reset, wherever they are now."""
        # The counters are not of one moment: an event that is read meanwhile would be counted as
        # waiting and as read. So none may be read between two looks.
        before, stats = None, self.stats(cpu)
        while before is None or before["read events"] != stats["read events"]:
            before, stats = stats, self.stats(cpu)
        return sum(stats[key] for key in ("entries", "read events", "overrun", "dropped events"))


class Recording(Instance):
    """An instance of our own that keeps kmem events until they are counted: a second opinion.

    If this process dies, the kernel stops it and frees its buffer.
    """

    def __init__(self, name, events, buffer_kb):
        super().__init__(name)
        os.mkdir(self.directory)
        self._free_buffer = None
        try:
            self.write("options/disable_on_free", "1")
            self._free_buffer = open(self.path("free_buffer"), "w", encoding="utf-8")
            self.write("tracing_on", "0")
            self.write("options/overwrite", "0")
            self.write("buffer_size_kb", str(buffer_kb))
            for event in events:
                self.write(f"events/kmem/{event}/enable", "1")
        except OSError:
            self.remove()
            raise

    def remove(self):
        if self._free_buffer is not None:
            self._free_buffer.close()
        os.rmdir(self.directory)

    def clear(self):
        self.write("trace", "")

    def start(self):
        self.write("tracing_on", "1")

    def stop(self):
        self.write("tracing_on", "0")

    def lost(self):
        stats = [self.stats(cpu) for cpu in self.cpus()]
        return sum(each["overrun"] + each["dropped events"] for each in stats)

    def counts(self):
        """Events by name, from the text of the trace."""
        event = re.compile(rb"^.{16,}? +\[\d+\] +\S+ +\d+\.\d+: (\w+): ")
        counts = {}
        with open(self.path("trace"), "rb") as trace:
            for line in trace:
                found = event.match(line)
                if found:
                    name = found[1].decode()
                    counts[name] = counts.get(name, 0) + 1
        return counts

    def events_of_process(self, pid):
        """How many events happened while it had the CPU."""
        tasks = "|".join(os.listdir(f"/proc/{pid}/task"))
        event = re.compile(rf"^.{{16,}}?-({tasks}) +\[\d+\] ".encode())
        with open(self.path("trace"), "rb") as trace:
            return sum(event.match(line) is not None for line in trace)
