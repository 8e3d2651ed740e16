"""What the kernel drops when a buffer overflows is counted, CPU by CPU and to the last event."""
import os
import signal
import subprocess

import load
import tracefs
from harness import TracingTest, only_where_speed_counts, wait_until

SMALL = {"buffer_size_kb": 64, "drain_interval_ms": 1000}


class Losses(TracingTest):
    def dropped(self):
        """What the kernel says, since the buffer's last reset."""
        return sum(self.instance.stats(cpu)["dropped events"] for cpu in self.instance.cpus())

    def overflow(self, exporter, seconds=0.5):
        """A storm that nobody drains. How many events of it were lost."""
        exporter.kill(signal.SIGSTOP)
        try:
            load.storm(seconds)
            dropped = self.dropped()
        finally:
            exporter.kill(signal.SIGCONT)
        self.assertGreater(dropped, 0, "the storm was too weak")
        return dropped

    def accounted(self, metrics):
        """Events that the exporter has read or knows as lost, by CPU."""
        read = metrics.by("kmem_exporter_cpu_events_read_total", "cpu")
        lost = metrics.by("kmem_exporter_cpu_events_lost_total", "cpu")
        return {int(cpu): int(read[cpu] + lost[cpu]) for cpu in read}

    def assert_all_accounted_for(self, exporter):
        """For each CPU the kernel's count, taken between two scrapes, lies between theirs."""
        before = self.accounted(exporter.scrape_now())
        kernel = {cpu: self.instance.events_ever(cpu) for cpu in before}
        after = self.accounted(exporter.scrape_now())
        for cpu, count in kernel.items():
            self.assertLessEqual(before[cpu], count, f"CPU {cpu}")
            self.assertLessEqual(count, after[cpu], f"CPU {cpu}")
        return before == after

    def test_a_buffer_overrun_is_counted_as_lost(self):
        exporter = self.start(config={"tracefs": SMALL, "web": {"per_cpu_detail": True}})
        dropped = self.overflow(exporter)
        metrics = exporter.scrape_now()
        lost = metrics.get("kmem_exporter_events_lost_total", reason="dropped")
        self.assertGreaterEqual(lost, dropped)
        by_cpu = metrics.by("kmem_exporter_cpu_events_lost_total", "cpu")
        self.assertEqual(sum(by_cpu.values()), metrics["kmem_exporter_events_lost_total"])
        self.assert_all_accounted_for(exporter)
        self.assert_counting(exporter, pipes=50)

    def test_what_is_lost_once_somebody_cleared_the_buffer_is_counted_once(self):
        exporter = self.start(config={"tracefs": SMALL})
        allowed = os.sched_getaffinity(0)
        self.addCleanup(os.sched_setaffinity, 0, allowed)
        one, other = min(allowed), max(allowed)
        # Of a CPU that lost more before the kernel counts anew, and of one that lost nothing yet.
        for first, second in ((one, other), (one, one), (other, one)):
            os.sched_setaffinity(0, {first})
            self.overflow(exporter)
            os.sched_setaffinity(0, {second})
            before = exporter.scrape_now()
            cleared = before.get("kmem_exporter_interference_total", kind="cleared")
            self.instance.write("trace", "")
            dropped = self.overflow(exporter, 0.05)
            exporter.scrape_now()
            wait_until(lambda: exporter.scrape().get("kmem_exporter_interference_total", kind="cleared") > cleared, 5,
                       "it is noticed")
            lost = exporter.scrape_now().get("kmem_exporter_events_lost_total", reason="dropped")
            lost -= before.get("kmem_exporter_events_lost_total", reason="dropped")
            self.assertGreaterEqual(lost, dropped)
            self.assertLessEqual(lost, self.dropped())
            self.assertEqual(exporter.scrape_now().get("kmem_exporter_events_lost_total", reason="taken"), 0)

    def test_what_somebody_else_reads_out_of_the_instance_is_counted_as_taken(self):
        exporter = self.start(config={"web": {"per_cpu_detail": True}})
        self.assertEqual(exporter.scrape_now().get("kmem_exporter_events_lost_total", reason="taken"), 0)
        with subprocess.Popen(["cat", self.instance.path("trace_pipe")], stdout=subprocess.DEVNULL) as reader:
            try:
                load.storm(0.5)
                wait_until(lambda: exporter.scrape_now().get("kmem_exporter_events_lost_total", reason="taken") > 100, 5,
                           "the other reader got some")
            finally:
                reader.kill()
        metrics = exporter.scrape_now()
        self.assert_all_accounted_for(exporter)
        self.assertEqual(len(exporter.log_lines("somebody else reads events")), 1)
        taken = metrics.get("kmem_exporter_events_lost_total", reason="taken")
        self.assert_counting(exporter)
        self.assertEqual(exporter.scrape_now().get("kmem_exporter_events_lost_total", reason="taken"), taken)

    def test_after_a_loss_it_is_said_that_live_memory_is_no_longer_complete(self):
        exporter = self.start(config={"tracefs": SMALL,
                                      "collectors": {"slab": {"live": {"enabled": True}}}})
        metrics = exporter.scrape_now()
        lost = metrics["kmem_exporter_events_lost_total"]
        self.assertEqual(metrics["kmem_exporter_live_complete"], 0 if lost else 1)
        self.overflow(exporter)
        metrics = exporter.scrape_now()
        self.assertGreater(metrics["kmem_exporter_events_lost_total"], lost)
        self.assertEqual(metrics["kmem_exporter_live_complete"], 0)

    def test_read_and_lost_add_up_to_what_the_kernel_counted_exactly(self):
        # rss_stat alone: nothing fires it while both sides are only looked at.
        if not tracefs.kernel_has("rss_stat"):
            self.skipTest("this kernel has no rss_stat")
        off = {name: {"enabled": False} for name in ("slab", "page", "pcp", "extfrag")}
        exporter = self.start(config={"tracefs": SMALL, "web": {"per_cpu_detail": True},
                                      "collectors": off, "extra_events": ["rss_stat"]})
        for _ in range(3):
            self.overflow(exporter)
        for _ in range(200):
            if self.assert_all_accounted_for(exporter):
                return
        self.skipTest("too much happens on this machine: no two scrapes were the same")

    @only_where_speed_counts
    def test_a_storm_that_is_drained_loses_no_order_of_magnitude(self):
        exporter = self.start()
        load.storm(1)
        metrics = exporter.scrape_now()
        read = metrics["kmem_exporter_events_read_total"]
        lost = metrics["kmem_exporter_events_lost_total"]
        print(f"\n  {read:.0f} read, {lost:.0f} lost in a storm")
        # Beside others that take the CPUs too, the drain thread may not get one in time.
        load_average = os.getloadavg()[0]
        if read <= 9 * lost and load_average > 2 * os.cpu_count():
            self.skipTest(f"the machine is too busy to tell: load {load_average}")
        self.assertGreater(read, 9 * lost)
