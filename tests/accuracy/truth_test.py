#!/usr/bin/python3
"""Tests of truth.py on lines written by hand."""
import contextlib
import io
import os
import tempfile
import unittest

import truth

PRINT_FMT_5_10 = ('print fmt: "gfp_flags=%s", (REC->gfp_flags) ? __print_flags(REC->gfp_flags, "|", '
                  '{(unsigned long)((((( gfp_t)(0x400u|0x800u)) | (( gfp_t)0x40u) | (( gfp_t)0x2000u)) '
                  '& ~(( gfp_t)(0x400u|0x800u))) | (( gfp_t)0x400u)), "GFP_TRANSHUGE"}, '
                  '{(unsigned long)((( gfp_t)(0x400u|0x800u)) | (( gfp_t)0x40u)), "GFP_KERNEL"}, '
                  '{(unsigned long)((( gfp_t)0x800u)), "GFP_NOWAIT"}, '
                  '{(unsigned long)(( gfp_t)0x2000u), "__GFP_NOWARN"}) : "none"')
PRINT_FMT_6_18 = ('print fmt: "gfp_flags=%s", __print_flags(REC->gfp_flags, "|", '
                  '{( unsigned long)((( gfp_t)((((1UL))) << (11))) | (( gfp_t)((((1UL))) << (13)))), "GFP_NOWAIT"}, '
                  '{( unsigned long)(( gfp_t)((((1UL))) << (6))), "__GFP_IO"}, '
                  '{( unsigned long)(( gfp_t)((((1UL))) << (13))), "__GFP_NOWARN"})')


def stamp(us):
    return f"{us // 10**6}.{us % 10**6:06d}"


def line(cpu, us, event, fields):
    return f"            bash-123     [{cpu:03d}] d..1.  {stamp(us)}: {event}: {fields}"


def exact(cpu, ns, event, fields):
    return f"            bash-123     [{cpu:03d}]  {ns // 10**9}.{ns % 10**9:09d}: {event}:   {fields}"


def compute(lines, dialect="trace", bounds=None, times=None, **options):
    options.setdefault("gfp", truth.GfpFlags(PRINT_FMT_5_10))
    result = truth.Truth(dialect, **options)
    for event in truth.parse_events(lines, times):
        result.add(*event)
    return {truth.show(key): (value.low, value.high) for key, value in result.series(bounds or {}).items()}


class Series(unittest.TestCase):
    def equal(self, series, name, low, high=None):
        self.assertEqual(series.get(name), (low, low if high is None else high), name)


class Text(Series):
    def test_dialects(self):
        kernel = "  my proc [x]-1 [001] d..1. 4738.253882: kfree: call_site=a+0x1c/0x90 ptr=0000000000000000"
        command = "    trace-cmd-173   [000]     7.090010067: kfree:      (f+0x1) call_site=f+0x1 ptr=(nil)"
        self.assertEqual([(cpu, ns, resolution, event, fields["ptr"])
                          for cpu, ns, resolution, event, fields in truth.parse_events([kernel, command])],
                         [(1, 4738253882000, 1000, "kfree", "0000000000000000"), (0, 7090010067, 1, "kfree", "(nil)")])

    def test_pointers(self):
        for text, value in [("(nil)", 0), ("(null)", 0), ("0000000000000000", 0), ("0x0", 0), ("0x10", 16),
                            ("ffff888100d23000", 0xffff888100d23000), ("(____ptrval____)", None)]:
            self.assertEqual(truth.pointer(text), value)

    def test_header_is_skipped_and_noise_is_not(self):
        self.assertEqual(list(truth.parse_events(["# tracer: nop", "", "cpus=2"])), [])
        for bad in ["garbage", "CPU:1 [LOST 12 EVENTS]", "CPU:0 [EVENTS DROPPED]"]:
            with self.assertRaises(truth.Unusable):
                list(truth.parse_events([bad]))

    def test_exact_times_must_belong(self):
        lines = [line(1, 5_000_001, "kfree", "ptr=(nil)")]
        self.assertEqual(next(truth.parse_events(lines, iter(["# x", "12 1 5000000501 type: 6"])))[1:3], (5000000501, 1))
        for other in ["12 0 5000000501 type: 6", "12 1 5000002000 type: 6"]:
            with self.assertRaises(truth.Unusable):
                list(truth.parse_events(lines, iter([other])))
        with self.assertRaises(truth.Unusable):
            list(truth.parse_events(lines, iter([])))


