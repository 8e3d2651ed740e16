"""What the exporter counts is what the kernel's tracepoints did."""
import os

import load
import tracefs
from harness import TIME_SCALE, Metrics, TracingTest, wait_until


class Tracepoints(TracingTest):
    def test_all_that_the_kernel_has_are_present_and_move_under_load(self):
        exporter = self.start()
        before = exporter.scrape().events()
        there = {name for name in tracefs.TRACEPOINTS if tracefs.kernel_has(name)}
        self.assertEqual(set(before), there)
        # It takes fragmented memory to make this one fire.
        must_move = there - {"mm_page_alloc_extfrag"}

        def still():
            # Per-CPU lists may grow to take this in, and are drained some seconds later.
            load.mixed()
            load.pages(128)
            after = exporter.scrape_now().events()
            return {name for name in must_move if after[name] <= before[name]}
        wait_until(lambda: not still(), 60, "all tracepoints move")

    def test_those_that_the_kernel_lacks_are_logged_and_have_no_series(self):
        missing = {name for name in tracefs.TRACEPOINTS if not tracefs.kernel_has(name)}
        if not missing:
            self.skipTest("this kernel has all twelve")
        exporter = self.start()
        lines = exporter.log_lines("tracepoints that the kernel lacks")
        self.assertEqual(len(lines), 1)
        for name in missing:
            self.assertRegex(lines[0], rf"\b{name}\b")
        metrics = exporter.scrape()
        for family in ("kmem_tracepoint_events_total", "kmem_exporter_tracepoint_enabled"):
            self.assertFalse(missing & set(metrics.by(family, "tracepoint")), family)

    def test_all_in_use_are_logged_and_marked_enabled(self):
        exporter = self.start()
        lines = exporter.log_lines("tracepoints in use")
        self.assertEqual(len(lines), 1)
        enabled = exporter.scrape().by("kmem_exporter_tracepoint_enabled", "tracepoint")
        self.assertEqual(set(enabled.values()), {1})
        for name in enabled:
            self.assertRegex(lines[0], rf"\b{name}\b")

    def test_an_extra_event_is_counted(self):
        if not tracefs.kernel_has("rss_stat"):
            self.skipTest("this kernel has no rss_stat")
        exporter = self.start(config={"extra_events": ["rss_stat"]})
        before = exporter.scrape_now().events()["rss_stat"]
        load.pages(16)
        self.assertGreater(exporter.scrape_now().events()["rss_stat"], before)

    def test_an_event_that_no_kernel_has_is_logged_and_the_rest_runs(self):
        exporter = self.start(config={"extra_events": ["no_such_event"]})
        lines = exporter.log_lines("tracepoints that the kernel lacks")
        self.assertRegex(lines[0], r"\bno_such_event\b")
        self.assertNotIn("no_such_event", exporter.scrape().events())
        self.assert_counting(exporter)

    def test_without_any_of_them_it_serves_the_rest(self):
        exporter = self.start(*(f"--no-collector.{name}" for name in ("slab", "page", "pcp", "extfrag")))
        metrics = exporter.scrape()
        self.assertEqual(metrics["kmem_exporter_tracing_up"], 1)
        self.assertNotIn("kmem_tracepoint_events_total", metrics)
        self.assertIn("kmem_free_blocks", metrics)

    def test_collectors_that_are_off_enable_no_events(self):
        exporter = self.start("--no-collector.slab", "--no-collector.page")
        enabled = self.instance.read("set_event").split()
        self.assertNotIn("kmem:kmalloc", enabled)
        self.assertIn("kmem:mm_page_pcpu_drain", enabled)
        self.assertNotIn("kmalloc", exporter.scrape().events())


class SubBuffers(TracingTest):
    def test_they_are_as_large_as_asked_for_up_to_what_the_kernel_allows(self):
        room = {"buffer_size_kb": 8192, "buffer_total_max_kb": 8192 * os.cpu_count()}
        for asked, given in ((64, 64), (1024, 512)):
            with self.subTest(kb=asked):
                exporter = self.start(config={"tracefs": {**room, "subbuffer_size_kb": asked}})
                if not self.instance.has("buffer_subbuf_size_kb"):
                    self.skipTest("this kernel's sub-buffers have one size")
                self.assertEqual(int(self.instance.read("buffer_subbuf_size_kb")), given)
                self.assert_counting(exporter)
                self.assertEqual(exporter.stop(), 0)


