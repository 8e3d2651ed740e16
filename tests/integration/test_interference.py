"""Somebody else meddles with the exporter's instance while it traces."""
from harness import TracingTest, observe, wait_until


class Interference(TracingTest):
    def interfere(self, exporter, kind, file, value, restored):
        """Writes to a file of the instance; demands that the exporter notices once, says so once,
        restores what `restored` reads, and goes on counting."""
        def count():
            return exporter.scrape().get("kmem_exporter_interference_total", kind=kind)

        def lines():
            return len(exporter.log_lines(r"somebody (changed|cleared) our tracefs instance"))
        self.assert_counting(exporter)
        count_before, lines_before = count(), lines()
        before = restored()
        self.instance.write(file, value)
        wait_until(lambda: count() > count_before, 5, f"{kind} is counted")
        wait_until(lambda: restored() == before, 5, f"{file} is restored")
        # It looks once a second: neither counter nor log may go on.
        observe(lambda: (count(), lines()) == (count_before + 1, lines_before + 1), 2.5,
                f"one {kind}, one log line:\n{exporter.log()}")
        others = exporter.scrape().by("kmem_exporter_interference_total", "kind")
        self.assertEqual({each for each in others if others[each]}, {kind})
        self.assert_counting(exporter)
        self.assertEqual(exporter.scrape_now().get("kmem_exporter_events_lost_total", reason="taken"), 0)

    def reads(self, file):
        return lambda: self.instance.read(file)

    def test_tracing_switched_off_is_switched_on_again(self):
        self.interfere(self.start(), "disabled", "tracing_on", "0", self.reads("tracing_on"))

    def test_an_event_disabled_is_enabled_again(self):
        self.interfere(self.start(), "disabled", "events/kmem/kmalloc/enable", "0",
                       self.reads("set_event"))

    def test_all_events_disabled_are_enabled_again(self):
        self.interfere(self.start(), "disabled", "set_event", "", self.reads("set_event"))

    def test_very_many_events_of_others_are_no_interference(self):
        exporter = self.start()
        self.assert_counting(exporter)
        size = len(self.instance.read("set_event"))
        # Rare ones, so that their number is all that they add.
        for system in ("xfs", "ext4", "btrfs", "nfs", "xen", "kvm", "writeback", "jbd2", "cgroup", "iommu", "vmscan",
                       "io_uring", "mptcp", "cfg80211", "thermal", "power", "block", "scsi", "compaction", "syscalls"):
            if self.instance.has(f"events/{system}"):
                self.instance.write(f"events/{system}/enable", "1")
        text = self.instance.read("set_event")
        if len(text) < size + 8192:
            self.skipTest(f"this kernel has {len(text.splitlines())} events only")
        observe(lambda: not sum(exporter.scrape().by("kmem_exporter_interference_total", "kind").values()), 3,
                f"no interference:\n{exporter.log()}")
        self.assert_counting(exporter)

    def test_a_cleared_buffer_is_noticed(self):
        self.interfere(self.start(), "cleared", "trace", "", lambda: None)

    def test_a_resized_buffer_is_resized_back(self):
        self.interfere(self.start(), "resized", "buffer_size_kb", "128",
                       self.reads("buffer_size_kb"))

    def test_one_cpus_resized_buffer_is_resized_back(self):
        self.interfere(self.start(), "resized", "per_cpu/cpu0/buffer_size_kb", "128",
                       self.reads("buffer_size_kb"))

    def test_resized_sub_buffers_are_resized_back(self):
        for kb in ("4", "256"):
            with self.subTest(kb=kb):
                exporter = self.start()
                if not self.instance.has("buffer_subbuf_size_kb"):
                    self.skipTest("this kernel's sub-buffers have one size")
                self.interfere(exporter, "resized", "buffer_subbuf_size_kb", kb,
                               self.reads("buffer_subbuf_size_kb"))
                self.assertEqual(exporter.stop(), 0)

    def test_a_changed_clock_is_changed_back(self):
        self.interfere(self.start(), "clock", "trace_clock", "global", self.reads("trace_clock"))

    def test_another_interference_is_another_count_and_line(self):
        exporter = self.start()
        self.interfere(exporter, "disabled", "tracing_on", "0", self.reads("tracing_on"))
        self.interfere(exporter, "disabled", "tracing_on", "0", self.reads("tracing_on"))
        self.assertEqual(
            exporter.scrape().get("kmem_exporter_interference_total", kind="disabled"), 2)

    def test_events_that_others_enable_in_it_are_left_alone_and_harm_nothing(self):
        exporter = self.start()
        file = "events/sched/sched_switch/enable"
        if not self.instance.has(file):
            self.skipTest("this kernel has no sched_switch")
        self.instance.write(file, "1")

        def unknown():
            return exporter.scrape().get("kmem_exporter_record_errors_total",
                                         cause="unknown_event_id")
        wait_until(lambda: unknown() > 0, 5, "events of others are counted as unknown")
        self.assert_counting(exporter)
        metrics = exporter.scrape()
        errors = metrics["kmem_exporter_record_errors_total"]
        self.assertEqual(errors, metrics.get("kmem_exporter_record_errors_total",
                                             cause="unknown_event_id"), "errors of other causes")
        self.assertEqual(metrics["kmem_exporter_interference_total"], 0)
        self.assertEqual(self.instance.read(file), "1")