class Gfp(unittest.TestCase):
    def test_names_that_hold_the_bit(self):
        old, new = truth.GfpFlags(PRINT_FMT_5_10), truth.GfpFlags(PRINT_FMT_6_18)
        self.assertTrue(old.nowarn("GFP_TRANSHUGE"))
        self.assertTrue(old.nowarn("GFP_KERNEL|__GFP_NOWARN"))
        self.assertFalse(old.nowarn("GFP_KERNEL"))
        self.assertFalse(old.nowarn("GFP_NOWAIT"))
        self.assertTrue(new.nowarn("GFP_NOWAIT|__GFP_IO"))
        self.assertFalse(new.nowarn("__GFP_IO|0x1000000"))

    def test_numbers(self):
        flags = truth.GfpFlags(PRINT_FMT_6_18)
        self.assertTrue(flags.nowarn("0xd20c0"))
        self.assertFalse(flags.nowarn("3264"))

    def test_unknown(self):
        with self.assertRaises(truth.Unusable):
            truth.GfpFlags(PRINT_FMT_6_18).nowarn("__GFP_NEW")
        with self.assertRaises(truth.Unusable):
            truth.GfpFlags().nowarn("GFP_KERNEL")


class Slab(Series):
    def test_allocations(self):
        series = compute([
            line(0, 1, "kmalloc", "call_site=a ptr=ffff1 bytes_req=100 bytes_alloc=128 gfp_flags=GFP_KERNEL"),
            line(0, 2, "kmalloc_node", "call_site=a ptr=ffff2 bytes_req=8 bytes_alloc=8 gfp_flags=GFP_KERNEL node=-1"),
            line(0, 3, "kmalloc", "call_site=a ptr=(null) bytes_req=10485760 bytes_alloc=16777216 gfp_flags=GFP_KERNEL"),
            line(1, 4, "kmem_cache_alloc", "call_site=a ptr=ffff3 name=filp bytes_req=184 bytes_alloc=192 gfp_flags=0"),
        ], bounds={"kmem_slab_request_size_bytes": ["8", "96", "+Inf"], "kmem_slab_waste_bytes": ["0", "28", "+Inf"]})
        for name, value in {
                'kmem_slab_allocations_total{allocator="kmalloc"}': 2,
                'kmem_slab_allocations_total{allocator="kmem_cache"}': 1,
                'kmem_slab_allocation_failures_total{allocator="kmalloc"}': 1,
                'kmem_slab_requested_bytes_total{allocator="kmalloc"}': 108,
                'kmem_slab_allocated_bytes_total{allocator="kmalloc"}': 136,
                'kmem_slab_request_size_bytes_bucket{allocator="kmalloc",le="8"}': 1,
                'kmem_slab_request_size_bytes_bucket{allocator="kmalloc",le="96"}': 1,
                'kmem_slab_request_size_bytes_bucket{allocator="kmalloc",le="+Inf"}': 2,
                'kmem_slab_request_size_bytes_sum{allocator="kmem_cache"}': 184,
                'kmem_slab_waste_bytes_bucket{le="0"}': 1,
                'kmem_slab_waste_bytes_bucket{le="28"}': 2,
                'kmem_slab_waste_bytes_count': 2,
                'kmem_tracepoint_events_total{tracepoint="kmalloc"}': 2,
                'kmem_tracepoint_events_total{tracepoint="kmalloc_node"}': 1}.items():
            self.equal(series, name, value)

    def test_frees(self):
        lines = [line(0, 1, "kfree", f"call_site=a ptr={ptr}") for ptr in ("(null)", "0000000000000010", "ffff1", "ffff2")]
        lines.append(line(0, 2, "kmem_cache_free", "call_site=a ptr=ffff3 name=filp"))
        series = compute(lines)
        self.equal(series, 'kmem_slab_frees_total{allocator="kmalloc"}', 2)
        self.equal(series, 'kmem_slab_frees_total{allocator="kmem_cache"}', 1)
        self.equal(series, 'kmem_tracepoint_events_total{tracepoint="kfree"}', 4)

    def test_hashed_pointers_give_an_interval(self):
        lines = [line(0, 1, "kfree", f"call_site=a ptr={ptr}") for ptr in ("(null)", "ab12", "ab12", "cd34")]
        self.equal(compute(lines, hashed=True), 'kmem_slab_frees_total{allocator="kmalloc"}', 1, 3)


