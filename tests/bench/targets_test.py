#!/usr/bin/python3
"""Tests of targets.py and of check_targets: which target is met by which results."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
import targets
from report_test import cost, scenario

CHECK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "check_targets")


def pieces(scrapes=(), **more):
    """All pieces within their targets, but for those given."""
    ns = {"read, all collectors": 9, "read, all collectors, nothing by name": 5, "read, slab alone": 9,
          "read, slab alone, nothing by name": 5, "pair slab objects, alive/20000": 20,
          "pair slab objects, alive/200000": 30, **more}
    default = [(way, samples, ms) for way, samples, ms in (("text", 867, 11), ("gzip", 867, 21),
                                                           ("text", 10367, 9), ("gzip", 10367, 19))
               if (way, samples) not in [row[:2] for row in scrapes]]
    return {"pieces": {name: {"ns": value, "per_event": True} for name, value in ns.items()},
            "scrapes": [{"way": way, "samples": samples, "p99_ms": ms, "resident_kib": 20480}
                        for way, samples, ms in [*default, *scrapes]]}


def storm(events_per_second, lost, seconds=60):
    return {"seconds": seconds, "events_per_second": events_per_second, "lost": lost}


def whole(*storms, scrapes=(), **resident_mib):
    return {"storms": storms, "memory": [{"engine": engine, "series": 11023, "resident_kib": 1024 * mib}
                                         for engine, mib in resident_mib.items()],
            "scrapes": [{"engine": engine, "way": way, "series": series, "p99_ms": ms}
                        for engine, way, series, ms in scrapes]}


def results(**costs):
    """One slab loop in which empty programs add 20 ns an event and the kernel's buffers 100."""
    return {"scenarios": [scenario(cost("empty_tp_btf", 20), cost("nobody_reading", 100),
                                   *(cost(key, ns) for key, ns in costs.items()))]}


