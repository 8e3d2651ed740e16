"""Those whose cost is measured: each counts the load's events in its own way, or shows what the
least is that such a way can cost."""
import json
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass

import harness
import processes
import tracefs
from processes import Skipped

COLLECTORS = ("slab", "page", "pcp", "extfrag", "fragmentation", "compaction")
INSTANCE = f"{tracefs.NAME_PREFIX}{os.getpid()}_bench"


@dataclass
class Setup:
    """What all contenders share."""
    exporter: str  # the program
    directory: str  # for what is thrown away at the end
    build: str  # where our own programs are
    missing: dict  # why a program of our own could not be built, by name
    readers: list  # the CPUs for what a contender runs beside the load
    events: list  # the tracepoints that belong to the load
    all_events: list  # all kmem tracepoints that a kmem_exporter without flags traces
    own_collectors: list  # the collectors of the load's events


@dataclass
class Reading:
    """How much CPU time the contender's process had taken before and after it was asked, and what
    it had counted and lost until then (None: it does not say)."""
    begin_cpu_s: float
    end_cpu_s: float
    counted: int | None = None
    lost: int | None = None
    at: float = 0           # when it was asked, in seconds
    accounted_s: float | None = None  # what counting has cost all CPUs by its own account


# Of who adds so little to an event that it hardly stands out from what two bare stretches differ by.
CHEAP_PAIRS = 3


class Contender:
    """Started and stopped for each phase. start() returns once all events are counted, or raises
    Skipped."""

    in_windows = False  # counts part of the time, and estimates the rest
    pairs = 1           # in a round

    def __init__(self, key, name, setup):
        self.key = key
        self.name = name
        self.setup = setup
        self.events = setup.events

    def reading(self):
        """None where nothing runs beside the load."""
        return None

    def settle(self):
        """Has what the load left in buffers counted."""

    def stop(self):
        """Returns how many events were counted and lost since the start; None: it does not say."""
        return None, None


