#!/usr/bin/python3
"""Tests of report.py, from pairs to the figures of the tables, and of whole_report.py."""
import os
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../integration"))
import measuring
import report
import whole_report


def phase(ns, wall_ns=None, mean_ns=None, beyond_ns=0, wall_beyond_ns=0, **more):
    return {"ns": ns, "mean_ns": mean_ns or ns, "wall_ns": wall_ns or ns,
            "beyond_ns": beyond_ns, "wall_beyond_ns": wall_beyond_ns, **more}


def row(key, *pairs, events_per_loop=10, in_windows=False):
    return {"key": key, "name": key, "in_windows": in_windows, "skipped": None, "events_per_loop": events_per_loop,
            "pairs": [{"before": before, "traced": traced, "after": after}
                      for before, traced, after in pairs]}


def scenario(*rows, readers=(0,)):
    return {"load": "slab", "cpus": "one", "load_cpus": [1], "reader_cpus": list(readers),
            "rounds": 1, "events_per_loop": {"kfree": 10.0, "kmalloc": 0.001}, "rows": list(rows)}


def cost(key, ns, **more):
    return row(key, (phase(1000), phase(1000 + 10 * ns, events=1000, **more), phase(1000)))


class DescriptionTest(unittest.TestCase):
    def first_line(self, measured):
        return next(report.description(measured))

    def test_says_how_many_pairs_and_how_many_of_those_within_a_budget(self):
        self.assertEqual(self.first_line(scenario(cost("bpf_all", 60))),
                         "1 pairs for each. The load is on CPU 1, readers on CPU 0.")
        pair = (phase(1000), phase(1100, events=1000), phase(1000))
        measured = {**scenario(row("bpf_all", *[pair] * 8), row("bpf_budget", *[pair] * 2, in_windows=True)),
                    "rounds": 8}
        self.assertTrue(self.first_line(measured).startswith("8 pairs for each (2 within a budget). "))
        measured["rows"].append(row("empty_tp_btf", *[pair] * 24))
        self.assertTrue(self.first_line(measured).startswith(
            "8 pairs for each (24 of the cheapest, 2 within a budget). "))


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
        self.assertEqual(list(report.below(measured)),
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
            self.assertAlmostEqual(result["slower"][1], slower)

    def test_how_much_slower_the_load_gets_is_shown_with_its_quartiles(self):
        pairs = [(phase(1000), phase(1000 + 10 * percent, events=1), phase(1000)) for percent in (5, 1, 3, 2, 4)]
        table = list(report.text_table(report.summarise(scenario(row("bpf_all", *pairs)))))
        self.assertRegex(table[0], r"Slower by, % \(quartiles\)")
        self.assertRegex(table[1], r" 3\.0 \(2\.0\.\.4\.0\) ")

    def test_who_counts_in_windows_is_compared_by_what_sticks_out_of_each_second(self):
        pair = (phase(100, 200, beyond_ns=1, wall_beyond_ns=2),
                phase(150, 400, beyond_ns=5, wall_beyond_ns=12, events=1),
                phase(100, 200, beyond_ns=3, wall_beyond_ns=6))
        for readers, slower in (([0], 3), ([1], 4)):
            (result,) = report.summarise(scenario(row("bpf_budget", pair, in_windows=True), readers=readers))
            self.assertAlmostEqual(result["added"][1], 0.3)
            self.assertAlmostEqual(result["slower"][1], slower)

    def test_who_counts_in_windows_is_compared_as_a_whole_too_below_the_table(self):
        pair = (phase(100, mean_ns=104), phase(101, mean_ns=114, events=1), phase(100, mean_ns=106))
        whole = "bpf_budget: slower by 8.6 (8.6..8.6) % by whole stretches, the bare load's own differing by 2.0 %."
        self.assertEqual(list(report.below(scenario(row("bpf_budget", pair, in_windows=True)))), [whole])
        pair[1]["accounted_percent"] = 0.75
        self.assertEqual(list(report.below(scenario(row("bpf_budget", pair, in_windows=True)))),
                         [whole + " By its own account it took 0.8 (0.8..0.8) % of the CPUs."])
        self.assertEqual(list(report.below(scenario(row("bpf_all", pair)))), [])

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

    def test_how_much_the_bare_load_differs_is_shown_for_both_kinds_of_pairs(self):
        short = [(phase(1000), phase(1100, events=1), phase(after)) for after in (1030, 990, 980)]
        long = (phase(1000, beyond_ns=20), phase(1100, events=1), phase(1500, beyond_ns=25))
        measured = scenario(row("bpf_all", *short), row("bpf_budget", long, in_windows=True))
        self.assertEqual(list(report.description(measured))[2], "The bare load after a contender differs from that "
                         "before it by 2.0 %, and by 0.5 % in what sticks out of each second, for those within a "
                         "budget (medians).")
        self.assertRegex(list(report.description(scenario(row("bpf_all", *short))))[2], "by 2.0 % .medians.")


class BeyondItsSecondTest(unittest.TestCase):
    def test_a_few_slow_rounds_of_a_second_stick_out(self):
        rounds = ([100] * 48 + [150] * 2) * 10
        self.assertAlmostEqual(measuring.beyond_its_second(rounds), 2)

    def test_what_drifts_for_longer_does_not(self):
        self.assertAlmostEqual(measuring.beyond_its_second([100] * 300 + [150] * 300), 0)
        self.assertLess(abs(measuring.beyond_its_second([100 + at / 10 for at in range(600)])), 0.2)


class WholeTest(unittest.TestCase):
    def test_each_storm_and_each_engine_has_a_row(self):
        lines = list(whole_report.lines({
            "storms": [{"seconds": 60.0, "cpus": 2, "events_per_second": 1031234.6, "read": 124e6, "lost": 3.0,
                        "reader_ns": 35.06}],
            "memory": [{"engine": "bpf", "series": 11067, "resident_kib": 25600, "at_once": 8, "peak_kib": 53248,
                        "later_kib": 27136}],
            "scrapes": [{"engine": "bpf", "series": 11067, "way": "gzip", "scrapes": 500, "p50_ms": 5.04,
                         "p99_ms": 8.96}]}))
        self.assertIn("| 60 | 2 | 1031235 | 124000000 | 3 | 35.1 |", lines)
        self.assertIn("| bpf | 11067 | 25.0 | 52.0 (8) | 26.5 |", lines)
        self.assertIn("| bpf | 11067 | 500, gzip | 5.0 | 9.0 |", lines)
        heads = [0, *(at + 1 for at, line in enumerate(lines) if not line)]
        self.assertEqual(len(heads), 3)
        for head in heads:
            self.assertEqual(len({line.count("|") for line in lines[head:head + 3]}), 1)


if __name__ == "__main__":
    unittest.main()
