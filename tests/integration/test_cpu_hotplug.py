"""CPUs that go offline and come back while the exporter traces."""
import os
import time

import load
from harness import TIME_SCALE, TracingTest, observe, wait_until

CPU = 1
ONLINE = f"/sys/devices/system/cpu/cpu{CPU}/online"


class CpuHotplug(TracingTest):
    # Room enough to lose nothing, whatever else this machine does.
    CONFIG = {"web": {"per_cpu_detail": True}, "tracefs": {"buffer_size_kb": 16384}}

    def setUp(self):
        super().setUp()
        if not os.access(ONLINE, os.W_OK):
            self.skipTest(f"{ONLINE} can't be written")
        self.addCleanup(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        self.addCleanup(self.set_online, True)

    def set_online(self, online):
        with open(ONLINE, "w", encoding="ascii") as file:
            file.write("1" if online else "0")

    def go_offline(self):
        try:
            self.set_online(False)
        except OSError as error:
            self.skipTest(f"CPU {CPU} can't be taken offline: {error}")

    def read_on(self, exporter):
        counts = exporter.scrape_now().by("kmem_exporter_cpu_events_read_total", "cpu")
        return counts.get(str(CPU), 0)

    def load_on(self, exporter):
        """Demands that events on the CPU are counted as the CPU's."""
        everywhere = os.sched_getaffinity(0)
        before = self.read_on(exporter)
        os.sched_setaffinity(0, {CPU})
        load.pipes(500)
        os.sched_setaffinity(0, everywhere)
        self.assertGreaterEqual(self.read_on(exporter) - before, 500 * load.PIPE_PAIR_EVENTS)

    def assert_unharmed(self, exporter):
        metrics = exporter.scrape()
        for family in ("kmem_exporter_record_errors_total", "kmem_exporter_interference_total",
                       "kmem_exporter_events_lost_total"):
            self.assertEqual(metrics[family], 0, family)
        self.assertEqual(exporter.log_lines("level=(warn|error)"), [])

    def test_a_cpu_that_goes_and_comes_back_is_counted_on(self):
        exporter = self.start(config=self.CONFIG)
        self.load_on(exporter)
        for _ in range(2):
            count = self.read_on(exporter)
            self.go_offline()
            self.assert_counting(exporter)
            self.assertGreaterEqual(self.read_on(exporter), count)
            # Longer than it takes the exporter to look after its instance.
            observe(exporter.running, 1.5, "it runs")
            self.set_online(True)
            wait_until(lambda: CPU in os.sched_getaffinity(0), 5, "the CPU is back")
            self.load_on(exporter)
            self.assert_unharmed(exporter)
        self.assertEqual(exporter.stop(), 0)

    def test_a_cpu_that_was_offline_at_the_start_is_counted_when_it_comes(self):
        self.go_offline()
        exporter = self.start(config=self.CONFIG)
        self.assert_counting(exporter)
        self.set_online(True)
        wait_until(lambda: CPU in os.sched_getaffinity(0), 5, "the CPU is back")
        self.load_on(exporter)
        observe(exporter.running, 1.5, "it runs")
        self.assert_unharmed(exporter)

    def test_a_cpu_that_was_offline_at_the_start_does_not_delay_the_drain_of_the_others(self):
        slow = {"tracefs": {"drain_interval_ms": 1000}}
        exporter = self.start(config=slow)
        if not self.drains_in_time(exporter):
            self.skipTest("full buffers do not wake their readers here: a kernel before 6.9, or "
                          "the machine is too busy")
        self.assertEqual(exporter.stop(), 0)
        self.go_offline()
        self.assertTrue(self.drains_in_time(self.start(config=slow)))

    @staticmethod
    def burst():
        """More than a buffer holds, well within the drain's interval; no faster than a slow build
        can read."""
        for _ in range(30):
            load.pipes(100)
            if TIME_SCALE != 1:
                time.sleep(0.015)

    def drains_in_time(self, exporter):
        """Whether bursts that overflow a buffer within the drain's interval get drained because
        the buffer fills up. Others may load this machine: some of the attempts have to do."""
        lost = []
        for _ in range(8):
            # Two drains that find little let the next one wait for as long as it may.
            before = exporter.scrape_now()["kmem_exporter_events_lost_total"]
            exporter.scrape_now()
            self.burst()
            lost.append(exporter.scrape_now()["kmem_exporter_events_lost_total"] - before)
        print(f"\n  lost in bursts: {lost}")
        return lost.count(0) >= 4