class EmptyPrograms(Contender):
    """The floor of everything that counts by BPF programs."""

    pairs = CHEAP_PAIRS

    def __init__(self, program_type, setup):
        super().__init__(f"empty_{program_type}", f"empty BPF programs, {program_type}", setup)
        self._type = program_type

    def start(self):
        if "empty_programs" in self.setup.missing:
            raise Skipped(self.setup.missing["empty_programs"])
        program = f"{self.setup.build}/empty_programs"
        self._process = processes.start(
            [program, f"{program}.bpf.o", self._type, *self.events], self.setup.readers,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if self._process.stdout.readline() != "attached\n":
            _, error = processes.end(self._process)
            raise Skipped(processes.last_line(error))

    def stop(self):
        processes.end(self._process)
        return None, None


class NobodyReading(Contender):
    """The floor of everything that reads the kernel's ring buffers: the records are written, in
    buffers of kmem_exporter's size, and the oldest are overwritten. Buffers that keep the oldest
    would be full after some ms, and the rest would cost less than a record does."""

    def __init__(self, setup):
        super().__init__("nobody_reading", "tracing, nobody reading", setup)

    def start(self):
        self._instance = tracefs.Recording(INSTANCE, [], 1024)
        try:
            if self._instance.has("buffer_subbuf_size_kb"):
                self._instance.write("buffer_subbuf_size_kb", "64")
                self._instance.write("buffer_size_kb", "1024")
            self._instance.write("options/overwrite", "1")
            self._instance.start()
            for event in self.events:
                self._instance.write(f"events/kmem/{event}/enable", "1")
        except BaseException:
            self._instance.remove()
            raise

    def stop(self):
        try:
            written = sum(self._instance.events_ever(cpu) for cpu in self._instance.cpus())
        finally:
            self._instance.remove()
        return written, None


class Exporter(Contender):
    """kmem_exporter with one of its engines."""

    # What is counted by name; of which slab parts, and how it is called.
    PARTS = {"own": ((), "{} only, nothing by name"), "sites": (("callsites",), "{}, by call site"),
             "names": (("callsites", "caches"), "{}, by call site and cache"),
             "live": (("callsites", "caches", "live"), "{}, the same and what is alive"),
             "sampled": (("callsites", "caches", "live"), "{}, the same and one in 16 of what is alive"),
             "all": (("callsites", "caches"), "all collectors"),
             "budget": (("callsites", "caches"), "all collectors, within the default budget")}

    def __init__(self, engine, what, setup):
        parts, name = self.PARTS[what]
        super().__init__(f"{engine}_{what}", f"kmem_exporter, {engine} engine, "
                         + name.format(", ".join(setup.own_collectors)), setup)
        self._engine = engine
        self._flags = [] if what in ("all", "budget") else [f"--no-collector.{name}" for name in COLLECTORS
                                                if name not in setup.own_collectors]
        self.in_windows = what == "budget"
        if engine == "bpf" and what in ("own", "sites", "names", "all"):
            self.pairs = CHEAP_PAIRS
        if not self._flags:
            self.events = setup.all_events
        self._config = f"{setup.directory}/kmem_exporter_{what}.yaml"
        slab = {part: {"enabled": part in parts} for part in ("callsites", "caches", "live")}
        if what == "sampled":
            slab["live"]["sample_one_in"] = 16
        with open(self._config, "w", encoding="utf-8") as config:  # JSON is YAML
            overhead = {} if what == "budget" else {"budget_percent": 0}
            json.dump({"tracefs": {"instance": INSTANCE}, "overhead": overhead,
                       "collectors": {"slab": slab}}, config)

    def _engine_flag(self):
        flag = f"--engine={self._engine}"
        check = subprocess.run(
            [self.setup.exporter, flag, "--config.check", f"--config.file={self._config}"],
            capture_output=True, encoding="utf-8", check=False)
        if check.returncode == 0:
            return [flag]
        if "unknown flag" in check.stderr:
            if self._engine == "tracefs":
                return []  # the one engine that there was before there were two
            raise Skipped("this kmem_exporter has one engine only, tracefs")
        raise Skipped(processes.last_line(check.stderr))

    def start(self):
        command = [
            "taskset", "-c", ",".join(map(str, self.setup.readers)), self.setup.exporter,
            f"--config.file={self._config}", "--web.listen-address=127.0.0.1:0",
            *self._engine_flag(), *self._flags]
        self._exporter = harness.Exporter(command, f"{self.setup.directory}/kmem_exporter.log")
        try:
            self._exporter.wait_for_address()
            self._exporter.wait_until_ready()
        except (AssertionError, OSError) as error:  # OSError: it ended while it was asked
            self.stop()
            raise Skipped(processes.last_line(self._exporter.log() or str(error))) from None
        except BaseException:
            self.stop()
            raise

    def settle(self):
        time.sleep(0.06)  # its ring buffers are read every 50 ms at least

    def reading(self):
        begin = self._exporter.cpu_seconds()
        metrics = self._exporter.scrape()
        if self.in_windows:
            overhead = metrics.by("kmem_exporter_overhead_seconds_total", "part")
            return Reading(begin, self._exporter.cpu_seconds(), at=time.monotonic(), accounted_s=sum(overhead.values()))
        return Reading(begin, self._exporter.cpu_seconds(), int(sum(metrics.events().values())),
                       int(metrics["kmem_exporter_events_lost_total"]))

    def stop(self):
        processes.end(self._exporter.process)
        return None, None


class Bpftrace(Contender):
    """A script that keeps what the collectors of the load's events keep."""

    _ACTIONS = {
        "kmalloc": "@req_kmalloc = hist(args->bytes_req); @sum_kmalloc = sum(args->bytes_req); "
                   "@alloc_kmalloc = sum(args->bytes_alloc); "
                   "@waste_kmalloc = hist(args->bytes_alloc - args->bytes_req);",
        "kmem_cache_alloc": "@req_cache = hist(args->bytes_req); @sum_cache = sum(args->bytes_req);"
                            " @alloc_cache = sum(args->bytes_alloc);",
        "mm_page_alloc": "@allocated[args->order, args->migratetype] = count();",
        "mm_page_alloc_zone_locked": "@refilled[args->order, args->migratetype] = count();",
        "mm_page_free": "@freed[args->order] = count();",
    }

    def __init__(self, setup):
        super().__init__("bpftrace", "bpftrace script", setup)

    def _script(self):
        # Before the first tick come all other probes: they are attached last to first.
        yield 'interval:ms:50 { printf("tick\\n"); }'
        for event in self.events:
            action = self._ACTIONS.get(event.removesuffix("_node"), "")
            yield f"tracepoint:kmem:{event} {{ @count_{event} = count(); {action} }}"

    def start(self):
        script = f"{self.setup.directory}/count.bt"
        with open(script, "w", encoding="utf-8") as file:
            file.write("\n".join(self._script()) + "\n")
        self._process = processes.start(["bpftrace", script], self.setup.readers,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said = ""
        for line in self._process.stdout:
            if line == "tick\n":
                return
            said += line
        processes.end(self._process)
        raise Skipped(processes.last_line(said))

    def reading(self):
        now = processes.cpu_seconds(self._process.pid)
        return Reading(now, now)

    def stop(self):
        output, _ = processes.end(self._process, signal.SIGINT)
        counts = re.findall(r"^@count_\w+: (\d+)$", output, re.MULTILINE)
        return sum(map(int, counts)), None


class PerfRecord(Contender):
    """Writes every event to a file. Its buffers are large enough not to lose them, where the
    memory is there: 32 MiB per CPU, 1 GiB in all."""

    def __init__(self, setup):
        super().__init__("perf_record", "perf record", setup)
        self._file = f"{setup.directory}/perf.data"
        self._pages = 8192
        while self._pages > 128 and self._pages * os.cpu_count() > 262144:
            self._pages //= 2

    def start(self):
        perf_reads, self._control = os.pipe()
        self._answer, perf_writes = os.pipe()
        events = [argument for event in self.events for argument in ("-e", f"kmem:{event}")]
        try:
            self._process = processes.start(
                ["perf", "record", "-q", "-a", "-m", str(self._pages), "-o", self._file, "-D", "-1",
                 "--control", f"fd:{perf_reads},{perf_writes}", *events], self.setup.readers,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                pass_fds=(perf_reads, perf_writes))
        except Skipped:
            self._close()
            raise
        finally:
            os.close(perf_reads)
            os.close(perf_writes)
        if not self._tell("enable"):
            _, error = processes.end(self._process)
            self._close()
            raise Skipped(processes.last_line(error))

    def _tell(self, command):
        """False if perf has ended."""
        try:
            os.write(self._control, f"{command}\n".encode())
        except BrokenPipeError:
            return False
        return os.read(self._answer, 16) != b""

    def _close(self):
        os.close(self._control)
        os.close(self._answer)

    def settle(self):
        for command in ("disable", "ping", "ping"):  # it reads its buffers between two commands
            self._tell(command)

    def reading(self):
        now = processes.cpu_seconds(self._process.pid)
        return Reading(now, now)

    def stop(self):
        processes.end(self._process)
        self._close()
        try:
            report = subprocess.run(["perf", "report", "--stats", "-i", self._file],
                                    capture_output=True, encoding="utf-8", check=False).stdout
        finally:
            os.unlink(self._file)
        # The first part is about the file's records; then come the events, one by one.
        _, _, by_event = report.partition("kmem:")
        numbers = [(name, int(number)) for name, number
                   in re.findall(r"(\w+) events: +(\d+)", by_event)]
        lost = sum(number for name, number in numbers if name == "LOST_SAMPLES")
        if not lost and re.search("LOST events: +[1-9]", report):
            lost = None  # before Linux 6.0 nobody counts them
        return sum(number for name, number in numbers if name == "SAMPLE"), lost


def all_contenders(setup):
    kinds = ["own", *(["sites", "names", "live", "sampled"] if "slab" in setup.own_collectors else []), "all",
             "budget"]
    return [EmptyPrograms("tp_btf", setup), EmptyPrograms("raw_tp", setup),
            *(Exporter("bpf", kind, setup) for kind in kinds),
            NobodyReading(setup),
            *(Exporter("tracefs", kind, setup) for kind in kinds),
            Bpftrace(setup), PerfRecord(setup)]