class Page(Series):
    def test_allocations_and_failures(self):
        series = compute([
            line(0, 1, "mm_page_alloc", "page=1 pfn=0x10 order=2 migratetype=1 gfp_flags=GFP_KERNEL"),
            line(0, 2, "mm_page_alloc", "page=(nil) pfn=0x0 order=9 migratetype=1 gfp_flags=GFP_TRANSHUGE"),
            line(0, 3, "mm_page_alloc", " pfn=0xffffffffffffffff order=3 migratetype=0 gfp_flags=3264"),
            line(0, 4, "mm_page_free", "page=1 pfn=16 order=2"),
            line(0, 5, "mm_page_free_batched", "page=1 pfn=16 order=2"),
        ])
        for name, value in {
                'kmem_page_allocations_total{migratetype="movable",order="2"}': 1,
                'kmem_page_allocated_bytes_total{migratetype="movable"}': 16384,
                'kmem_page_allocation_failures_total{nowarn="true",order="9"}': 1,
                'kmem_page_allocation_failures_total{nowarn="false",order="3"}': 1,
                'kmem_page_frees_total{order="2"}': 1,
                'kmem_page_freed_bytes_total': 16384,
                'kmem_page_batched_frees_total': 1}.items():
            self.equal(series, name, value)
        self.assertNotIn('kmem_page_allocations_total{migratetype="movable",order="9"}', series)

    def test_flags_from_a_second_reading(self):
        lines = [line(0, 2, "mm_page_alloc", "page=0000000000000000 pfn=0x0 order=9 migratetype=1 gfp_flags=")]
        self.equal(compute(lines, failed={(0, 2): "GFP_TRANSHUGE"}),
                   'kmem_page_allocation_failures_total{nowarn="true",order="9"}', 1)
        with self.assertRaises(truth.Unusable):
            compute(lines)

    def test_zone_locked_derives_percpu_refill(self):
        series = compute([line(0, 1, "mm_page_alloc_zone_locked", " pfn=0x1 order=0 migratetype=2"),
                          line(0, 2, "mm_page_alloc_zone_locked", " pfn=0x1 order=1 migratetype=4"),
                          line(0, 3, "mm_page_alloc_zone_locked", " pfn=0x1 order=1 migratetype=0 percpu_refill=1")])
        name = "kmem_page_zone_locked_allocations_total"
        self.equal(series, name + '{migratetype="reclaimable",order="0",percpu_refill="true"}', 1)
        self.equal(series, name + '{migratetype="4",order="1",percpu_refill="false"}', 1)
        self.equal(series, name + '{migratetype="unmovable",order="1",percpu_refill="true"}', 1)


class Extfrag(Series):
    def test_labels(self):
        fields = ("pfn=0x1 alloc_order=0 fallback_order={} pageblock_order=9 alloc_migratetype=0 "
                  "fallback_migratetype=1 fragmenting={} change_ownership={}")
        name = ('kmem_extfrag_events_total{{alloc_migratetype="unmovable",change_ownership="{}",'
                'fallback_migratetype="movable",fragmenting="{}"}}')
        kernel = compute([line(0, 1, "mm_page_alloc_extfrag", fields.format(2, 1, 0)),
                          line(0, 2, "mm_page_alloc_extfrag", fields.format(9, 0, 1))],
                         bounds={"kmem_extfrag_fallback_order": ["2", "9"]})
        # trace-cmd's fragmenting=10 means nothing.
        command = compute([exact(0, 1, "mm_page_alloc_extfrag", fields.format(2, 10, 0)),
                           exact(0, 2, "mm_page_alloc_extfrag", fields.format(9, 10, 1))], "trace-cmd")
        for series in (kernel, command):
            self.equal(series, name.format("false", "true"), 1)
            self.equal(series, name.format("true", "false"), 1)
        self.equal(kernel, 'kmem_extfrag_fallback_order_bucket{le="2"}', 1)
        self.equal(kernel, 'kmem_extfrag_fallback_order_sum', 11)

    def test_needs_the_pageblock_order(self):
        raw = [exact(0, 1, "mm_page_alloc_extfrag",
                     " pfn=1 alloc_order=0 fallback_order=9 alloc_migratetype=0 fallback_migratetype=1 change_ownership=0")]
        with self.assertRaises(truth.Unusable):
            compute(raw, "trace-cmd")
        self.assertTrue(any('fragmenting="true"' in name for name in compute(raw, "trace-cmd", pageblock_order=10)))