class TargetsTest(unittest.TestCase):
    def verdicts(self, *files):
        return {what: verdict for what, _, _, verdict in targets.judge(files)}

    def missed(self, *files):
        return [what for what, verdict in self.verdicts(*files).items() if verdict == "missed"]

    def test_what_is_within_all_targets_misses_none(self):
        self.assertEqual(set(self.verdicts(pieces(), results(bpf_sites=27, bpf_names=29, tracefs_all=135)).values()),
                         {"met"})

    def test_each_piece_has_a_bound(self):
        for name, ns, missed in (("read, all collectors", 10.1, "reading an event"),
                                 ("read, all collectors, nothing by name", -1.1,
                                  "reading an event: by call site and cache, more than without"),
                                 ("read, slab alone", 15.1,
                                  "reading a slab event: by call site and cache, more than without"),
                                 ("pair slab objects, alive/20000", 40.1,
                                  "pairing slab objects, of which 20000 are alive"),
                                 ("pair slab objects, alive/200000", 41,
                                  "pairing slab objects, of which 200000 are alive")):
            self.assertEqual(self.missed(pieces(**{name: ns})), [missed])

    def test_scrapes_have_bounds_by_series_and_by_way(self):
        for way, ms in (("text", 10.1), ("gzip", 20.1)):
            self.assertEqual(self.missed(pieces([(way, 10367, ms)])),
                             [f"scrape of 10000 series of call sites, {way}, p99"])
        for engine in targets.ENGINES:
            for way, series, within, beyond, missed in (
                    ("text", 870, 2, 2.1, "scrape of the default's series, {} engine, text, p99"),
                    ("gzip", 870, 2, 2.1, "scrape of the default's series, {} engine, gzip, p99"),
                    ("text", 10870, 10, 10.1, "scrape of 10000 series, {} engine, text, p99"),
                    ("gzip", 10870, 20, 20.1, "scrape of 10000 series, {} engine, gzip, p99")):
                what = missed.format(engine)
                self.assertEqual(self.verdicts(whole(scrapes=[(engine, way, series, within)]))[what], "met")
                self.assertEqual(self.missed(whole(scrapes=[(engine, way, series, beyond)])), [what])

    def test_ratios_are_to_the_floors_of_the_same_load(self):
        for key, ns, missed in (
                ("bpf_sites", 27.1, "slab loop on one CPU: bpf engine, by call site / empty BPF programs"),
                ("bpf_names", 29.1, "slab loop on one CPU: bpf engine, by call site and cache / empty BPF programs"),
                ("tracefs_all", 135.1, "slab loop on one CPU: tracefs engine, all in / nobody reading")):
            within = {"bpf_sites": 27, "bpf_names": 29, "tracefs_all": 135}
            self.assertEqual(self.missed(results(**{**within, key: ns})), [missed])

    def test_the_budget_is_for_all_cpus(self):
        both = results(bpf_budget=1, tracefs_budget=2)
        self.assertNotIn("slab loop on one CPU: tracefs engine within the default budget, slower by",
                         self.verdicts(both))
        both["scenarios"][0].update(cpus="all", load_cpus=[0, 1], reader_cpus=[0, 1])
        self.assertEqual(self.missed(both),
                         ["slab loop on all CPUs: tracefs engine within the default budget, slower by"])

    def test_page_faults_have_none(self):
        faults = results(bpf_names=100, tracefs_all=900)
        faults["scenarios"][0]["load"] = "fault"
        self.assertEqual(self.verdicts(faults), {})

    def test_a_storm_loses_nothing(self):
        lost = "events lost in 60 s of 1000000 a second on each CPU"
        for storms, verdict in (([storm(1_000_000, 0)], "met"), ([storm(1_000_000, 1)], "missed"), ([], "not measured"),
                                ([storm(1_000_000, 0, seconds=59)], "not measured"),
                                # Of several, the first that was one.
                                ([storm(999_999, 5), storm(1_000_000, 0)], "met"),
                                ([storm(1_000_000, 1), storm(1_000_000, 0)], "missed")):
            self.assertEqual(self.verdicts(whole(*storms))[lost], verdict, storms)

    def test_a_storm_that_was_none_is_not_measured_and_its_rate_told(self):
        verdicts = self.verdicts(whole(storm(700_000, 0), storm(900_000.4, 7)))
        self.assertEqual(verdicts["events lost in 60 s of 1000000 a second on each CPU (no more than 900000 were made "
                                  "here, 7 lost)"], "not measured")

    def test_resident_memory_has_a_bound_with_each_engine_and_behind_call_sites(self):
        self.assertEqual(self.missed(whole(storm(1e6, 0), tracefs=32, bpf=32.1)),
                         ["resident memory at 10000 series, bpf engine"])
        self.assertEqual(self.verdicts(whole(bpf=32))["resident memory at 10000 series, tracefs engine"],
                         "not measured")
        large = pieces()
        large["scrapes"][-1]["resident_kib"] = 32 * 1024 + 1
        self.assertEqual(self.missed(large), ["resident memory behind 10000 series of call sites"])

    def test_what_was_not_measured_is_neither(self):
        self.assertEqual(self.verdicts(results(bpf_sites=20, bpf_names=20)),
                         {"slab loop on one CPU: bpf engine, by call site / empty BPF programs": "met",
                          "slab loop on one CPU: bpf engine, by call site and cache / empty BPF programs": "met",
                          "slab loop on one CPU: tracefs engine, all in / nobody reading": "not measured"})
        without = pieces()
        del without["pieces"]["read, all collectors"]
        self.assertEqual([verdict for verdict in self.verdicts(without).values() if verdict != "met"],
                         ["not measured"] * 2)


class CheckTest(unittest.TestCase):
    def check(self, *files):
        with tempfile.TemporaryDirectory() as directory:
            paths = []
            for content in files:
                paths.append(f"{directory}/{len(paths)}.json")
                with open(paths[-1], "w", encoding="utf-8") as file:
                    file.write(content if isinstance(content, str) else json.dumps(content))
            return subprocess.run([CHECK, *paths], capture_output=True, encoding="utf-8", check=False)

    def test_the_status_says_whether_one_was_missed(self):
        done = self.check(pieces(), results(bpf_sites=20), whole(storm(1e6, 0)))
        self.assertEqual(done.returncode, 0, done.stderr)
        # Of the kernel's buffers, of memory and of scrapes by each engine there is nothing.
        self.assertIn("\n0 of 22 missed, 12 not measured\n", done.stdout)
        done = self.check(pieces(), results(bpf_sites=30))
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stdout, r"by call site / empty BPF programs +1\.35 +1\.50  missed\n")
        self.assertIn("\n1 of 11 missed, 2 not measured\n", done.stdout)

    def test_without_results_it_does_not_say_that_they_are_good(self):
        self.assertEqual(self.check("no JSON").returncode, 2)
        done = subprocess.run([CHECK, "/nowhere/results.json"], capture_output=True, encoding="utf-8", check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("/nowhere/results.json", done.stderr)


if __name__ == "__main__":
    unittest.main()
