#!/usr/bin/python3
"""What the kmem_* metrics must be, computed from events as text.

This is a second, independent reading of docs/metrics.md. It shares nothing with
the exporter: it never sees a ring buffer, only the lines that the kernel itself
(the file `trace` of a tracefs instance) or trace-cmd prints.

  truth.py compare --engine tracefs|bpf|replay --events FILE --dialect trace|trace-cmd --after B.prom [...]
  truth.py engines --tracefs DIR --bpf DIR
  truth.py losses --metrics SCRAPE.prom --stats DIR
  truth.py perf --stat FILE --before A.prom [...]
  truth.py callers --callers FILE --before A.prom [...]

See docs/accuracy.md. Exit status: 0 equal, 1 not, 2 unusable input.
"""
import argparse
import collections
import datetime
import gzip
import json
import os
import re
import sys

GAP_NS = 20_000
ZERO_SIZE_PTR = 0x10
SIZE_CLASSES = [8, 16, 32, 64, 96, 128, 192, *(2**n for n in range(8, 23))]
MIGRATETYPES = ["unmovable", "movable", "reclaimable", "highatomic"]

SLAB_ALLOCATIONS = {"kmalloc": "kmalloc", "kmalloc_node": "kmalloc",
                    "kmem_cache_alloc": "kmem_cache", "kmem_cache_alloc_node": "kmem_cache"}
SLAB_FREES = {"kfree": "kmalloc", "kmem_cache_free": "kmem_cache"}
TRACEPOINTS = [*SLAB_ALLOCATIONS, *SLAB_FREES, "mm_page_alloc", "mm_page_alloc_zone_locked", "mm_page_alloc_extfrag",
               "mm_page_free", "mm_page_free_batched", "mm_page_pcpu_drain"]

HISTOGRAMS = ["kmem_slab_request_size_bytes", "kmem_slab_waste_bytes", "kmem_pcp_refill_batch_pages",
              "kmem_pcp_drain_batch_pages", "kmem_extfrag_alloc_order", "kmem_extfrag_fallback_order"]
COUNTERS = ["kmem_tracepoint_events_total", "kmem_exporter_events_read_total", "kmem_slab_allocations_total",
            "kmem_slab_allocation_failures_total", "kmem_slab_frees_total", "kmem_slab_requested_bytes_total",
            "kmem_slab_allocated_bytes_total", "kmem_page_allocations_total", "kmem_page_allocated_bytes_total",
            "kmem_page_allocation_failures_total", "kmem_page_frees_total", "kmem_page_freed_bytes_total",
            "kmem_page_batched_frees_total", "kmem_page_zone_locked_allocations_total", "kmem_pcp_refill_pages_total",
            "kmem_pcp_drain_pages_total", "kmem_pcp_refills_total", "kmem_pcp_drains_total",
            "kmem_page_same_cpu_frees_total", "kmem_page_cross_cpu_frees_total", "kmem_extfrag_events_total",
            "kmem_slab_kmalloc_allocations_total",
            "kmem_slab_kmalloc_requested_bytes_total"]
# By names of which the exporter shows the heaviest, and the rest as "other": {metric: its label}.
NAMED = {"kmem_slab_callsite_allocations_total": "call_site",
         "kmem_slab_callsite_requested_bytes_total": "call_site",
         "kmem_slab_callsite_allocated_bytes_total": "call_site",
         "kmem_slab_cache_allocations_total": "cache",
         "kmem_slab_cache_allocated_bytes_total": "cache",
         "kmem_slab_cache_frees_total": "cache"}
COUNTERS += NAMED
# What is alive, which only a replay sees from the beginning; at its end, by call site.
LIVE = {"kmem_slab_callsite_live_objects": "call_site", "kmem_slab_callsite_live_bytes": "call_site",
        "kmem_slab_callsite_live_aged_bytes": "call_site"}
LIVE_AGES = [60, 600, 3600]
# Of objects whose allocation was seen, each free is in one of them: whether it was on that CPU.
LIVE_FREES = {True: "kmem_slab_same_cpu_frees_total", False: "kmem_slab_cross_cpu_frees_total"}
# A call of which so many objects ended by another allocation at their address, and so large a part.
SILENT_REUSES, SILENT_PART = 64, 1 / 4
# Of what a call site has ever asked for, which only a replay sees from the beginning.
SIZES = ["kmem_slab_callsite_size_classes", "kmem_slab_callsite_fixed_size_bytes"]
# Of pages whose allocation was seen, each free is in one of them.
CROSS_CPU = {True: "kmem_page_same_cpu_frees_total", False: "kmem_page_cross_cpu_frees_total"}
# Batches depend on time stamps, and two instances stamp an event one after the other.
BATCHES = ["kmem_pcp_refills_total", "kmem_pcp_drains_total", "kmem_pcp_refill_batch_pages",
           "kmem_pcp_drain_batch_pages"]
# What makes or ends a batch.
BATCH_EVENTS = ["mm_page_alloc_zone_locked", "mm_page_pcpu_drain", "mm_page_alloc", "mm_page_free"]
# Read from /proc: no event tells them.
NOT_FROM_EVENTS = ["kmem_pcp_high_pages", "kmem_pcp_batch_pages", "kmem_free_blocks", "kmem_unusable_free_index",
                   "kmem_fragmentation_index", "kmem_pageblock_order", "kmem_min_free_bytes",
                   "kmem_min_free_step_bytes", "kmem_managed_bytes", "kmem_compaction_stalls_total",
                   "kmem_compaction_successes_total", "kmem_compaction_failures_total",
                   "kmem_allocation_stalls_total"]
# Must not move: with losses there is nothing to compare.
MUST_STAY = ["kmem_exporter_events_lost_total", "kmem_exporter_record_errors_total",
             "kmem_exporter_interference_total", "kmem_exporter_cross_cpu_evicted_total"]


class Unusable(Exception):
    pass


# ---------------------------------------------------------------- text

# "comm-pid [cpu] flags seconds.fraction: event: fields"; trace-cmd leaves the flags out.
LINE = re.compile(r"\[(\d+)\]\s+(?:[^\s:]+\s+)?(\d+)\.(\d{6}|\d{9}):\s+(\w+):\s*(.*)$")
FIELD = re.compile(r"(\w+)=(\([^)]*\)|\S*)")
RAW_LINE = re.compile(r"(\d+) (\d+) (\d+) ")
# The kernel's and trace-cmd's notes about lost events.
LOST = re.compile(r"\[LOST (\d+ )?EVENTS\]|EVENTS (LOST|DROPPED)")


def open_text(path):
    if path == "-":
        return sys.stdin
    if path.endswith(".gz"):
        return gzip.open(path, "rt", errors="replace")
    return open(path, errors="replace")


def parse_events(lines, times=None):
    """Yields (cpu, ns, resolution in ns, event, fields as text).

    times: the same events once more, as the kernel prints them with the trace
    option `raw` ("pid cpu nanoseconds type: id"), whose stamps are exact.
    """
    for line in lines:
        if line.startswith("#") or line.startswith("cpus=") or not line.strip():
            continue
        if LOST.search(line):
            raise Unusable(f"the truth itself lost events: {line.strip()}")
        found = LINE.search(line)
        if not found:
            raise Unusable(f"not an event: {line.strip()!r}")
        cpu, seconds, fraction, event, rest = found.groups()
        cpu = int(cpu)
        resolution = 1000 if len(fraction) == 6 else 1
        ns = int(seconds) * 10**9 + int(fraction) * resolution
        if times is not None:
            exact = next_time(times)
            # The kernel rounds to the nearest microsecond.
            if exact is None or exact[0] != cpu or abs(exact[1] - ns) > 500:
                raise Unusable(f"the exact time stamps do not belong to the text: {exact} at {line.strip()!r}")
            ns, resolution = exact[1], 1
        yield cpu, ns, resolution, event, dict(FIELD.findall(rest))


