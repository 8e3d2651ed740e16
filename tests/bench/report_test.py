#!/usr/bin/python3
"""Tests of report.py: from pairs to the figures of the tables."""
import sys
import unittest

sys.dont_write_bytecode = True
import report


def phase(ns, wall_ns=None, **more):
    return {"ns": ns, "wall_ns": wall_ns or ns, **more}


def row(key, *pairs, events_per_loop=10):
    return {"key": key, "name": key, "skipped": None, "events_per_loop": events_per_loop,
            "pairs": [{"before": before, "traced": traced, "after": after}
                      for before, traced, after in pairs]}


def scenario(*rows, readers=(0,)):
    return {"load": "slab", "cpus": "one", "load_cpus": [1], "reader_cpus": list(readers),
            "rounds": 1, "events_per_loop": {"kfree": 10.0, "kmalloc": 0.001}, "rows": list(rows)}


def cost(key, ns, **more):
    return row(key, (phase(1000), phase(1000 + 10 * ns, events=1000, **more), phase(1000)))


class SummaryTest(unittest.TestCase):
    def test_added_time_is_per_event_and_against_the_mean_of_both_sides(self):
        (result,) = report.summarise(scenario(
            row("empty_tp_btf", (phase(1000), phase(1350, events=1), phase(1100)))))
        self.assertEqual(result["added"], [30, 30, 30])

    def test_quartiles_are_over_the_pairs(self):
        pairs = [(phase(0.5), phase(0.5 + 10 * ns, events=1), phase(0.5)) for ns in (5, 1, 3, 2, 4)]
        (result,) = report.summarise(scenario(row("empty_tp_btf", *pairs)))
        self.assertEqual(result["added"], [2, 3, 4])

    def test_all_in_holds_the_readers_cpu_time_per_event(self):
        (result,) = report.summarise(scenario(cost("tracefs_all", 50, reader_cpu_s=8e-6)))
        self.assertAlmostEqual(result["reader"], 8)
        self.assertAlmostEqual(result["all_in"], 58)

    def test_ratios_are_to_the_floors(self):
        results = report.summarise(scenario(
            cost("empty_tp_btf", 20), cost("empty_raw_tp", 40), cost("nobody_reading", 60),
            cost("tracefs_all", 90, reader_cpu_s=30e-6)))
        self.assertEqual([each["per_empty"] for each in results], [1, 2, 3, 4.5])
        self.assertAlmostEqual(results[-1]["per_nobody"], 2)

    def test_without_tp_btf_the_floor_is_raw_tp_and_said_to_be(self):
        measured = scenario({**row("empty_tp_btf"), "skipped": "too old"}, cost("empty_raw_tp", 40),
                            cost("bpf_all", 60))
        self.assertEqual(report.summarise(measured)[-1]["per_empty"], 1.5)
        self.assertEqual(list(report.skipped(measured)),
                         ["SKIPPED: empty_tp_btf: too old", "The floor of BPF is that of raw_tp."])

    def test_without_floors_there_are_no_ratios(self):
        (result,) = report.summarise(scenario(cost("bpf_all", 60)))
        self.assertIsNone(result["per_empty"])
        self.assertIsNone(result["per_nobody"])
        self.assertIn(" - ", " ".join(report.text_table([result])))

    def test_the_load_is_slower_by_wall_time_where_readers_share_its_cpu(self):
        pair = (phase(100, 200), phase(110, 300, events=1), phase(100, 200))
        for readers, slower in (([0], 10), ([1], 50)):
            (result,) = report.summarise(scenario(row("bpf_all", pair), readers=readers))
            self.assertAlmostEqual(result["slower"], slower)

    def test_losses_are_a_share_of_all_events(self):
        (result,) = report.summarise(scenario(cost("bpf_all", 5, counted=75, lost=25)))
        self.assertEqual(result["lost"], 25)
        (result,) = report.summarise(scenario(cost("bpftrace", 5, counted=75)))
        self.assertIsNone(result["lost"])

    def test_what_was_not_measured_has_no_row_and_needs_none(self):
        nothing = scenario({**row("bpf_all"), "skipped": "no such engine"})
        self.assertEqual(report.summarise(nothing), [])
        self.assertEqual(len(list(report.description(nothing))), 1)

    def test_the_loads_events_are_shown_where_there_are_any(self):
        lines = list(report.description(scenario(cost("bpf_all", 1))))
        self.assertEqual(lines[1], "A loop takes 1000 ns when nobody counts, and fires kfree 10.00.")


if __name__ == "__main__":
    unittest.main()