class Pcp(Series):
    BOUNDS = {"kmem_pcp_refill_batch_pages": ["1", "2", "4"], "kmem_pcp_drain_batch_pages": ["1", "4"]}

    @staticmethod
    def refill(cpu, ns, order=0):
        return exact(cpu, ns, "mm_page_alloc_zone_locked", f"pfn=1 order={order} migratetype=0 percpu_refill=1")

    @staticmethod
    def drain(cpu, ns):
        return exact(cpu, ns, "mm_page_pcpu_drain", "pfn=1 order=0 migratetype=0")

    def batches(self, *lines, **options):
        return compute(lines, bounds=self.BOUNDS, **options)

    def test_gap(self):
        series = self.batches(self.refill(0, 0), self.refill(0, 20_000), self.refill(0, 40_001))
        self.equal(series, 'kmem_pcp_refills_total{cpu="0"}', 2)
        self.equal(series, 'kmem_pcp_refill_pages_total{cpu="0"}', 3)
        self.equal(series, 'kmem_pcp_refill_batch_pages_bucket{le="1"}', 1)
        self.equal(series, 'kmem_pcp_refill_batch_pages_bucket{le="2"}', 2)
        self.equal(series, 'kmem_pcp_refill_batch_pages_sum', 3)

    def test_what_ends_a_batch_and_what_does_not(self):
        refill, drain = self.refill, self.drain
        for between, batches in [
                (exact(0, 2, "mm_page_alloc", "pfn=1 order=0 migratetype=0 gfp_flags=0"), 2),
                (exact(0, 2, "mm_page_free", "pfn=1 order=0"), 2),
                (exact(0, 2, "mm_page_alloc_zone_locked", "pfn=1 order=9 migratetype=0 percpu_refill=0"), 2),
                (drain(0, 2), 2),
                (exact(1, 2, "mm_page_free", "pfn=1 order=0"), 1),
                (exact(0, 2, "kfree", "ptr=(nil)"), 1),
                (exact(0, 2, "mm_page_free_batched", "pfn=1 order=0"), 1),
                (refill(1, 2), 1)]:
            series = self.batches(refill(0, 1), between, refill(0, 3))
            self.equal(series, 'kmem_pcp_refills_total{cpu="0"}', batches)

    def test_orders(self):
        series = self.batches(self.refill(0, 1, order=1), self.refill(0, 2, order=1))
        self.equal(series, 'kmem_pcp_refill_batch_pages_bucket{le="4"}', 1)
        self.equal(series, 'kmem_pcp_refill_batch_pages_bucket{le="2"}', 0)

    def test_microseconds_leave_a_doubt(self):
        def drains(gap):
            return compute([line(0, 100, "mm_page_pcpu_drain", "order=0 migratetype=0"),
                            line(0, 100 + gap, "mm_page_pcpu_drain", "order=0 migratetype=0")], bounds=self.BOUNDS)
        self.equal(drains(19), 'kmem_pcp_drains_total{cpu="0"}', 1)
        self.equal(drains(20), 'kmem_pcp_drains_total{cpu="0"}', 1, 2)
        self.equal(drains(20), 'kmem_pcp_drain_batch_pages_bucket{le="1"}', 0, 2)
        self.equal(drains(21), 'kmem_pcp_drains_total{cpu="0"}', 2)

    def test_slack(self):
        series = self.batches(self.drain(0, 0), self.drain(0, 18_500), slack_ns=2000)
        self.equal(series, 'kmem_pcp_drains_total{cpu="0"}', 1, 2)


