"""The command report: what it prints of traces and of the live kernel, how it ends, and that it
leaves nothing behind."""
import contextlib
import glob
import json
import os
import pty
import re
import signal
import subprocess
import time
import unittest

import load
import test_bpf
import test_live
import tracefs
from harness import (NOBODY, PROGRAM, TIME_SCALE, TRACES, ExporterTest, Metrics, TracingTest,
                     _die_with_parent, wait_until)

SECTIONS = ("SLAB", "PAGES", "ZONE->LOCK", "PER-CPU PAGE LISTS", "EXTERNAL FRAGMENTATION")
TRACE = f"{TRACES}/kmem-6.1.dat"


class OfTraces(ExporterTest):
    def report(self, *arguments, **options):
        done = self.run_program("report", *arguments, **{"seconds": 5, **options})
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def test_each_recorded_trace_gives_the_five_answers(self):
        for path in sorted(glob.glob(f"{TRACES}/*.dat")):
            with self.subTest(trace=os.path.basename(path)):
                text = self.report(f"--replay={path}")
                self.assertEqual(re.findall(r"^\d\. ([^:]+):", text, re.M), list(SECTIONS))
                self.assertIn("none lost: the numbers are whole", text)

    def test_the_numbers_are_those_of_the_metrics(self):
        report = json.loads(self.report(f"--replay={TRACE}", "--json"))
        metrics = Metrics(self.run_program(f"--replay={TRACE}", "--replay.exit", seconds=5).stdout)
        self.assertEqual(report["trust"]["events_read"],
                         metrics["kmem_exporter_events_read_total"])
        for allocator, counts in report["slab"]["allocators"].items():
            for member, name in (("allocations", "kmem_slab_allocations_total"),
                                 ("frees", "kmem_slab_frees_total"),
                                 ("allocated_bytes", "kmem_slab_allocated_bytes_total")):
                self.assertEqual(counts[member], metrics.get(name, allocator=allocator), name)
        for member in ("allocations", "requested_bytes", "allocated_bytes"):
            self.assertEqual(sum(row[member] for row in report["slab"]["call_sites"]),
                             metrics[f"kmem_slab_{member}_total"], member)
        self.assertEqual(sum(row["frees"] for row in report["pages"]["orders"]),
                         metrics["kmem_page_frees_total"])
        self.assertEqual(sum(row["events"] for row in report["fragmentation"]["fallbacks"]),
                         metrics["kmem_extfrag_events_total"])

    def test_a_collector_that_is_off_is_said_to_be_off(self):
        text = self.report(f"--replay={TRACE}", "--no-collector.pcp", "--no-collector.extfrag")
        self.assertIn("Refills and drains: not counted (needs the collector pcp)", text)
        self.assertIn("not counted (needs the collector extfrag)", text)
        config = self.config_file({"collectors": {"slab": {
            "callsites": {"enabled": False}, "caches": {"enabled": False}}}})
        text = self.report(f"--replay={TRACE}", f"--config.file={config}")
        self.assertIn("Call sites: not counted (needs collectors.slab.callsites)", text)
        self.assertIn("Caches: not counted (needs collectors.slab.caches", text)
        report = json.loads(self.report(f"--replay={TRACE}", "--json", "--no-collector.slab"))
        self.assertIsNone(report["slab"])
        self.assertNotIn("kmalloc", report["trust"]["missing_tracepoints"])

    def test_tables_of_proc_come_in_where_asked_for(self):
        self.assertIn("--path.procfs names its machine's /proc", self.report(f"--replay={TRACE}"))
        self.assertIn("vm.min_free_kbytes",
                      self.report(f"--replay={TRACE}", "--path.procfs=/proc"))

    def test_a_bad_file_is_refused(self):
        self.assert_refused(self.run_program("report", f"--replay={self.file('empty.dat')}"),
                            "empty.dat: the file is empty")

    @unittest.skipUnless(os.geteuid() == 0, "it takes root to become somebody else")
    def test_it_takes_no_privilege(self):
        with open(TRACE, "rb") as trace:
            path = self.file("trace.dat", trace.read())
        self.report(f"--replay={path}", user=NOBODY)

    def test_a_reader_that_goes_away_is_no_error(self):
        read_end, write_end = os.pipe()
        os.close(read_end)
        with os.fdopen(write_end, "wb") as closed:
            done = subprocess.run([PROGRAM, "report", f"--replay={TRACE}"], stdout=closed,
                                  stderr=subprocess.PIPE, check=False, timeout=20 * TIME_SCALE)
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_an_output_that_cannot_be_written_is_an_error(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([PROGRAM, "report", f"--replay={TRACE}"], stdout=full,
                                  stderr=subprocess.PIPE, check=False, timeout=20 * TIME_SCALE,
                                  encoding="utf-8")
        self.assert_refused(done, "standard output: No space left on device")


class Refusals(ExporterTest):
    def test_flags_that_do_not_go_with_it(self):
        for arguments, pattern in (
                (["report", "--web.listen-address=:1"], "--web.listen-address: cannot go with"),
                (["report", "--cleanup"], "--cleanup: cannot go with the command report"),
                (["report", "--duration=0"], "--duration: .* from 1 to 86400"),
                (["report", "--duration=1.5"], "--duration: .* from 1 to 86400"),
                (["report", "--duration=5", "--replay=x"], "--duration: cannot go with --replay"),
                (["report", "now"], '"now": is not a flag'),
                (["--json"], "--json: needs the command report")):
            with self.subTest(arguments=arguments):
                self.assert_refused(self.run_program(*arguments), pattern)

    def test_no_tracefs(self):
        done = self.run_program("report", "--engine=tracefs", "--path.tracefs=/nonexistent")
        self.assert_refused(done, "/nonexistent: no tracefs there; mount it")
        self.assertEqual(done.stdout, "")


class Running:
    """A report at work."""

    def __init__(self, test, arguments, stderr=subprocess.PIPE):
        self.process = subprocess.Popen(
            [PROGRAM, "report", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=stderr, encoding="utf-8", preexec_fn=_die_with_parent)
        self.instance_name = f"{test.instance_name}_report_{self.process.pid}"
        self.instance = tracefs.Instance(self.instance_name)

    def _traces(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the report has ended: {self.process.stderr.read()}")
        with contextlib.suppress(OSError):
            return "mm_page_free" in self.instance.read("set_event")
        return False

    def wait_until_it_traces(self):
        wait_until(self._traces, 10, "the report traces")

    def finish(self, seconds):
        """What it prints, once it has ended by itself and without a word on standard error."""
        stdout, stderr = self.process.communicate(timeout=seconds * TIME_SCALE)
        if (self.process.returncode, stderr or "") != (0, ""):
            raise AssertionError(f"status {self.process.returncode}: {stderr}")
        if self.instance.exists():
            raise AssertionError("the report's instance is still there")
        return stdout


class OfTheLiveKernel(TracingTest):
    def setUp(self):
        super().setUp()
        self._reports = []
        self.addCleanup(self._end_reports)

    def _end_reports(self):
        for report in self._reports:
            report.process.kill()
            report.process.communicate()
            self.assertFalse(tracefs.remove(report.instance_name), "an instance was left behind")

    def start_report(self, *arguments, config=None, **options):
        report = Running(self, [f"--config.file={self.config_file(config or {})}", *arguments],
                         **options)
        self._reports.append(report)
        return report

    def assert_suspects_pipes(self, slab, pipes):
        """Demands that those who made so many pipes that are still open are suspected, with as many objects."""
        if slab["symbols_hidden"]:
            print("\nSKIPPED: who is suspected: the kernel's addresses are hidden")
            return
        suspects = {row["call_site"]: row for row in slab["live"]["sites"] if row["lasting_objects"]}
        held = pipes * test_live.OBJECTS_OF_A_PIPE
        found = suspects[test_live.PIPES]
        print(f"\n  of {held} objects held, {found['lasting_objects']} suspected; all: {len(suspects)} functions")
        one_in = slab["live"]["one_in"]
        if one_in == 1 and slab["live"]["complete"]:
            self.assertGreaterEqual(found["lasting_objects"], held)
        self.assertGreater(found["lasting_objects"], held * 0.9 - 5 * (held * one_in) ** 0.5)
        self.assertLess(found["lasting_objects"], held * 1.5 + 5 * (held * one_in) ** 0.5)
        self.assertGreaterEqual(found["objects"], found["lasting_objects"])
        self.assertGreater(found["lasting_bytes"], 100 * found["lasting_objects"])

    def assert_names_pipes(self, slab, pipes):
        """Demands that the function that makes pipes has its name, however short the report."""
        if slab["symbols_hidden"]:
            print("\nSKIPPED: the names of call sites: the kernel's addresses are hidden")
            return
        sites = {row["call_site"]: row for row in slab["call_sites"]}
        self.assertGreaterEqual(sites["alloc_pipe_info"]["allocations"], 2 * pipes)
        self.assertEqual(slab["call_sites"][-1]["call_site"], "other")

    def test_it_counts_what_happens_and_removes_its_instance(self):
        # Room for all of it: the events are on a while before their first reading.
        room = {"buffer_size_kb": 8192, "buffer_total_max_kb": 131072}
        report = self.start_report("--duration=3", "--json", config={"tracefs": room})
        report.wait_until_it_traces()
        load.pipes(2000)
        result = json.loads(report.finish(20))
        self.assert_names_pipes(result["slab"], 2000)
        self.assertEqual(result["source"]["kind"], "live")
        # Up to the last drain, which in a slow build may be a while ago.
        self.assertGreaterEqual(result["source"]["seconds"], 2.9 if TIME_SCALE == 1 else 0.1)
        self.assertLess(result["source"]["seconds"], 3 + 2 * TIME_SCALE)
        slab = result["slab"]["allocators"]
        events = sum(each["allocations"] + each["frees"] for each in slab.values())
        self.assertGreaterEqual(events, 2000 * load.PIPE_PAIR_EVENTS)
        self.assertGreater(result["fragmentation"]["min_free"]["memory_bytes"], 64 << 20)

    def test_text_says_what_was_watched(self):
        text = self.start_report("--duration=1").finish(20)
        self.assertRegex(text, r"\Akmem_exporter report of \d\.\d s of the live kernel, counted by "
                               r"engine tracefs \(configured\)\n")
        self.assertEqual(re.findall(r"^\d\. ([^:]+):", text, re.M), list(SECTIONS))

    def test_the_other_engine(self):
        reason = test_bpf.why_unusable()
        if reason is not None:
            self.skipTest(reason)
        report = self.start_report("--duration=3", "--json", "--engine=bpf")
        wait_until(lambda: len(test_bpf.attached_by(report.process.pid)) > 5, 20,
                   "the programs are attached")
        load.pipes(2000)
        result = json.loads(report.finish(20))
        self.assertEqual(result["source"]["engine"], "bpf")
        self.assert_names_pipes(result["slab"], 2000)
        self.assertGreaterEqual(result["trust"]["events_read"], 2000 * load.PIPE_PAIR_EVENTS)

    def report_with_pipes_held(self, engine, traces):
        """What it says of pipes of which some stay open from the beginning on, and many are closed."""
        room = {"buffer_size_kb": 8192, "buffer_total_max_kb": 131072}
        seconds = round(6 * min(TIME_SCALE, 3))
        report = self.start_report(f"--duration={seconds}", "--json", f"--engine={engine}",
                                   config={"tracefs": room})
        traces(report)
        with test_live.held_pipes(300):
            load.pipes(2000)
            result = json.loads(report.finish(30))
        self.assertEqual(result["source"]["engine"], engine)
        self.assert_suspects_pipes(result["slab"], 300)

    def test_what_is_held_from_the_beginning_is_suspected(self):
        self.report_with_pipes_held("tracefs", Running.wait_until_it_traces)

    def test_the_other_engine_suspects_the_same(self):
        reason = test_bpf.why_unusable()
        if reason is not None:
            self.skipTest(reason)
        self.report_with_pipes_held("bpf", lambda report: wait_until(
            lambda: len(test_bpf.attached_by(report.process.pid)) > 5, 20, "the programs are attached"))

    def test_what_is_opened_at_the_end_is_not_suspected(self):
        report = self.start_report("--duration=600", "--json")
        report.wait_until_it_traces()
        time.sleep(2 * min(TIME_SCALE, 3))
        with test_live.held_pipes(300):
            time.sleep(0.2 * TIME_SCALE)  # a slow build knows them only by its next drain
            report.process.send_signal(signal.SIGINT)
            slab = json.loads(report.finish(20))["slab"]
        if slab["symbols_hidden"]:
            print("\nSKIPPED: who is suspected: the kernel's addresses are hidden")
        else:
            sites = {row["call_site"]: row for row in slab["live"]["sites"]}
            self.assertGreaterEqual(sites[test_live.PIPES]["objects"], 300 * test_live.OBJECTS_OF_A_PIPE)
            self.assertLess(sites[test_live.PIPES]["lasting_objects"], 300)

    def test_it_runs_beside_the_exporter_and_beside_another(self):
        exporter = self.start()
        reports = [self.start_report("--duration=3", "--json") for _ in range(2)]
        for report in reports:
            report.wait_until_it_traces()
        self.assert_counting(exporter)
        for report in reports:
            result = json.loads(report.finish(20))
            self.assertEqual(result["trust"]["interference"], {})
            self.assertGreaterEqual(result["trust"]["events_read"], 500 * load.PIPE_PAIR_EVENTS)
        self.assert_counting(exporter)
        metrics = exporter.scrape()
        self.assertEqual(metrics["kmem_exporter_interference_total"], 0)
        self.assertEqual(metrics["kmem_exporter_record_errors_total"], 0)

    def assert_ends_early(self, number):
        begin = time.monotonic()
        report = self.start_report("--duration=600", "--json")
        report.wait_until_it_traces()
        load.pipes(500)
        report.process.send_signal(number)
        result = json.loads(report.finish(10))
        self.assertLess(result["source"]["seconds"], time.monotonic() - begin)
        self.assertIsNotNone(result["slab"])

    def test_ctrl_c_prints_what_there_is(self):
        self.assert_ends_early(signal.SIGINT)

    def test_sigterm_prints_what_there_is(self):
        self.assert_ends_early(signal.SIGTERM)

    def test_a_reader_that_goes_away_leaves_no_instance(self):
        report = self.start_report("--duration=1")
        report.process.stdout.close()
        report.process.stdout = None
        report.finish(20)

    def test_what_a_killed_report_left_is_removed_by_the_next(self):
        killed = self.start_report("--duration=600")
        killed.wait_until_it_traces()
        running = self.start_report("--duration=600")
        running.wait_until_it_traces()
        killed.process.kill()
        killed.process.wait()
        self.assertTrue(killed.instance.exists())
        self.assertEqual(killed.instance.read("tracing_on"), "0")
        self.start_report("--duration=1").finish(20)
        self.assertFalse(killed.instance.exists())
        self.assertTrue(running.instance.exists())
        running.process.send_signal(signal.SIGINT)
        running.finish(10)

    def test_what_a_killed_report_left_is_removed_by_cleanup(self):
        killed = self.start_report("--duration=600")
        killed.wait_until_it_traces()
        killed.process.kill()
        killed.process.wait()
        done = self.run_program("--cleanup", f"--config.file={self.config_file({})}")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn(f"{killed.instance_name}: removed\n", done.stdout)
        self.assertFalse(killed.instance.exists())

    def test_losses_are_said_at_the_top(self):
        report = self.start_report("--duration=2", config={
            "tracefs": {"buffer_size_kb": 64, "drain_interval_ms": 1000}})
        report.wait_until_it_traces()
        load.storm(1)
        top = report.finish(20).split("\n1. SLAB")[0]
        self.assertRegex(top, r"(?m)^  ! [\d,]+ of [\d,]+ events were lost \(dropped [\d,]+\)")
        self.assertNotIn("whole.", top)

    def test_on_a_terminal_a_line_counts_down_and_goes(self):
        screen, terminal = pty.openpty()
        with os.fdopen(screen, "rb", buffering=0) as seen:
            report = self.start_report("--duration=2", stderr=terminal)
            os.close(terminal)
            report.finish(20)
            output = b""
            with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
                while chunk := seen.read(4096):
                    output += chunk
        text = output.decode()
        self.assertRegex(text, "watching for 2 s more; Ctrl-C ends it now")
        self.assertRegex(text, "watching for 1 s more")
        self.assertTrue(text.endswith("\r\x1b[K"), repr(text))