def next_time(times):
    for line in times:
        if line.startswith("#") or not line.strip():
            continue
        found = RAW_LINE.match(line)
        if not found:
            raise Unusable(f"not a raw event: {line.strip()!r}")
        return int(found[2]), int(found[3])
    return None


def number(text):
    return int(text, 16) if text.startswith("0x") else int(text)


def pointer(text):
    """The address, 0 for a null pointer, None where the kernel does not tell."""
    if text in ("(nil)", "(null)"):
        return 0
    try:
        return int(text, 16)
    except ValueError:
        return None


def site_name(text):
    """The function of "function+0x10/0x20"; empty where the text has but an address.

    And where the offset is that of something else, whose name the text's maker does not know.
    """
    name, _, offset = text.partition("+")
    far = offset and int(offset.split("/")[0], 16) >= 1 << 20
    return "" if far or re.fullmatch(r"(0x)?[0-9a-f]*", name) else name


class GfpFlags:
    """Whether gfp_flags hold __GFP_NOWARN, by the event's own print fmt."""

    def __init__(self, print_fmt=None):
        self.values = {}
        for expression, name in re.findall(r'\{([^"{}]*),\s*"([^"]+)"\}', print_fmt or ""):
            expression = re.sub(r"\(\s*(unsigned long|gfp_t)\s*\)", "", expression)
            expression = re.sub(r"(?<=[0-9a-fA-F])[uUlL]+\b", "", expression)
            if re.fullmatch(r"[0-9a-fA-Fx|&~<>() +-]+", expression):
                # Nothing but numbers and operators is left.
                self.values[name] = eval(expression) & (1 << 64) - 1  # pylint: disable=eval-used
        self.bit = self.values.get("__GFP_NOWARN")

    def nowarn(self, text):
        if self.bit is None:
            raise Unusable("a failed allocation, and no print fmt that says which flags are NOWARN (--formats)")
        for part in text.split("|"):
            if part in self.values:
                value = self.values[part]
            elif part == "none":
                value = 0
            else:
                try:
                    value = number(part)
                except ValueError:
                    raise Unusable(f"gfp flag {part} is not in the print fmt") from None
            if value & self.bit:
                return True
        return False


# ---------------------------------------------------------------- truth

class Interval:
    """A count known to lie between two numbers, which mostly are the same."""
    __slots__ = ("low", "high")

    def __init__(self, low, high=None):
        self.low = low
        self.high = low if high is None else high

    def __str__(self):
        return str(self.low) if self.low == self.high else f"{self.low}..{self.high}"


class Batches:
    """Splits each CPU's refill and drain events into batches.

    surely: split only where the gap is certainly longer than 20 us; otherwise
    wherever it may be.
    """

    def __init__(self, surely):
        self.surely = surely
        self.open = {}  # cpu: [kind, pages, time of the last event, its resolution]
        self.sizes = {"refill": collections.defaultdict(collections.Counter),
                      "drain": collections.defaultdict(collections.Counter)}

    def end(self, cpu):
        batch = self.open.pop(cpu, None)
        if batch:
            self.sizes[batch[0]][cpu][batch[1]] += 1

    def add(self, cpu, kind, pages, ns, resolution, slack):
        batch = self.open.get(cpu)
        if batch:
            gap = ns - batch[2]
            # Two rounded stamps are off by less than one unit together.
            doubt = slack + (resolution if resolution > 1 else 0)
            if self.surely:
                split = gap - doubt > GAP_NS or (resolution > 1 and gap - doubt == GAP_NS)
            else:
                split = gap + doubt > GAP_NS
            if split or batch[0] != kind:
                self.end(cpu)
                batch = None
        if not batch:
            self.open[cpu] = [kind, pages, ns, resolution]
        else:
            batch[1] += pages
            batch[2] = ns

    def finish(self):
        for cpu in list(self.open):
            self.end(cpu)


