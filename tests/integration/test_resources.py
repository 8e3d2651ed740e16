"""What the exporter costs: time, memory, descriptors, threads."""
import concurrent.futures
import gc
import math
import os
import re
import statistics
import time

import figures
import load
import tracefs
from harness import PROMETHEUS, TracingTest, only_where_speed_counts, wait_until


def procfs_of_many_zones(directory, series):
    """What a machine of very many NUMA nodes, with so many series of their zones, would show, beside the files of
    this one."""
    directory = f"{directory}/proc"
    os.mkdir(directory)
    for name in os.listdir("/proc"):
        if not name.isdigit() and name != "buddyinfo":
            os.symlink(f"/proc/{name}", f"{directory}/{name}")
    counts = "".join(f"{7 * order + 1:7}" for order in range(11))
    with open(f"{directory}/buddyinfo", "w", encoding="utf-8") as buddyinfo:
        for node in range(series // 20 // 2):  # 20 and more series of each zone
            for zone in ("DMA32", "Normal"):
                buddyinfo.write(f"Node {node}, zone {zone:>8}{counts}\n")
    return directory


def series_of(exporter):
    return sum(len(each) for each in exporter.scrape().samples.values())


class Stable(TracingTest):
    def test_200_scrapes_leave_descriptors_and_threads_as_they_were(self):
        exporter = self.start()
        for _ in range(10):
            exporter.scrape()
        before = (exporter.descriptors(), exporter.status("Threads"))
        for at in range(200):
            exporter.request(headers={"Accept-Encoding": "gzip"} if at % 2 else {})
        self.assertEqual((exporter.descriptors(), exporter.status("Threads")), before)

    def test_a_read_brings_very_many_events(self):
        def reads():
            with open(f"/proc/{exporter.pid}/io", encoding="utf-8") as file:
                return dict(line.split(": ") for line in file.read().splitlines())["syscr"]
        exporter = self.start("--engine=tracefs")
        if not self.instance.has("buffer_subbuf_size_kb"):
            self.skipTest("this kernel's sub-buffers are of one page")
        before, read = exporter.scrape_now().events(), int(reads())
        load.storm(1)
        after, read = exporter.scrape_now().events(), int(reads()) - read
        events = sum(after.values()) - sum(before.values())
        print(f"\n  {events:.0f} events in {read} reads")
        self.assertGreater(events, 100_000)
        self.assertGreater(events, 100 * read)

    def test_a_scrape_asks_the_kernel_for_no_large_block(self):
        """It would break up the very blocks whose lack is measured."""
        exporter = self.start()
        exporter.scrape()  # what is done at the first only
        witness = tracefs.Recording(f"{self.instance_name}_blocks", [], 1024)
        self.addCleanup(witness.remove)
        witness.write("set_event_pid", " ".join(os.listdir(f"/proc/{exporter.pid}/task")))
        # Their own memory, which may be in huge pages, is movable.
        witness.write("events/kmem/mm_page_alloc/filter", "migratetype != 1")
        witness.write("events/kmem/mm_page_alloc/enable", "1")
        witness.start()
        for at in range(20):
            exporter.request(headers=PROMETHEUS if at % 2 else {})
        witness.stop()
        lines = witness.read("trace").splitlines()
        orders = [int(found[1]) for found in (re.search(r" order=(\d+) ", line) for line in lines) if found]
        self.assertGreater(len(orders), 0)
        # Costly from 4 on (include/linux/mmzone.h); those of a socket's buffers are 3, and may fail.
        self.assertLess(max(orders), 4, "\n".join(lines))

    def test_looking_after_the_instance_leaves_descriptors_as_they_were(self):
        exporter = self.start()
        before = exporter.descriptors()
        for times in range(1, 4):
            self.instance.write("tracing_on", "0")
            wait_until(lambda: exporter.scrape()["kmem_exporter_interference_total"] == times, 5,
                       "it is noticed")
        self.assertEqual(exporter.descriptors(), before)


@only_where_speed_counts
class Speed(TracingTest):
    # Others may load this machine: the best of some attempts counts.
    ATTEMPTS = 5
    SCRAPES = int(os.environ.get("KMEM_TEST_SCRAPES", "100"))

    def seconds_to_first_scrape(self):
        exporter = self.launch()
        exporter.wait_for_address()
        while True:
            metrics = exporter.scrape()
            if metrics["kmem_exporter_tracing_up"] == 1:
                break
        taken = time.monotonic() - exporter.started_at
        self.assertIn("kmem_tracepoint_events_total", metrics)
        self.assertEqual(exporter.stop(), 0)
        return taken

    def test_the_first_good_scrape_comes_within_a_second(self):
        seconds = min(self.seconds_to_first_scrape() for _ in range(3))
        print(f"\n  {seconds * 1000:.0f} ms to the first good scrape")
        self.assertLessEqual(seconds, 1)

    def milliseconds_of_scrapes(self, exporter, headers):
        """A new connection for each, as Prometheus makes them; sorted."""
        def scrape():
            begin = time.perf_counter()
            exporter.request(headers=headers)
            return 1000 * (time.perf_counter() - begin)
        gc.collect()
        gc.disable()  # ours would be among the slow ones
        try:
            return sorted(scrape() for _ in range(self.SCRAPES))
        finally:
            gc.enable()

    def assert_scrapes_are_fast(self, exporter, most_ms):
        series = series_of(exporter)
        for way, headers in (("text", {"Accept": PROMETHEUS["Accept"]}), ("gzip", PROMETHEUS)):
            medians = []
            while len(medians) < self.ATTEMPTS and min(medians, default=math.inf) > most_ms[way]:
                taken = self.milliseconds_of_scrapes(exporter, headers)
                medians.append(statistics.median(taken))
                p99 = taken[int(0.99 * len(taken))]
                print(f"\n  {self.ENGINE}: a scrape of {series} series, {way}, takes {medians[-1]:.2f} ms, "
                      f"{p99:.2f} at the slow end")
                figures.keep("scrape", engine=self.ENGINE, series=series, way=way, scrapes=len(taken),
                             p50_ms=medians[-1], p99_ms=p99)
            self.assertLessEqual(min(medians), most_ms[way])

    def test_scrapes_of_the_default_take_at_most_2_ms(self):
        exporter = self.start(config={"overhead": {"budget_percent": 1}})
        self.assert_scrapes_are_fast(exporter, {"text": 2, "gzip": 2})

    def test_scrapes_of_10_000_series_take_at_most_10_ms_and_compressed_20(self):
        exporter = self.start(f"--path.procfs={procfs_of_many_zones(self.directory, 10_000)}",
                              config={"overhead": {"budget_percent": 1}})
        self.assertGreaterEqual(series_of(exporter), 10_000)
        self.assert_scrapes_are_fast(exporter, {"text": 10, "gzip": 20})


@only_where_speed_counts
class Memory(TracingTest):
    MOST_KIB = 32 * 1024
    SERIES = 10_000
    WORKERS = 104  # each fills its stack at its first scrape
    AT_ONCE = 8
    MOST_KIB_LATER = 40 * 1024  # small blocks that the workers still have keep holes in the heap

    def scrape_often(self, exporter, times):
        for at in range(times):
            exporter.request(headers={"Accept-Encoding": "gzip"} if at % 2 else {})

    @staticmethod
    def resident_kib(exporter):
        return int(exporter.status("VmRSS"))

    def have_slab_sampled(self, exporter):
        """Its counters are kept a second time from then on."""
        def traced():
            return exporter.scrape().by("kmem_exporter_traced_seconds_total", "collector")["slab"]

        def sampled():
            before, begin = traced(), time.monotonic()
            load.storm(1)
            return traced() - before < 0.9 * (time.monotonic() - begin)
        wait_until(sampled, 10, "slab is sampled")

    def test_resident_memory_is_at_most_32_mib_after_50_scrapes_and_a_storm(self):
        exporter = self.start()
        load.storm(1)
        self.scrape_often(exporter, 50)
        kib = self.resident_kib(exporter)
        print(f"\n  {kib} KiB resident after 50 scrapes")
        self.assertLessEqual(kib, self.MOST_KIB)

    def test_resident_memory_is_at_most_32_mib_at_10_000_series_and_falls_back_to_40(self):
        exporter = self.start(f"--path.procfs={procfs_of_many_zones(self.directory, self.SERIES)}",
                              config={"overhead": {"budget_percent": 0.1}})
        self.have_slab_sampled(exporter)
        series = series_of(exporter)
        self.assertGreaterEqual(series, self.SERIES)
        self.scrape_often(exporter, 2 * self.WORKERS)
        resident = self.resident_kib(exporter)
        with concurrent.futures.ThreadPoolExecutor(self.AT_ONCE) as threads:
            for scraping in [threads.submit(self.scrape_often, exporter, 10)
                             for _ in range(self.AT_ONCE)]:
                scraping.result()
        try:
            wait_until(lambda: self.resident_kib(exporter) <= self.MOST_KIB_LATER, 5,
                       f"what {self.AT_ONCE} scrapers at once took is given back")
            time.sleep(1)
        finally:  # also where it is too much
            later, peak = self.resident_kib(exporter), int(exporter.status("VmHWM"))
            print(f"\n  {resident} KiB resident at {series} series, {later} after {self.AT_ONCE} scrapers at once, "
                  f"{peak} at most")
            figures.keep("memory", engine=self.ENGINE, series=series, resident_kib=resident, at_once=self.AT_ONCE,
                         peak_kib=peak, later_kib=later)
        self.assertLessEqual(resident, self.MOST_KIB)
        self.assertLessEqual(later, self.MOST_KIB_LATER)