class Scrapes(TracingTest):
    def test_a_scrape_shows_what_happened_before_it(self):
        # Without a drain for the scrape, most of it would be missing for up to a second.
        exporter = self.start(config={"tracefs": {"drain_interval_ms": 1000}})
        self.assert_counting(exporter)

    def test_counters_never_fall_and_agree_with_one_another(self):
        exporter = self.start(config={"tracefs": {"buffer_size_kb": 16384}})
        last = exporter.scrape()
        for _ in range(20):
            load.pipes(200)
            now = exporter.scrape()
            for name, value in now.events().items():
                self.assertGreaterEqual(value, last.events()[name], name)
            last = now
        events = last.events()
        self.assertEqual(events, last.by("kmem_exporter_events_read_total", "tracepoint"))
        self.assertEqual(last["kmem_exporter_events_lost_total"], 0)
        self.assertEqual(last["kmem_exporter_record_errors_total"], 0)
        failed = last["kmem_page_allocation_failures_total"]
        self.assertEqual(last["kmem_page_allocations_total"] + failed, events["mm_page_alloc"])
        self.assertEqual(last["kmem_page_frees_total"], events["mm_page_free"])


class Exactness(TracingTest):
    EVENTS = ("kmalloc", "kfree", "kmem_cache_alloc", "kmem_cache_free", "mm_page_alloc",
              "mm_page_free")
    PIPES = 30_000
    TOLERANCE = 0.005 if TIME_SCALE == 1 else 0.05  # slow scrapes are long ones
    IN_FLIGHT = 10  # events that one instance has got and the other has not yet
    ATTEMPTS = 5
    # They hold the whole interval.
    BUFFER_KB = 65536  # of the CPU that the load runs on
    OTHERS_BUFFER_KB = 8192

    def setUp(self):
        super().setUp()
        self.recording = tracefs.Recording(f"{self.instance_name}_own", self.EVENTS,
                                           self.OTHERS_BUFFER_KB)
        self.addCleanup(self.recording.remove)
        self.addCleanup(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        cpu = min(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpu})
        self.recording.write(f"per_cpu/cpu{cpu}/buffer_size_kb", str(self.BUFFER_KB))

    def record(self, exporter):
        """Runs the load. What the recording counted, and the least and the most that the exporter
        may have counted meanwhile: between the scrapes within and around the recording."""
        self.recording.clear()
        around_begin = exporter.text_now()
        self.recording.start()
        within_begin = exporter.text_now()
        load.pipes(self.PIPES)
        within_end = exporter.text()
        self.recording.stop()
        around_end = exporter.text_now()

        def difference(begin, end):
            begin, end = Metrics(begin).events(), Metrics(end).events()
            return {name: int(end[name] - begin[name]) for name in self.EVENTS}
        return (self.recording.counts(), difference(within_begin, within_end),
                difference(around_begin, around_end))

    def test_counts_agree_with_a_second_instance(self):
        exporter = self.start(config={"tracefs": {"buffer_size_kb": self.BUFFER_KB,
                                                  "buffer_total_max_kb": 2 * self.BUFFER_KB}})
        load.pipes(1000)  # warm
        for _ in range(self.ATTEMPTS):
            counted, least, most = self.record(exporter)
            if self.recording.lost() != 0:
                continue
            lost = exporter.scrape().by("kmem_exporter_events_lost_total", "reason")
            # Those that were lost by recursion have been counted.
            self.assertEqual({reason for reason in lost if lost[reason]} - {"recursion"}, set())
            self.assertGreaterEqual(sum(counted.values()), 100_000)
            self.assertEqual(set(counted), set(self.EVENTS))
            # There are kernels that run no BPF programs in process 1, nor in what interrupts it.
            unseen = self.recording.events_of_process(1) if self.ENGINE == "bpf" else 0
            for name, count in counted.items():
                self.assertGreaterEqual(count, least[name] - self.IN_FLIGHT, name)
                self.assertLessEqual(count, most[name] + self.IN_FLIGHT + unseen, name)
            # On a quiet machine little happens between the scrapes and the recording's ends; else
            # the comparison says too little.
            if all(most[name] - least[name] <= self.TOLERANCE * counted[name]
                   for name in self.EVENTS):
                break
        else:
            self.skipTest(f"the machine is too busy to compare: {least} to {most}")
        print(f"\n  recorded {counted},\n  exported at least {least},\n  at most {most}")