class Truth:
    def __init__(self, dialect, gfp=None, migratetypes=None, pageblock_order=None, page_size=4096, slack_ns=0,
                 hashed=False, failed=None, pages_one_in=1,
                 from_the_start=True):
        self.dialect = dialect
        self.gfp = gfp or GfpFlags()
        self.migratetypes = migratetypes or MIGRATETYPES
        self.pageblock_order = pageblock_order
        self.page_size = page_size
        self.slack_ns = slack_ns
        self.hashed = hashed
        self.failed = failed or {}  # (cpu, microseconds): gfp_flags, where the text lacks them
        self.pages_one_in = pages_one_in
        self.from_the_start = from_the_start  # the exporter knows of no more pages than the text
        self.allocated_on = {}  # by pfn of pages of the sample
        self.unknown_frees = 0  # of those that had been allocated before
        self.event = None
        self.counters = collections.Counter()
        # Of each series of a counter and of each histogram: how often each tracepoint added which
        # number. With that it can be said how much some lost events can lack at most.
        self.fed = collections.defaultdict(lambda: collections.defaultdict(collections.Counter))
        self.observed = collections.defaultdict(collections.Counter)
        self.events = collections.Counter()  # and failures, which are allocation events
        self.hashed_frees = collections.Counter()
        self.sizes = collections.defaultdict(set)  # by call site
        self.alive = {}  # address: (call, bytes, ns, CPU)
        self.live_frees = collections.Counter()  # by whether it was on that CPU, and the call
        self.doubt = collections.Counter()  # of counters: how much more they may be
        self.freed, self.reused = collections.Counter(), collections.Counter()  # by call
        self.now = 0
        self.few = Batches(True)
        self.many = Batches(False)

    def count(self, metric, value=1, **labels):
        key = metric, tuple(sorted((name, str(text)) for name, text in labels.items()))
        self.counters[key] += value
        self.fed[key][self.event][value] += 1

    def observe(self, metric, value, **labels):
        key = metric, tuple(sorted(labels.items()))
        self.observed[key][value] += 1
        self.fed[key][self.event][value] += 1

    def migratetype(self, text):
        value = int(text)
        return self.migratetypes[value] if value < len(self.migratetypes) else str(value)

    def end_batch(self, cpu):
        self.few.end(cpu)
        self.many.end(cpu)

    def add_to_batch(self, *event):
        self.few.add(*event, self.slack_ns)
        self.many.add(*event, self.slack_ns)

    def add(self, cpu, ns, resolution, event, fields):
        self.event = event
        self.now = max(self.now, ns)
        self.events[event] += 1
        self.count("kmem_tracepoint_events_total", tracepoint=event)
        self.count("kmem_exporter_events_read_total", tracepoint=event)
        if event in SLAB_ALLOCATIONS:
            self.slab_allocation(cpu, SLAB_ALLOCATIONS[event], fields)
        elif event in SLAB_FREES:
            self.slab_free(cpu, event, fields)
        elif event == "mm_page_alloc":
            self.end_batch(cpu)
            self.page_allocation(cpu, ns, fields)
        elif event == "mm_page_free":
            self.end_batch(cpu)
            order = int(fields["order"])
            self.count("kmem_page_frees_total", order=order)
            self.count("kmem_page_freed_bytes_total", self.page_size << order)
            self.page_free(cpu, number(fields["pfn"]))
        elif event == "mm_page_free_batched":
            self.count("kmem_page_batched_frees_total")
        elif event == "mm_page_alloc_zone_locked":
            self.zone_locked(cpu, ns, resolution, fields)
        elif event == "mm_page_pcpu_drain":
            self.pcp(cpu, "drain", int(fields["order"]), ns, resolution)
        elif event == "mm_page_alloc_extfrag":
            self.extfrag(fields)

    def slab_allocation(self, cpu, allocator, fields):
        address = pointer(fields["ptr"])
        if address == 0:
            self.events["slab_failures"] += 1
            self.count("kmem_slab_allocation_failures_total", allocator=allocator)
            return
        requested, allocated = int(fields["bytes_req"]), int(fields["bytes_alloc"])
        self.count("kmem_slab_allocations_total", allocator=allocator)
        self.count("kmem_slab_requested_bytes_total", requested, allocator=allocator)
        self.count("kmem_slab_allocated_bytes_total", allocated, allocator=allocator)
        self.observe("kmem_slab_request_size_bytes", requested, allocator=allocator)
        call = fields.get("call_site", "")
        site = site_name(call)
        if address in self.alive:
            self.reused[self.alive[address][0]] += 1
        self.alive[address] = call, allocated, self.now, cpu
        self.sizes[site].add(requested)
        self.count("kmem_slab_callsite_allocations_total", call_site=site)
        self.count("kmem_slab_callsite_requested_bytes_total", requested, call_site=site)
        self.count("kmem_slab_callsite_allocated_bytes_total", allocated, call_site=site)
        if allocator == "kmalloc":
            self.observe("kmem_slab_waste_bytes", allocated - requested)
            size_class = next((bound for bound in SIZE_CLASSES if allocated <= bound), "+Inf")
            self.count("kmem_slab_kmalloc_allocations_total", size_class=size_class)
            self.count("kmem_slab_kmalloc_requested_bytes_total", requested, size_class=size_class)
        else:
            cache = fields.get("name", "")
            self.count("kmem_slab_cache_allocations_total", cache=cache)
            self.count("kmem_slab_cache_allocated_bytes_total", allocated, cache=cache)

    def slab_free(self, cpu, event, fields):
        address = pointer(fields["ptr"])
        if event == "kfree":
            if address is None:
                raise Unusable(f"a pointer that the text does not show: {fields['ptr']}")
            if address == 0 or not self.hashed and address <= ZERO_SIZE_PTR:
                return
            if self.hashed:
                self.hashed_frees[address] += 1
        self.count("kmem_slab_frees_total", allocator=SLAB_FREES[event])
        if address in self.alive:
            call, _, _, allocated_on = self.alive.pop(address)
            self.freed[call] += 1
            self.live_frees[cpu == allocated_on, call] += 1
        if event == "kmem_cache_free":
            self.count("kmem_slab_cache_frees_total", cache=fields.get("name", ""))

    def silent(self):
        """The calls whose objects are taken to be freed without an event."""
        return {call for call, reused in self.reused.items() if reused >= SILENT_REUSES
                and reused >= SILENT_PART * (reused + self.freed[call])}

    def count_live_frees(self):
        silent = self.silent()
        for (same, call), frees in self.live_frees.items():
            key = LIVE_FREES[same], ()
            # When the exporter stopped following their objects is its own affair.
            (self.doubt if call in silent else self.counters)[key] += frees
        for metric in LIVE_FREES.values():
            self.counters[metric, ()] += 0

    def live(self, shown):
        """What each of these call sites, and all others, hold at the end."""
        silent = self.silent()
        result = collections.Counter()
        for name in [*shown, "other"]:
            for metric in LIVE:
                for age in LIVE_AGES if "aged" in metric else [None]:
                    result[live_key(metric, name, age)] = 0
        for call, size, ns, _ in self.alive.values():
            if call in silent:
                continue
            name = site_name(call) if site_name(call) in shown else "other"
            result[live_key("kmem_slab_callsite_live_objects", name)] += 1
            result[live_key("kmem_slab_callsite_live_bytes", name)] += size
            for age in LIVE_AGES:
                if self.now - ns >= age * 10**9:
                    result[live_key("kmem_slab_callsite_live_aged_bytes", name, age)] += size
        return result

    def page_allocation(self, cpu, ns, fields):
        order = int(fields["order"])
        # The text shows a failure's pfn of -1 as 0; raw fields show it as it is.
        if number(fields["pfn"]) in (0, -1, (1 << 64) - 1):
            self.events["page_failures"] += 1
            flags = fields["gfp_flags"] or self.failed.get((cpu, (ns + 500) // 1000), "")
            nowarn = "true" if self.gfp.nowarn(flags) else "false"
            self.count("kmem_page_allocation_failures_total", order=order, nowarn=nowarn)
            return
        kind = self.migratetype(fields["migratetype"])
        self.count("kmem_page_allocations_total", order=order, migratetype=kind)
        self.count("kmem_page_allocated_bytes_total", self.page_size << order, migratetype=kind)
        if self.is_sampled(number(fields["pfn"])):
            self.allocated_on[number(fields["pfn"])] = cpu

    def is_sampled(self, pfn):
        return pfn * 0x9E3779B97F4A7C15 % 2**64 <= (2**64 - 1) // self.pages_one_in

    def page_free(self, cpu, pfn):
        if not self.is_sampled(pfn):
            return
        allocated_on = self.allocated_on.pop(pfn, None)
        if allocated_on is None:
            self.unknown_frees += self.pages_one_in
        else:
            metric = CROSS_CPU[cpu == allocated_on]
            self.count(metric, self.pages_one_in)
            # Without the one as without the other.
            self.fed[metric, ()]["mm_page_alloc"][self.pages_one_in] += 1

    def zone_locked(self, cpu, ns, resolution, fields):
        order = int(fields["order"])
        # Raw fields lack it on kernels that derive it in their print fmt.
        refill = int(fields["percpu_refill"]) != 0 if "percpu_refill" in fields else order == 0
        self.count("kmem_page_zone_locked_allocations_total", order=order,
                   migratetype=self.migratetype(fields["migratetype"]), percpu_refill="true" if refill else "false")
        if refill:
            self.pcp(cpu, "refill", order, ns, resolution)
        else:
            self.end_batch(cpu)

    def pcp(self, cpu, kind, order, ns, resolution):
        self.count(f"kmem_pcp_{kind}_pages_total", 1 << order, cpu=cpu)
        self.add_to_batch(cpu, kind, 1 << order, ns, resolution)

    def extfrag(self, fields):
        alloc_order, fallback_order = int(fields["alloc_order"]), int(fields["fallback_order"])
        pageblock_order = int(fields.get("pageblock_order", self.pageblock_order or 0))
        if not pageblock_order:
            raise Unusable("extfrag events without pageblock_order (--pageblock-order)")
        # libtraceevent misreads the min() in the print fmt of 6.1 and later:
        # there, `fragmenting` is 9 or 10. What the kernel itself prints is right.
        if self.dialect == "trace":
            fragmenting = int(fields["fragmenting"]) != 0
        else:
            fragmenting = fallback_order < pageblock_order
        self.count("kmem_extfrag_events_total",
                   alloc_migratetype=self.migratetype(fields["alloc_migratetype"]),
                   fallback_migratetype=self.migratetype(fields["fallback_migratetype"]),
                   fragmenting="true" if fragmenting else "false",
                   change_ownership="true" if int(fields["change_ownership"]) else "false")
        self.observe("kmem_extfrag_alloc_order", alloc_order)
        self.observe("kmem_extfrag_fallback_order", fallback_order)

    def numbers(self, key):
        """What each tracepoint added to this series: {tracepoint: {number: times}}."""
        metric, labels = key
        name = family(metric)
        if name in BATCHES:  # of the pages; what batches they make is another matter
            pages = name.replace("_batch", "") + "_total"
            numbers = collections.defaultdict(collections.Counter)
            for (other, _), fed in self.fed.items():
                if other == pages:
                    for event, times in fed.items():
                        numbers[event].update(times)
            return numbers
        if name not in HISTOGRAMS:
            return self.fed.get(key, {})
        numbers = self.fed.get((name, tuple(label for label in labels if label[0] != "le")), {})
        if metric.endswith("_sum"):
            return numbers
        return {event: {1: sum(times.values())} for event, times in numbers.items()}

    def series(self, bounds):
        """All series; bounds: the le labels of each histogram, as text."""
        result = {}

        def put(metric, labels, low, high=None):
            result[metric, tuple(sorted((key, str(value)) for key, value in labels))] = Interval(low, high)

        for (metric, labels), value in self.counters.items():
            low = value
            if metric == "kmem_slab_frees_total" and self.hashed and ("allocator", "kmalloc") in labels:
                # One of the hashed values may be that of the zero-size pointer.
                low -= max(self.hashed_frees.values(), default=0)
            put(metric, labels, low, value + self.doubt[metric, labels])
        for metric in CROSS_CPU.values():
            value = self.counters.get((metric, ()), 0)
            put(metric, (), value, value + (0 if self.from_the_start else self.unknown_frees))
        self.few.finish()
        self.many.finish()
        for kind in ("refill", "drain"):
            few, many = self.few.sizes[kind], self.many.sizes[kind]
            for cpu in many:
                put(f"kmem_pcp_{kind}s_total", [("cpu", cpu)], sum(few[cpu].values()), sum(many[cpu].values()))
            all_few, all_many = sum(few.values(), collections.Counter()), sum(many.values(), collections.Counter())
            self.histogram(put, f"kmem_pcp_{kind}_batch_pages", (), all_few, all_many, bounds)
        for (metric, labels), values in self.observed.items():
            self.histogram(put, metric, labels, values, values, bounds)
        return result

    @staticmethod
    def histogram(put, metric, labels, few, many, bounds):
        put(metric + "_count", labels, sum(few.values()), sum(many.values()))
        put(metric + "_sum", labels, sum(value * times for value, times in few.items()))
        for bound in bounds.get(metric, []):
            limit = float(bound)
            # Splitting a batch never lowers the number of batches up to a size.
            put(metric + "_bucket", [*labels, ("le", bound)],
                sum(times for value, times in few.items() if value <= limit),
                sum(times for value, times in many.items() if value <= limit))


# ---------------------------------------------------------------- metrics

SAMPLE = re.compile(r'([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def parse_metrics(lines):
    values = {}
    for line in lines:
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        found = SAMPLE.match(line)
        if not found:
            raise Unusable(f"not a sample: {line!r}")
        value = float(found[3])
        key = found[1], tuple(sorted(LABEL.findall(found[2] or "")))
        if key in values:
            raise Unusable(f"stands twice: {line!r}")
        values[key] = int(value) if value == int(value) else value
    return values


def live_key(metric, name, age=None):
    return metric, (("call_site", name),) + ((("min_age_seconds", str(age)),) if age else ())


def family(metric):
    for name in HISTOGRAMS:
        if metric in (name + "_bucket", name + "_sum", name + "_count"):
            return name
    return metric


def fold(key, names):
    """The key without its module, and of a name that is not compared as "other"."""
    metric, labels = key
    label = NAMED[metric]
    name = dict(labels)[label]
    return metric, ((label, name if name in names[metric] else "other"),)


def fold_names(scrapes, truth, replay):
    """Leaves, on both sides, the names that all scrapes and the truth's text have."""
    names = {}
    for metric, label in NAMED.items():
        shown = [{dict(labels)[label] for name, labels in scrape if name == metric} for scrape in scrapes.values()]
        told = {dict(labels)[label] for name, labels in truth.counters if name == metric}
        # Where the text does not tell names, all is "other".
        names[metric] = set.intersection(*shown) if told - {""} else set()
        if not any(shown):  # of this kernel
            for counted in (truth.counters, truth.fed):
                for key in [key for key in counted if key[0] == metric]:
                    del counted[key]
    for scrape in scrapes.values():
        for key in [key for key in scrape if key[0] in NAMED]:
            value = scrape.pop(key)
            folded = fold(key, names)
            scrape[folded] = scrape.get(folded, 0) + value
        for key in [key for key in scrape if key[0] in SIZES]:
            value = scrape.pop(key)
            if replay:
                scrape[key[0], tuple(label for label in key[1] if label[0] != "module")] = value
    for key in [key for key in truth.counters if key[0] in NAMED]:
        value = truth.counters.pop(key)
        truth.counters[fold(key, names)] += value
        for event, times in truth.fed.pop(key).items():
            truth.fed[fold(key, names)][event].update(times)
    compare_live(scrapes, truth, replay)
    if replay:
        for site in names["kmem_slab_callsite_allocations_total"] - {"other"}:
            sizes = truth.sizes[site]
            classes = {next((bound for bound in SIZE_CLASSES if size <= bound), None) for size in sizes}
            truth.counters[SIZES[0], (("call_site", site),)] = len(classes)
            truth.counters[SIZES[1], (("call_site", site),)] = sum(sizes) if len(sizes) == 1 else 0


def compare_live(scrapes, truth, replay):
    """Leaves what is told of live memory where all of it was seen; one `other` where the text has no names."""
    told = truth.sizes.keys() - {""}
    for scrape in scrapes.values():
        for key in [key for key in scrape if key[0] in LIVE]:
            value, labels = scrape.pop(key), dict(key[1])
            if replay:
                folded = live_key(key[0], labels["call_site"] if told else "other", labels.get("min_age_seconds"))
                scrape[folded] = scrape.get(folded, 0) + value
        for metric in LIVE_FREES.values():
            if not replay:
                scrape.pop((metric, ()), None)
        if replay:
            shown = {dict(labels)["call_site"] for metric, labels in scrape if metric in LIVE}
            if shown:
                truth.counters.update(truth.live(shown - {"other"}))
                truth.count_live_frees()


def show(key):
    metric, labels = key
    return metric + ("{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}" if labels else "")


def is_batch(key):
    # The pages of all batches do not depend on where a batch ends.
    return family(key[0]) in BATCHES and not key[0].endswith("_sum")


def is_declared(key):
    """Losses that the bpf engine may have, and says by tracepoint."""
    return key == ("kmem_exporter_events_lost_total", (("reason", "recursion"),))


def counts_events(key):
    # Few events at the boundary can carry many bytes: a scrape's socket buffers.
    return not key[0].endswith(("_bytes_total", "_sum"))


def largest(numbers, events):
    """The sum of the so many largest: numbers is {number: times}."""
    total = 0
    for number_, times in sorted(numbers.items(), reverse=True):
        taken = min(times, events)
        total += taken * number_
        events -= taken
    return total


def engine_of(scrape):
    """What the scrape says that its exporter counts with."""
    engines = [dict(labels)["engine"] for name, labels in scrape if name == "kmem_exporter_engine_info"]
    if len(engines) != 1:
        raise Unusable(f"not one kmem_exporter_engine_info but {len(engines)}")
    return engines[0]


class Declared:
    """What an exporter itself says that it lost between two scrapes, by tracepoint.

    Only the bpf engine may lose anything, and only by recursion. What fired and was
    not read was lost, and no more and no less may be declared as lost.
    """

    def __init__(self, engine, scrapes):
        """scrapes: whole ones by name; those named before and after make the interval."""
        self.errors = []
        totals = {}
        for name, scrape in scrapes.items():
            if engine_of(scrape) != engine:
                raise Unusable(f"{name}: its engine is {engine_of(scrape)}, not {engine}")
            fired, read = ({dict(labels)["tracepoint"]: value for (metric, labels), value in scrape.items()
                            if metric == wanted}
                           for wanted in ("kmem_tracepoint_events_total", "kmem_exporter_events_read_total"))
            lost = {tracepoint: value - read.get(tracepoint, 0) for tracepoint, value in fired.items()}
            said = scrape.get(("kmem_exporter_events_lost_total", (("reason", "recursion"),)), 0)
            for tracepoint, value in lost.items():
                if value < 0 or value and engine != "bpf":
                    self.errors.append(f"{name}: {tracepoint} fired {fired[tracepoint]} times, of which "
                                       f"{read.get(tracepoint, 0)} were read")
            if sum(lost.values()) != said:
                self.errors.append(f"{name}: {sum(lost.values())} events fired and were not read, "
                                   f"{said} are declared as lost by recursion")
            totals[name] = lost
        before = totals.get("before", {})
        self.lost = {tracepoint: value - before.get(tracepoint, 0) for tracepoint, value in totals["after"].items()}
        for tracepoint, value in self.lost.items():
            if value < 0:
                self.errors.append(f"{tracepoint}: the losses fell by {-value}")
        self.total = sum(self.lost.values())
        if engine != "bpf":
            self.lost = {}  # each of them is an error

    def of(self, tracepoints):
        return sum(self.lost.get(tracepoint, 0) for tracepoint in tracepoints)

    def allowance(self, numbers):
        """How much they make at most: numbers is {tracepoint: {number: times}}."""
        return sum(largest(times, self.lost.get(tracepoint, 0)) for tracepoint, times in numbers.items())

    def __str__(self):
        lost = [f"{tracepoint} {value}" for tracepoint, value in sorted(self.lost.items()) if value]
        return ", ".join(lost) or "nothing"


class Comparison:
    """Compares the truth with what the exporter counted meanwhile.

    outer: the exporter's delta from just before the truth's recording began
    until just after it ended; inner: the delta within it, None for a replay.
    declared: what the exporter lost and says so.
    """

    def __init__(self, source, bounds, outer, inner, declared, args):
        truth = source.series(bounds)
        self.source = source
        self.declared = declared
        self.missing = collections.Counter()  # by metric, all its series together
        self.fed = collections.defaultdict(lambda: collections.defaultdict(collections.Counter))
        self.rows = []
        self.errors = []
        self.families = {}
        self.total_truth = self.total_outer = self.total_inner = 0
        rare = [name for name in args.rare.split(",") if name]
        known = set(COUNTERS) | set(HISTOGRAMS) | set(SIZES) | set(LIVE) | set(LIVE_FREES.values())
        unknown = sorted({family(key[0]) for key in outer if key[0].startswith("kmem_")
                          and not key[0].startswith("kmem_exporter_")} - known - set(NOT_FROM_EVENTS))
        for name in unknown:
            self.errors.append(f"{name}: truth.py does not know it; teach it, or add it to NOT_FROM_EVENTS")
        for key, value in outer.items():
            if key[0] in MUST_STAY and value and not (args.engine == "bpf" and is_declared(key)):
                self.errors.append(f"{show(key)} rose by {value}")
        self.errors += declared.errors
        keys = sorted(set(truth) | {key for key in outer if family(key[0]) in known})
        for key in keys:
            self.compare(key, truth, outer, inner, args, rare)
        # A lost event is missing in one series of a metric, not in each of them.
        for metric, missing in self.missing.items():
            if missing > declared.allowance(self.fed[metric]):
                self.errors.append(f"{metric}: {missing} are missing in all its series together, "
                                   f"the declared losses explain {declared.allowance(self.fed[metric])}")
        if not self.total_truth:
            self.errors.append("no events at all")
        if self.total_outer - self.total_truth > self.total_truth * args.tolerance_percent / 100:
            self.errors.append(f"all events: the exporter has {self.total_outer}, the truth {self.total_truth}")
        # A wide bracket would hold anything.
        if self.total_outer - self.total_inner > 2 * self.total_truth * args.tolerance_percent / 100:
            self.errors.append(f"the boundary is too wide: between {self.total_inner} and {self.total_outer} events")
        # Whoever declares everything as lost is never wrong.
        if inner is not None and declared.total > 2 * self.total_truth * args.tolerance_percent / 100:
            self.errors.append(f"{declared.total} of {self.total_truth} events are declared as lost: too many")
        if self.total_truth < args.at_least:
            self.errors.append(f"{self.total_truth} events are fewer than {args.at_least}")

    def compare(self, key, truth, outer, inner, args, rare):
        expected = truth.get(key, Interval(0))
        have = outer.get(key, 0)
        numbers = {} if key[0] == "kmem_tracepoint_events_total" else self.source.numbers(key)
        lost = 0 if is_batch(key) else self.declared.allowance(numbers)
        if key not in outer and expected.high > lost:
            self.errors.append(f"{show(key)}: the exporter has no such series, the truth {expected}")
        least = have if inner is None else inner.get(key, 0)
        difference = have - expected.high if have > expected.high else min(0, have - expected.low)
        # What the declared losses do not explain.
        off = difference if difference > 0 else min(0, difference + lost)
        if difference < 0 and not is_batch(key) and not key[0].endswith("_bucket"):
            self.missing[key[0]] -= difference
            for tracepoint, times in numbers.items():
                self.fed[key[0]][tracepoint].update(times)
        name = family(key[0])
        summary = self.families.setdefault(name, [0, 0, 0, 0, 0, 0])
        summary[0] += 1
        if not key[0].endswith(("_bucket", "_sum")):
            summary[1] += expected.low
            summary[2] += expected.high
            summary[3] += have
        summary[4] += difference != 0
        summary[5] = max(summary[5], abs(difference))
        if key[0] == "kmem_tracepoint_events_total":
            self.total_truth += expected.low
            self.total_outer += have
            self.total_inner += least
        if difference:
            self.rows.append((show(key), str(expected), have, f"{difference:+d}", f"{least}..{have}"))

        allowed = expected.high * args.tolerance_percent / 100
        if any(word in show(key) for word in rare):
            if off:
                self.errors.append(f"{show(key)}: truth {expected}, exporter {have}: must be equal")
            return
        low, high = expected.low, expected.high
        slack = 0
        if inner is not None and is_batch(key):
            # At each end of the recording, each CPU may be within a batch; and
            # now and then the two instances' stamps of one gap differ so much
            # that one batch more is split, or elsewhere.
            kind = "refill" if "refill" in key[0] else "drain"
            batches = truth.get((f"kmem_pcp_{kind}_batch_pages_count", ()), Interval(0)).high
            slack = args.batch_slack + batches * args.tolerance_percent / 100
        if is_batch(key):
            # Without an event, one batch may be missing, two may be one, or one may be two: all
            # batches differ by 1, those up to a size by 2.
            slack += self.declared.of(BATCH_EVENTS) * (2 if key[0].endswith("_bucket") else 1)
        if inner is None and abs(off) > slack:
            self.errors.append(f"{show(key)}: truth {expected}, exporter {have}")
        elif high < least - slack or low > have + lost + slack:
            self.errors.append(f"{show(key)}: truth {expected}, exporter between {least} and {have}")
        elif counts_events(key) and expected.high >= args.large and abs(off) > allowed + slack:
            self.errors.append(f"{show(key)}: truth {expected}, exporter {have}: "
                               f"more than {args.tolerance_percent} % off")

    def print_rows(self):
        if not self.rows:
            print("no series differs")
            return
        rows = [("series", "truth", "exporter", "difference", "bracket"), *self.rows]
        widths = [max(len(str(row[i])) for row in rows) for i in range(5)]
        for row in rows:
            print(str(row[0]).ljust(widths[0]), *(str(row[i]).rjust(widths[i]) for i in range(1, 5)))

    def print_table(self):
        print("| Family | Series | Truth | Exporter | Series that differ | Largest difference |")
        print("|---|---:|---:|---:|---:|---:|")
        for name, (series, low, high, have, differ, largest) in sorted(self.families.items()):
            print(f"| `{name}` | {series} | {Interval(low, high)} | {have} | {differ} | {largest} |")


def delta(after, before):
    return {key: value - before.get(key, 0) for key, value in after.items()}


def load_metrics(path):
    with open_text(path) as file:
        return parse_metrics(file)


SCRAPES = ["before", "inner-before", "inner-after", "after"]


def load_scrapes(args):
    paths = {name: getattr(args, name.replace("-", "_")) for name in SCRAPES}
    if bool(paths["inner-before"]) != bool(paths["inner-after"]) or paths["inner-after"] and not paths["before"]:
        raise Unusable("give all four scrapes, or none within the interval")
    return {name: load_metrics(path) for name, path in paths.items() if path}


def read_formats(directory):
    """The print fmt of mm_page_alloc: DIR/mm_page_alloc or DIR/mm_page_alloc/format."""
    for name in ("mm_page_alloc", "mm_page_alloc/format"):
        path = os.path.join(directory, name)
        if os.path.isfile(path):
            with open(path) as file:
                return file.read()
    raise Unusable(f"no format of mm_page_alloc in {directory}")


def read_migratetypes(path):
    """The names in the order of their numbers, from /proc/pagetypeinfo."""
    with open(path) as file:
        for line in file:
            if line.startswith("Number of blocks type"):
                return [name.lower() for name in line[len("Number of blocks type"):].split()]
    raise Unusable(f"no migratetypes in {path}")


def command_compare(args):
    scrapes = load_scrapes(args)
    after, before = scrapes["after"], scrapes.get("before", {})
    declared = Declared(args.engine, scrapes)
    bounds = collections.defaultdict(list)
    for metric, labels in after:
        name = family(metric)
        bound = dict(labels).get("le")
        if name in HISTOGRAMS and bound is not None and bound not in bounds[name]:
            bounds[name].append(bound)
    truth = Truth(args.dialect, GfpFlags(read_formats(args.formats)) if args.formats else None,
                  read_migratetypes(args.pagetypeinfo) if args.pagetypeinfo else None,
                  args.pageblock_order, args.page_size, args.slack_ns, args.hashed_pointers,
                  pages_one_in=args.cross_cpu_one_in, from_the_start=not args.before)
    if args.failures:
        with open_text(args.failures) as file:
            truth.failed = {(cpu, (ns + 500) // 1000): fields["gfp_flags"] for cpu, ns, _, _, fields in parse_events(file)}
    times = open_text(args.times) if args.times else None
    with open_text(args.events) as file:
        for event in parse_events(file, times):
            truth.add(*event)
    if times and next_time(times) is not None:
        raise Unusable("there are more exact time stamps than events")
    fold_names(scrapes, truth, replay=args.engine == "replay")
    inner = delta(scrapes["inner-after"], scrapes["inner-before"]) if "inner-after" in scrapes else None
    comparison = Comparison(truth, bounds, delta(after, before), inner, declared, args)
    if args.table:
        comparison.print_table()
    else:
        comparison.print_rows()
    print()
    print(f"{comparison.total_truth} events, {truth.events['page_failures']} failed page allocations, "
          f"{truth.events['slab_failures']} failed kmalloc, "
          f"{truth.events['mm_page_alloc_extfrag']} extfrag; "
          f"{sum(entry[0] for entry in comparison.families.values())} series compared, {len(comparison.rows)} differ; "
          f"exporter {comparison.total_inner}..{comparison.total_outer} events: {comparison.total_outer - comparison.total_truth:+d} "
          f"({100 * (comparison.total_outer - comparison.total_truth) / max(1, comparison.total_truth):+.3f} %); "
          f"declared as lost by recursion: {declared}")
    for event in args.expect.split(","):
        if event and not truth.events[event]:
            comparison.errors.append(f"{event} did not happen: nothing was shown about it")
    save(args, comparison.errors, engine=args.engine, lost=declared.total, events=comparison.total_truth,
         exporter=comparison.total_outer,
         inner=comparison.total_inner, extfrag=truth.events["mm_page_alloc_extfrag"],
         page_failures=truth.events["page_failures"], slab_failures=truth.events["slab_failures"],
         series=sum(entry[0] for entry in comparison.families.values()), differ=len(comparison.rows),
         families=comparison.families)
    return report(comparison.errors)


def comments(path):
    """The HELP and TYPE lines."""
    with open_text(path) as file:
        return {line.strip() for line in file if line.startswith("#")}


def command_engines(args):
    """Both engines in one interval: the same series, and the same number of events in total."""
    errors, scrapes = [], {}
    for engine in ("tracefs", "bpf"):
        directory = getattr(args, engine)
        scrapes[engine] = {name: without_names(load_metrics(os.path.join(directory, name + ".prom")))
                           for name in SCRAPES}
        errors += [f"{engine}: {error}" for error in Declared(engine, scrapes[engine]).errors]
    lines = [comments(os.path.join(directory, "after.prom")) for directory in (args.tracefs, args.bpf)]
    errors += [f"only one engine says: {line}" for line in sorted(lines[0] ^ lines[1])
               if line in lines[0] or line.split()[2] not in ONLY_BPF]
    compared = 0
    for engine, other in (("tracefs", "bpf"), ("bpf", "tracefs")):
        mine, others = scrapes[engine], scrapes[other]
        for key, value in mine["after"].items():
            compared += key in others["after"]
            # What one of them saw before the other was started has a series in one.
            if (key not in others["after"] and key[0] != "kmem_exporter_engine_info"
                    and not (engine == "bpf" and key[0] in ONLY_BPF)
                    and mine["before"].get(key) != value):
                errors.append(f"only with {engine}: {show(key)}")
            if key[0] == "kmem_exporter_tracepoint_enabled" and others["after"].get(key) != value:
                errors.append(f"{show(key)}: {value} with {engine}, {others['after'].get(key)} with {other}")
        inner = delta(mine["inner-after"], mine["inner-before"])
        outer = delta(others["after"], others["before"])
        for key, value in inner.items():
            if key[0] == "kmem_tracepoint_events_total" and value > outer.get(key, 0):
                errors.append(f"{show(key)}: {value} with {engine}, {outer.get(key, 0)} with {other} "
                              "in a longer interval")
    different = sum(error.startswith("only with") for error in errors)
    print(f"{compared // 2} series with both engines, {different} with one of them")
    save(args, errors, series=compared // 2, different=different)
    return report(errors)


# Of a cache's allocations only the programs see the name before 6.18.
ONLY_BPF = ["kmem_slab_cache_allocations_total", "kmem_slab_cache_allocated_bytes_total"]


def without_names(scrape):
    """Of call sites and caches the engines may show others: one series stands for all."""
    named = {*NAMED, *SIZES, *LIVE, "kmem_exporter_live_left_out_call_sites"}
    return {(key[0], ()) if key[0] in named else key: value for key, value in scrape.items()}


LOSSES = {"overrun": "overrun", "dropped": "dropped events", "commit_overrun": "commit overrun"}


def read_stats(directory, name):
    with open(os.path.join(directory, name)) as file:
        stats = dict(line.strip().split(": ", 1) for line in file if ": " in line)
    return {name: int(stats[name]) for name in ["read events", *LOSSES.values()]}


def command_losses(args):
    """Per CPU, the exporter's account against the kernel's own stats.

    The exporter's reading stops with the scrape, so what the kernel calls read
    must be equal. What is lost must lie between the stats before and after the
    scrape, which are the same where nothing else goes on.
    """
    metrics = load_metrics(args.metrics)
    print("| CPU | Exporter: read | Kernel: read | Exporter: lost | Kernel: lost "
          "| Exporter: read + lost | Kernel: read + lost |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    errors, rows = [], []
    lost_at_all = [0, 0]
    cpus = sorted(int(name[3:]) for name in os.listdir(args.stats) if re.fullmatch(r"cpu\d+", name))
    if not cpus:
        raise Unusable(f"no stats in {args.stats}")
    for cpu in cpus:
        early, late = read_stats(args.stats, f"early.cpu{cpu}"), read_stats(args.stats, f"cpu{cpu}")
        read = metrics.get(("kmem_exporter_cpu_events_read_total", (("cpu", str(cpu)),)))
        if read is None:
            raise Unusable("no kmem_exporter_cpu_events_read_total: set web.per_cpu_detail")
        lost = {dict(labels)["reason"]: value for (name, labels), value in metrics.items()
                if name == "kmem_exporter_cpu_events_lost_total" and dict(labels)["cpu"] == str(cpu)}
        for reason in sorted(set(lost) | set(LOSSES)):
            low, high = (stats[LOSSES[reason]] if reason in LOSSES else 0 for stats in (early, late))
            if not low <= lost.get(reason, 0) <= high:
                errors.append(f"cpu {cpu}: {reason} {lost.get(reason, 0)}, the kernel says {Interval(low, high)}")
        low, high = (sum(stats[name] for name in LOSSES.values()) for stats in (early, late))
        lost_at_all[0] += low
        lost_at_all[1] += high
        if read != late["read events"]:
            errors.append(f"cpu {cpu}: read {read}, the kernel says {late['read events']}")
        rows.append([cpu, read, late["read events"], sum(lost.values()), str(Interval(low, high)),
                     read + sum(lost.values()), str(Interval(late["read events"] + low, late["read events"] + high))])
        print("| " + " | ".join(map(str, rows[-1])) + " |")
    for key, value in metrics.items():
        if key[0] == "kmem_exporter_record_errors_total" and value:
            errors.append(f"{show(key)} is {value}")
    total = sum(value for (name, _), value in metrics.items() if name == "kmem_exporter_events_lost_total")
    if not lost_at_all[0] <= total <= lost_at_all[1]:
        errors.append(f"kmem_exporter_events_lost_total is {total}, the kernel says {Interval(*lost_at_all)}")
    if not lost_at_all[0]:
        errors.append("nothing was lost: nothing was shown")
    save(args, errors, losses=rows)
    return report(errors)


def save(args, errors, **result):
    """For update_docs."""
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"date": datetime.date.today().isoformat(), "title": args.title, "violations": len(errors),
                       **result}, file, indent=1)
            file.write("\n")


def report(errors):
    print()
    for error in errors:
        print(f"VIOLATION: {error}")
    return 1 if errors else 0


def command_perf(args):
    """What perf counted within the recording lies between the inner and the outer delta."""
    scrapes = load_scrapes(args)
    outer = delta(scrapes["after"], scrapes["before"])
    inner = delta(scrapes["inner-after"], scrapes["inner-before"])
    declared = Declared(args.engine, scrapes)
    rows = []
    if args.stat:
        with open(args.stat) as file:
            for line in file:
                cells = line.strip().split(",")
                if len(cells) < 3 or not cells[2].startswith("kmem:"):
                    continue
                key = "kmem_tracepoint_events_total", (("tracepoint", cells[2][len("kmem:"):]),)
                if not cells[0].isdigit():
                    raise Unusable(f"perf did not count {cells[2]}: {cells[0]}")
                rows.append((cells[2], int(cells[0]), inner.get(key, 0), outer.get(key, 0)))
    if args.kmem_stat:
        if declared.of(SLAB_ALLOCATIONS):
            # perf's sums do not tell how large those were; `compare` does, and knows.
            print(f"SKIPPED: bytes: {declared.of(SLAB_ALLOCATIONS)} allocations are declared as lost")
            return report(declared.errors)
        with open(args.kmem_stat) as file:
            text = file.read()
        for what in ("requested", "allocated"):
            found = re.search(rf"Total bytes {what}:\s*([0-9,]+)", text)
            if not found:
                raise Unusable(f"perf kmem stat does not tell the bytes {what}")
            low, high = (sum(value for (name, _), value in values.items()
                             if name == f"kmem_slab_{what}_bytes_total") for values in (inner, outer))
            rows.append((f"bytes {what}", int(found[1].replace(",", "")), low, high))
    if not rows:
        raise Unusable("perf counted nothing")
    errors = list(declared.errors)
    for key, value in outer.items():
        if key[0] in MUST_STAY and value and not (args.engine == "bpf" and is_declared(key)):
            errors.append(f"{show(key)} rose by {value}")
    print("| | perf | Exporter, at least | Exporter, at most | perf to the middle |")
    print("|---|---:|---:|---:|---:|")
    total = [0, 0, 0]
    for name, value, low, high in rows:
        middle = (low + high) / 2
        print(f"| {name} | {value} | {low} | {high} | {100 * (value - middle) / middle if middle else 0:+.3f} % |")
        total = [total[0] + value, total[1] + low, total[2] + high]
        if not low <= value <= high:
            errors.append(f"{name}: perf {value}, exporter between {low} and {high}")
    if total[2] - total[1] > 2 * total[0] * args.tolerance_percent / 100:
        errors.append(f"the boundary is too wide: between {total[1]} and {total[2]}")
    if args.stat and total[0] < args.at_least:
        errors.append(f"{total[0]} events are fewer than {args.at_least}")
    save(args, errors, engine=args.engine, perf=rows)
    return report(errors)


CALLER = re.compile(r"^ (\S+)\+[0-9a-f]+ +\| +(\d+)/\d+ +\| +(\d+)/\d+ +\| +(\d+) +\|")


def read_callers(path):
    """{metric: {function: value}} of perf kmem --slab --caller stat, whose lines are places within functions."""
    metrics = [f"kmem_slab_callsite_{what}_total" for what in ("allocated_bytes", "requested_bytes", "allocations")]
    callers = {metric: collections.Counter() for metric in metrics}
    with open(path) as file:
        for line in file:
            if found := CALLER.match(line):
                for metric, value in zip(metrics, found.groups()[1:]):
                    callers[metric][found[1]] += int(value)
    return callers


def by_function(values, metric):
    functions = collections.Counter()
    for (name, labels), value in values.items():
        if name == metric:
            functions[dict(labels)["call_site"]] += value
    return functions


def command_callers(args):
    """The functions to which perf saw the most bytes go are those of the exporter, in the same order, with the same numbers.

    What perf did not see of the boundary's scrapes at its beginning it saw at its end: it is in the middle.
    """
    scrapes = load_scrapes(args)
    declared = Declared(args.engine, scrapes)
    errors = list(declared.errors)
    tolerance = args.tolerance_percent / 100
    rows = []
    callers = read_callers(args.callers)
    by_bytes = next(iter(callers.values()))
    top = sorted(by_bytes, key=lambda function: -by_bytes[function])[:args.top]
    if len(top) < args.top:
        raise Unusable(f"perf names {len(top)} functions, fewer than {args.top}")
    print("| | perf | Exporter, at least | Exporter, at most | perf to the middle |")
    print("|---|---:|---:|---:|---:|")
    for metric, counted in callers.items():
        low, high = (by_function(delta(scrapes[end], scrapes[begin]), metric)
                     for begin, end in (("inner-before", "inner-after"), ("before", "after")))
        middles = {function: (low[function] + high[function]) / 2 for function in top}
        for function, middle in middles.items():
            value = counted[function]
            rows.append((f"{metric} {function}", value, low[function], high[function]))
            print(f"| {metric} {function} | {value} | {low[function]} | {high[function]} | "
                  f"{f'{100 * (value - middle) / middle:+.3f} %' if middle else '-'} |")
            if abs(value - middle) > tolerance * value:
                errors.append(f"{metric} of {function}: perf {value}, exporter between {low[function]} and {high[function]}")
        at_least, at_most, total = (sum(values[function] for function in top) for values in (low, high, counted))
        if at_most - at_least > 4 * tolerance * total:  # a scrape's few allocations are large
            errors.append(f"{metric}: the boundary is too wide: between {at_least} and {at_most}")
        if counted is by_bytes:
            wide = {function: (high[function] - low[function]) / 2 for function in top}
            errors += wrong_order(metric, by_bytes, middles, wide, declared.of(SLAB_ALLOCATIONS) and tolerance)
            last = counted[top[-1]]
            errors += [f"{metric}: {function} is not among perf's first {args.top}, of which the last has {last}, and "
                       f"the exporter counted at least {value}" for function, value in low.items()
                       if value > last * (1 + tolerance) and function not in [*top, "other"]]
    save(args, errors, engine=args.engine, perf=rows)
    return report(errors)


def wrong_order(metric, truth, counted, wide, tolerance):
    """What is farther apart than its boundary and, of losses, the tolerance has to come in the truth's order."""
    return [f"{metric}: {heavy} comes before {light} for perf ({truth[heavy]} and {truth[light]}), "
            f"but not for the exporter ({counted[heavy]:g} and {counted[light]:g})"
            for heavy in counted for light in counted
            if truth[heavy] - truth[light] > wide[heavy] + wide[light] + tolerance * truth[heavy]
            and counted[heavy] <= counted[light]]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    compare = commands.add_parser("compare", help="events as text against two scrapes")
    compare.add_argument("--events", required=True, help="the text; .gz is unpacked, - is the standard input")
    compare.add_argument("--times", help="the same events printed with the kernel's trace option raw: exact stamps")
    compare.add_argument("--dialect", required=True, choices=["trace", "trace-cmd"],
                         help="trace: the kernel's own file; trace-cmd: report -t, with or without -R")
    compare.add_argument("--before", help="scrape just before the recording began (none: everything was 0)")
    compare.add_argument("--after", required=True, help="scrape just after it ended")
    compare.add_argument("--inner-before", help="scrape just after it began")
    compare.add_argument("--inner-after", help="scrape just before it ended; with both, "
                         "the truth must lie between the inner and the outer delta")
    compare.add_argument("--tolerance-percent", type=float, default=0, help="of all events, and of large series")
    compare.add_argument("--large", type=int, default=100_000, help="a series is large from here on")
    compare.add_argument("--at-least", type=int, default=1, metavar="EVENTS")
    compare.add_argument("--rare", default="", help="series whose name holds one of these must be equal")
    compare.add_argument("--expect", default="", help="events (or slab_failures, page_failures) that must have happened")
    compare.add_argument("--formats", help="directory with mm_page_alloc's format: which gfp flags are NOWARN")
    compare.add_argument("--failures", help="the failed mm_page_alloc once more: "
                         "6.1 prints no gfp_flags while hash-ptr is off")
    compare.add_argument("--pagetypeinfo", help="/proc/pagetypeinfo of the kernel: names of the migratetypes")
    compare.add_argument("--pageblock-order", type=int, help="where the text does not tell")
    compare.add_argument("--page-size", type=int, default=4096)
    compare.add_argument("--cross-cpu-one-in", type=int, default=1, metavar="PAGES",
                         help="collectors.page.cross_cpu.sample_one_in of the exporter")
    compare.add_argument("--slack-ns", type=int, default=0, help="how far two instances' stamps of a gap may differ")
    compare.add_argument("--batch-slack", type=int, default=4, help="batches cut in two where the recording begins or ends")
    compare.add_argument("--hashed-pointers", action="store_true", help="the text holds no real addresses")
    compare.add_argument("--table", action="store_true", help="a Markdown table of the families instead of the series that differ")
    engines = commands.add_parser("engines", help="both engines in one interval, against each other")
    for name in ("tracefs", "bpf"):
        engines.add_argument(f"--{name}", required=True,
                             help="directory with " + ", ".join(f"{scrape}.prom" for scrape in SCRAPES))
    losses = commands.add_parser("losses", help="read and lost events per CPU against per_cpu/cpuN/stats")
    losses.add_argument("--metrics", required=True)
    losses.add_argument("--stats", required=True, help="directory with files cpu0, cpu1 ...")
    perf = commands.add_parser("perf", help="what perf counted within the recording")
    perf.add_argument("--stat", help="output of perf stat -x,")
    perf.add_argument("--kmem-stat", help="output of perf kmem --slab stat")
    perf.add_argument("--tolerance-percent", type=float, default=0)
    perf.add_argument("--at-least", type=int, default=1, metavar="EVENTS")
    callers = commands.add_parser("callers", help="the heaviest call sites by perf kmem --caller")
    callers.add_argument("--callers", required=True, help="output of perf kmem --slab --caller stat")
    callers.add_argument("--top", type=int, default=10, metavar="FUNCTIONS")
    callers.add_argument("--tolerance-percent", type=float, default=1)
    for command in (perf, callers):
        for name in SCRAPES:
            command.add_argument(f"--{name}", required=True)
    for command in (compare, perf, callers):
        command.add_argument("--engine", required=True, choices=["tracefs", "bpf", "replay"],
                             help="what the exporter counts with: bpf may lose events by recursion, and has to say which")
    for command in (compare, engines, losses, perf, callers):
        command.add_argument("--json", help="write the result for update_docs")
        command.add_argument("--title", default="", help="what was compared, for --json")
    args = parser.parse_args(argv)
    try:
        return {"compare": command_compare, "engines": command_engines, "losses": command_losses,
                "perf": command_perf, "callers": command_callers}[args.command](args)
    except (Unusable, OSError, KeyError) as error:
        print(f"truth.py: {error if not isinstance(error, KeyError) else f'a field or line is missing: {error}'}",
              file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