class Commands(unittest.TestCase):
    EVENTS = [line(0, 1, "kmem_cache_free", "call_site=a ptr=ffff1 name=x")] * 1000

    def run_command(self, files, *arguments):
        with tempfile.TemporaryDirectory() as directory:
            for name, content in files.items():
                with open(os.path.join(directory, name), "w") as file:
                    file.write(content)
            arguments = [argument.replace("DIR", directory) for argument in arguments]
            output = io.StringIO()
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                status = truth.main(arguments)
        return status, output.getvalue()

    @staticmethod
    def scrape(events, frees, more=""):
        return ("# TYPE kmem_tracepoint_events_total counter\n"
                f'kmem_tracepoint_events_total{{tracepoint="kmem_cache_free"}} {events}\n'
                f'kmem_exporter_events_read_total{{tracepoint="kmem_cache_free"}} {events}\n'
                f'kmem_slab_frees_total{{allocator="kmem_cache"}} {frees}\n{more}')

    def compare(self, after, *arguments, **files):
        return self.run_command({"events": "\n".join(self.EVENTS), "after": after, **files}, "compare", "--dialect",
                                "trace", "--events", "DIR/events", "--after", "DIR/after", *arguments)

    def test_equal(self):
        self.assertEqual(self.compare(self.scrape(1000, 1000))[0], 0)

    def test_one_is_missing_or_too_many(self):
        for frees in (999, 1001):
            status, output = self.compare(self.scrape(1000, frees))
            self.assertEqual(status, 1, output)
            self.assertIn(f"truth 1000, exporter {frees}", output)

    def test_series_is_missing(self):
        self.assertIn("no such series", self.compare("\n".join(self.scrape(1000, 0).splitlines()[:-1]))[1])

    def test_series_from_nowhere(self):
        status, output = self.compare(self.scrape(1000, 1000, 'kmem_slab_frees_total{allocator="kmalloc"} 1\n'))
        self.assertEqual(status, 1, output)

    def test_unknown_family_and_loss(self):
        for more in ("kmem_new_total 1\n", 'kmem_exporter_events_lost_total{reason="dropped"} 1\n',
                     'kmem_exporter_record_errors_total{cause="short_payload"} 1\n'):
            status, output = self.compare(self.scrape(1000, 1000, more))
            self.assertEqual(status, 1, output)
        self.assertEqual(self.compare(self.scrape(1000, 1000, "kmem_free_blocks 7\n"))[0], 0)

    def bracket(self, before, inner_before, inner_after, after, *arguments):
        scrapes = {name: self.scrape(value, value) for name, value in
                   [("before", before), ("inner_before", inner_before), ("inner_after", inner_after)]}
        return self.compare(self.scrape(after, after), "--before", "DIR/before", "--inner-before", "DIR/inner_before",
                            "--inner-after", "DIR/inner_after", "--tolerance-percent", "0.5", *arguments, **scrapes)

    def test_bracket(self):
        self.assertEqual(self.bracket(10, 11, 1009, 1012)[0], 0)
        self.assertIn("exporter between 998 and 999", self.bracket(10, 11, 1009, 1009)[1])
        self.assertIn("exporter between 1001 and 1002", self.bracket(10, 11, 1012, 1012)[1])
        self.assertIn("all events", self.bracket(10, 11, 1009, 1016)[1])
        self.assertIn("too wide", self.bracket(10, 20, 1000, 1014)[1])
        self.assertIn("fewer than", self.bracket(10, 11, 1009, 1012, "--at-least", "1001")[1])
        self.assertIn("must be equal", self.bracket(10, 11, 1009, 1012, "--rare", "frees")[1])
        self.assertIn("did not happen", self.bracket(10, 11, 1009, 1012, "--expect", "page_failures")[1])

    LOSSES = {"metrics": 'kmem_exporter_cpu_events_read_total{cpu="0"} 90\n'
                         'kmem_exporter_cpu_events_lost_total{cpu="0",reason="dropped"} 10\n'
                         'kmem_exporter_events_lost_total{reason="dropped"} 10\n',
              "cpu0": "entries: 3\noverrun: 0\ncommit overrun: 0\ndropped events: 10\nread events: 90\n"}

    def losses(self, **changes):
        files = {**self.LOSSES, "early.cpu0": self.LOSSES["cpu0"], **changes}
        return self.run_command(files, "losses", "--metrics", "DIR/metrics", "--stats", "DIR")

    def test_losses(self):
        self.assertEqual(self.losses()[0], 0)
        metrics = self.LOSSES["metrics"]
        for wrong in (metrics.replace("} 90", "} 89"), metrics.replace('"dropped"} 10', '"overrun"} 10'),
                      metrics.replace('"dropped"} 10', '"dropped"} 9'), ""):
            self.assertNotEqual(self.losses(metrics=wrong)[0], 0)

    def test_perf(self):
        def perf(count):
            files = {"stat": f"# started\n\n{count},,kmem:kmem_cache_free,1,100.00,,\n"}
            files.update({name: self.scrape(value, value)
                          for name, value in [("a", 0), ("b", 10), ("c", 1000), ("d", 1005)]})
            return self.run_command(files, "perf", "--stat", "DIR/stat", "--before", "DIR/a", "--inner-before", "DIR/b",
                                    "--inner-after", "DIR/c", "--after", "DIR/d", "--tolerance-percent", "1")
        self.assertEqual(perf(1000)[0], 0)
        for count in (989, 1006, "<not supported>"):
            self.assertNotEqual(perf(count)[0], 0)


if __name__ == "__main__":
    unittest.main()
