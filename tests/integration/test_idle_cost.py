"""What the exporter costs on a machine that does nothing."""
import time

from harness import TracingTest, observe, only_where_speed_counts


@only_where_speed_counts
class IdleCost(TracingTest):
    SECONDS = 5
    ATTEMPTS = 6
    QUIET = 20_000  # kmem events a second, at most

    def test_it_takes_less_than_half_a_percent_of_a_core(self):
        exporter = self.start(config={"overhead": {"budget_percent": 1}})  # as by default
        rates = []
        for _ in range(self.ATTEMPTS):
            events = sum(exporter.scrape_now().events().values())
            cpu, begin = exporter.cpu_seconds(), time.monotonic()
            observe(exporter.running, self.SECONDS, "it runs")
            share = (exporter.cpu_seconds() - cpu) / (time.monotonic() - begin)
            events = sum(exporter.scrape_now().events().values()) - events
            rates.append(int(events / self.SECONDS))
            print(f"\n  {share * 100:.3f} % of a core at {rates[-1]} events/s")
            if rates[-1] <= self.QUIET:
                self.assertLess(share, 0.005)
                return
        self.skipTest(f"the machine is too busy to tell: {rates} kmem events a second")
