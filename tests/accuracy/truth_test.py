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


class Live(unittest.TestCase):
    """What is alive at the end, by call site."""

    @staticmethod
    def alive(lines, *shown):
        result = truth.Truth("trace")
        for event in truth.parse_events(lines):
            result.add(*event)
        return {truth.show(key): value for key, value in result.live(shown).items() if value}

    @staticmethod
    def kmalloc(us, pointer, size, site="pipe+0x1/0x9"):
        return line(0, us, "kmalloc", f"call_site={site} ptr={pointer:016x} bytes_req={size} bytes_alloc={size}")

    @staticmethod
    def kfree(us, pointer):
        return line(1, us, "kfree", f"call_site=z+0x1/0x9 ptr={pointer:016x}")

    def test_an_object_is_alive_until_it_is_freed_or_its_address_is_allocated_again(self):
        lines = [self.kmalloc(1, 0x1000, 64), self.kmalloc(2, 0x2000, 32), self.kfree(3, 0x1000),
                 self.kmalloc(4, 0x3000, 8), self.kmalloc(5, 0x3000, 16, "sock+0x1/0x9")]
        self.assertEqual(self.alive(lines, "pipe"), {
            'kmem_slab_callsite_live_objects{call_site="pipe"}': 1, 'kmem_slab_callsite_live_bytes{call_site="pipe"}': 32,
            'kmem_slab_callsite_live_objects{call_site="other"}': 1,
            'kmem_slab_callsite_live_bytes{call_site="other"}': 16})

    def test_bytes_have_an_age(self):
        lines = [self.kmalloc(0, 0x1000, 64), self.kmalloc(540_000_000, 0x2000, 32),
                 self.kmalloc(600_000_000, 0x3000, 8)]
        alive = self.alive(lines, "pipe")
        self.assertEqual([alive.get(f'kmem_slab_callsite_live_aged_bytes{{call_site="pipe",min_age_seconds="{age}"}}')
                          for age in truth.LIVE_AGES], [96, 64, None])

    def test_a_call_that_frees_in_silence_is_left_out(self):
        lines = [self.kmalloc(us, 0x1000, 64) for us in range(66)] + [self.kmalloc(100, 0x2000, 32, "sock+0x1/0x9")]
        self.assertEqual(self.alive(lines, "pipe", "sock"), {
            'kmem_slab_callsite_live_objects{call_site="sock"}': 1, 'kmem_slab_callsite_live_bytes{call_site="sock"}': 32})

    def frees(self, lines):
        result = truth.Truth("trace")
        for event in truth.parse_events(lines):
            result.add(*event)
        result.count_live_frees()
        series = result.series({})
        return [str(series[metric, ()]) for metric in truth.LIVE_FREES.values()]

    def test_frees_on_the_cpu_of_the_allocation_and_on_others(self):
        def on_cpu_0(us, pointer):
            return line(0, us, "kmem_cache_free", f"call_site=z+0x1/0x9 ptr={pointer:016x} name=filp")
        # The second allocation's address was freed in silence before; the last free is of nothing that was seen.
        lines = [self.kmalloc(1, 0x1000, 64), self.kfree(2, 0x1000), self.kmalloc(3, 0x2000, 64),
                 self.kmalloc(4, 0x2000, 64), on_cpu_0(5, 0x2000), self.kmalloc(6, 0x2000, 64),
                 self.kfree(7, 0x2000), self.kfree(8, 0x2000)]
        self.assertEqual(self.frees(lines), ["1", "2"])
        self.assertEqual(self.frees([]), ["0", "0"])

    def test_of_a_call_that_frees_in_silence_the_frees_may_be_counted(self):
        lines = [self.kmalloc(us, 0x1000, 64) for us in range(66)] + [self.kfree(100, 0x1000)]
        self.assertEqual(self.frees(lines), ["0", "0..1"])


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

    def test_frees_on_the_cpu_of_the_allocation_and_on_others(self):
        def allocation(cpu, us, pfn):
            return line(cpu, us, "mm_page_alloc", f"page=1 pfn={pfn} order=0 migratetype=1 gfp_flags=GFP_KERNEL")

        def free(cpu, us, pfn):
            return line(cpu, us, "mm_page_free", f"page=1 pfn={pfn} order=0")
        lines = [free(0, 1, 5), allocation(0, 2, 5), free(1, 3, 5), allocation(1, 4, 5), free(1, 5, 5), free(1, 6, 5),
                 allocation(0, 7, 6), allocation(1, 8, 6), free(0, 9, 6), free(0, 10, 6)]
        same, cross = "kmem_page_same_cpu_frees_total", "kmem_page_cross_cpu_frees_total"
        series = compute(lines)
        self.equal(series, same, 1)
        self.equal(series, cross, 2)
        # Of three it can't be known where they were allocated.
        series = compute(lines, from_the_start=False)
        self.equal(series, same, 1, 4)
        self.equal(series, cross, 2, 5)
        self.equal(compute([]), cross, 0)

    def test_a_sample_of_the_pages(self):
        lines = []
        for pfn in range(1000, 2000):
            lines += [line(0, 2 * pfn, "mm_page_alloc", f"pfn={pfn} order=0 migratetype=1 gfp_flags=GFP_KERNEL"),
                      line(1, 2 * pfn + 1, "mm_page_free", f"pfn={pfn} order=0")]
        cross = compute(lines, pages_one_in=16)["kmem_page_cross_cpu_frees_total"][0]
        self.assertEqual(cross % 16, 0)
        self.assertAlmostEqual(cross, 1000, delta=48)

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


def run_command(files, *arguments):
    """truth.py on these files; DIR in its arguments is where they are."""
    with tempfile.TemporaryDirectory() as directory:
        for name, content in files.items():
            os.makedirs(os.path.dirname(os.path.join(directory, name)), exist_ok=True)
            with open(os.path.join(directory, name), "w") as file:
                file.write(content)
        arguments = [argument.replace("DIR", directory) for argument in arguments]
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            status = truth.main(arguments)
    return status, output.getvalue()


class Commands(unittest.TestCase):
    EVENTS = [line(0, 1, "kmem_cache_free", "call_site=a ptr=ffff1 name=x")] * 1000

    @staticmethod
    def scrape(events, frees, more=""):
        return ("# TYPE kmem_tracepoint_events_total counter\n"
                f'kmem_exporter_engine_info{{engine="tracefs",reason="configured"}} 1\n'
                f'kmem_tracepoint_events_total{{tracepoint="kmem_cache_free"}} {events}\n'
                f'kmem_exporter_events_read_total{{tracepoint="kmem_cache_free"}} {events}\n'
                f'kmem_slab_frees_total{{allocator="kmem_cache"}} {frees}\n{more}')

    def compare(self, after, *arguments, **files):
        return run_command({"events": "\n".join(self.EVENTS), "after": after, **files}, "compare", "--engine", "tracefs", "--dialect",
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
        return run_command(files, "losses", "--metrics", "DIR/metrics", "--stats", "DIR")

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
            return run_command(files, "perf", "--engine", "tracefs", "--stat", "DIR/stat", "--before", "DIR/a", "--inner-before", "DIR/b",
                                    "--inner-after", "DIR/c", "--after", "DIR/d", "--tolerance-percent", "1")
        self.assertEqual(perf(1000)[0], 0)
        for count in (989, 1006, "<not supported>"):
            self.assertNotEqual(perf(count)[0], 0)


def samples(values, engine="bpf"):
    """A scrape: {metric with its labels: value}, and what every scrape has."""
    values = {f'kmem_exporter_engine_info{{engine="{engine}",reason="configured"}}': 1, **values}
    return "".join(f"{name} {value}\n" for name, value in values.items())


def account(lost, **fired):
    """What a scrape says of its tracepoints: how often they fired, and what was lost of it."""
    values = {'kmem_exporter_events_lost_total{reason="recursion"}': sum(lost.values()),
              'kmem_exporter_events_lost_total{reason="dropped"}': 0}
    for tracepoint, count in fired.items():
        values[f'kmem_tracepoint_events_total{{tracepoint="{tracepoint}"}}'] = count
        values[f'kmem_exporter_events_read_total{{tracepoint="{tracepoint}"}}'] = count - lost.get(tracepoint, 0)
    return values


class DeclaredLosses(unittest.TestCase):
    """The engine bpf may lack what it says that it lost by recursion, and nothing else."""

    def compare(self, events, after, *arguments, engine="bpf", text=None, **files):
        files = {name.replace("_", "-"): samples(values, engine) for name, values in {**files, "after": after}.items()}
        return run_command({"events": "\n".join(events), **files, **(text or {})}, "compare", "--engine", engine, "--dialect", "trace",
                           "--events", "DIR/events", "--after", "DIR/after", *arguments)

    def passes(self, *arguments, **options):
        status, output = self.compare(*arguments, **options)
        self.assertEqual(status, 0, output)

    def fails(self, why, *arguments, **options):
        status, output = self.compare(*arguments, **options)
        self.assertEqual(status, 1, output)
        self.assertIn(why, "\n".join(row for row in output.splitlines() if row.startswith("VIOLATION")))

    FREES = [line(0, 1, "kmem_cache_free", "call_site=a ptr=ffff1 name=x")] * 1000
    CACHE_FREES = 'kmem_slab_frees_total{allocator="kmem_cache"}'

    def frees(self, lost, counted):
        return {**account({"kmem_cache_free": lost}, kmem_cache_free=1000), self.CACHE_FREES: counted}

    def test_as_many_as_declared(self):
        self.passes(self.FREES, self.frees(0, 1000))
        for counted in (990, 995, 1000):
            self.passes(self.FREES, self.frees(10, counted))
        self.fails("truth 1000, exporter 989", self.FREES, self.frees(10, 989))
        self.fails("truth 1000, exporter 1001", self.FREES, self.frees(10, 1001))
        self.fails("truth 1000, exporter 999", self.FREES, self.frees(0, 999))

    def test_a_missing_series(self):
        missing = self.frees(1000, 0)
        del missing[self.CACHE_FREES]
        self.passes(self.FREES, missing)
        missing = self.frees(999, 0)
        del missing[self.CACHE_FREES]
        self.fails("no such series", self.FREES, missing)

    def test_what_fired_is_exact_all_the_same(self):
        for fired in (990, 999, 1001):
            after = {**account({"kmem_cache_free": 10}, kmem_cache_free=fired), self.CACHE_FREES: fired - 10}
            self.fails(f'kmem_tracepoint_events_total{{tracepoint="kmem_cache_free"}}: truth 1000, exporter {fired}',
                       self.FREES, after)

    def test_only_the_bpf_engine(self):
        for engine in ("tracefs", "replay"):
            self.fails("of which 990 were read", self.FREES, self.frees(10, 990), engine=engine)
            self.fails("truth 1000, exporter 990", self.FREES, self.frees(10, 990), engine=engine)
            self.fails('reason="recursion"} rose by 10', self.FREES, self.frees(10, 990), engine=engine)

    def test_it_has_to_be_that_engine(self):
        after = samples(self.frees(0, 1000), "tracefs")
        files = {"events": "\n".join(self.FREES), "after": after}
        status, output = run_command(files, "compare", "--engine", "bpf", "--dialect", "trace",
                                     "--events", "DIR/events", "--after", "DIR/after")
        self.assertEqual(status, 2, output)

    def test_the_declaration_has_to_be_consistent(self):
        for said in (9, 11):
            after = {**self.frees(10, 990), 'kmem_exporter_events_lost_total{reason="recursion"}': said}
            self.fails(f"10 events fired and were not read, {said} are declared", self.FREES, after)
        after = {**self.frees(0, 1000), 'kmem_exporter_events_read_total{tracepoint="kmem_cache_free"}': 1001}
        self.fails("fired 1000 times, of which 1001 were read", self.FREES, after)

    def test_other_losses_are_none(self):
        after = {**self.frees(10, 990), 'kmem_exporter_events_lost_total{reason="dropped"}': 10}
        self.fails('reason="dropped"} rose by 10', self.FREES, after)

    def test_losses_of_another_tracepoint(self):
        events = self.FREES + [line(0, 1, "kfree", "call_site=a ptr=ffff1")] * 20
        after = {**account({"kfree": 10}, kmem_cache_free=1000, kfree=20), self.CACHE_FREES: 1000,
                 'kmem_slab_frees_total{allocator="kmalloc"}': 10}
        self.passes(events, after)
        self.fails("truth 1000, exporter 999", events, {**after, self.CACHE_FREES: 999})

    def test_losses_before_the_interval(self):
        before = {**account({"kmem_cache_free": 5}, kmem_cache_free=50), self.CACHE_FREES: 45}
        for lost, counted, status in ((5, 1045, 0), (5, 1044, 1), (6, 1044, 0), (4, 1045, 1)):
            after = {**account({"kmem_cache_free": lost}, kmem_cache_free=1050), self.CACHE_FREES: counted}
            self.assertEqual(self.compare(self.FREES, after, "--before", "DIR/before", before=before)[0], status)

    def test_losses_do_not_fall(self):
        before = {**account({"kmem_cache_free": 5}, kmem_cache_free=50), self.CACHE_FREES: 45}
        after = {**account({"kmem_cache_free": 4}, kmem_cache_free=1050), self.CACHE_FREES: 1046}
        self.fails("the losses fell by 1", self.FREES, after, "--before", "DIR/before", before=before)

    def test_a_lost_event_is_missing_once(self):
        events = [line(0, 1, "mm_page_free", f"page=1 pfn=1 order={order}") for order in (0, 0, 1, 1)]

        def frees(lost, *counted):
            values = {f'kmem_page_frees_total{{order="{order}"}}': count for order, count in enumerate(counted)}
            pages = sum(count << order for order, count in enumerate(counted))
            return {**account({"mm_page_free": lost}, mm_page_free=4), **values, "kmem_page_freed_bytes_total": 4096 * pages}
        self.passes(events, frees(1, 2, 1))
        self.passes(events, frees(2, 1, 1))
        self.fails("kmem_page_frees_total: 2 are missing in all its series together, the declared losses explain 1",
                   events, frees(1, 1, 1))

    def allocations(self, lost, counted, requested, allocated, **more):
        label = '{allocator="kmalloc"}'
        size = 'kmem_slab_request_size_bytes_{}{{allocator="kmalloc"{}}}'
        classes = {"16": 8, "32": 16, "1024": 1000, "8192": 5000}  # the smallest were counted
        by_class = {f'kmem_slab_kmalloc_{what}_total{{size_class="{bound}"}}': value
                    for bound, bytes_req in list(classes.items())[:counted]
                    for what, value in (("allocations", 1), ("requested_bytes", bytes_req))}
        return {**by_class, **account({"kmalloc": lost}, kmalloc=4), f"kmem_slab_allocations_total{label}": counted,
                f"kmem_slab_requested_bytes_total{label}": requested, f"kmem_slab_allocated_bytes_total{label}": allocated,
                size.format("bucket", ',le="64"'): more.get("small", counted), size.format("bucket", ',le="+Inf"'): counted,
                size.format("count", ""): counted, size.format("sum", ""): more.get("sum", requested),
                "kmem_slab_waste_bytes_count": counted, "kmem_slab_waste_bytes_sum": allocated - requested}

    ALLOCATIONS = [line(0, 1, "kmalloc", f"call_site=a ptr=ffff1 bytes_req={size} bytes_alloc={size + 4} gfp_flags=0")
                   for size in (8, 16, 1000, 5000)]

    def test_bytes_of_the_largest(self):
        events = self.ALLOCATIONS
        self.passes(events, self.allocations(0, 4, 6024, 6040, small=2))
        self.passes(events, self.allocations(1, 3, 1024, 1036, small=2))
        self.passes(events, self.allocations(2, 2, 24, 32, small=2))
        self.fails("kmem_slab_requested_bytes_total", events, self.allocations(1, 3, 1023, 1036, small=2))
        self.fails("kmem_slab_allocated_bytes_total", events, self.allocations(1, 3, 1024, 1035, small=2))
        self.fails("kmem_slab_request_size_bytes_sum", events, self.allocations(1, 3, 1024, 1036, small=2, sum=1023))
        self.fails("kmem_slab_requested_bytes_total", events, self.allocations(2, 2, 23, 32, small=2))
        self.fails('le="64"}: truth 2, exporter 0', events, self.allocations(1, 3, 1024, 1036, small=0))

    def test_rare_ones(self):
        events = [line(0, 1, "mm_page_alloc", "page=(nil) pfn=0x0 order=9 migratetype=1 gfp_flags=0xc0")] * 3
        for lost, failures, status in ((0, 3, 0), (1, 2, 0), (1, 1, 1), (0, 2, 1), (1, 4, 1)):
            after = {**account({"mm_page_alloc": lost}, mm_page_alloc=3),
                     'kmem_page_allocation_failures_total{nowarn="false",order="9"}': failures}
            result = self.compare(events, after, "--rare", "failures", "--formats", "DIR",
                                  text={"mm_page_alloc": PRINT_FMT_5_10})
            self.assertEqual(result[0], status, result[1])

    def test_batches(self):
        events = []
        for ns in (0, 1000, 2000):  # three batches of a page each: something lies between them
            events += [exact(0, ns, "mm_page_pcpu_drain", "pfn=1 order=0 migratetype=0"),
                       exact(0, ns + 1, "mm_page_free", "pfn=1 order=0")]

        def after(lost, batches):
            size = "kmem_pcp_drain_batch_pages_{}"
            return {**account({"mm_page_free": lost}, mm_page_pcpu_drain=3, mm_page_free=3),
                    'kmem_pcp_drain_pages_total{cpu="0"}': 3, 'kmem_pcp_drains_total{cpu="0"}': batches,
                    size.format("count"): batches, size.format("sum"): 3, size.format('bucket{le="+Inf"}'): batches,
                    size.format('bucket{le="1"}'): 2 * batches - 3, 'kmem_page_frees_total{order="0"}': 3 - lost,
                    "kmem_page_freed_bytes_total": 4096 * (3 - lost)}
        self.passes(events, after(0, 3))
        self.passes(events, after(1, 2))  # one of them of 2 pages
        self.passes(events, after(2, 1) | {'kmem_pcp_drain_batch_pages_bucket{le="1"}': 0})
        self.fails("kmem_pcp_drains_total", events, after(1, 1) | {'kmem_pcp_drain_batch_pages_bucket{le="1"}': 0})
        self.fails("kmem_pcp_drains_total", events, after(0, 2))
        self.fails('le="1"', events, after(1, 2) | {'kmem_pcp_drain_batch_pages_bucket{le="1"}': 0})
        # Pages are moved by drains, of which none was lost.
        self.fails("kmem_pcp_drain_pages_total", events, after(1, 2) | {'kmem_pcp_drain_pages_total{cpu="0"}': 2})
        self.fails("kmem_pcp_drain_batch_pages_sum", events, after(1, 2) | {"kmem_pcp_drain_batch_pages_sum": 2})

    def test_pages_of_batches(self):
        events = [exact(0, ns, "mm_page_pcpu_drain", "pfn=1 order=2 migratetype=0") for ns in (0, 1, 2)]

        def after(lost, pages):
            size = "kmem_pcp_drain_batch_pages_{}"
            return {**account({"mm_page_pcpu_drain": lost}, mm_page_pcpu_drain=3),
                    'kmem_pcp_drain_pages_total{cpu="0"}': pages, 'kmem_pcp_drains_total{cpu="0"}': 1,
                    size.format("count"): 1, size.format("sum"): pages, size.format('bucket{le="+Inf"}'): 1}
        self.passes(events, after(0, 12))
        self.passes(events, after(1, 8))
        self.fails("kmem_pcp_drain_pages_total", events, after(1, 7))
        self.fails("kmem_pcp_drain_batch_pages_sum", events, after(1, 7))

    def bracket(self, lost, counted, *arguments):
        """counted: what the exporter counted at the four scrapes of 10, 11, 1011 and 1012 events."""
        scrapes = {name: {**account({"kmem_cache_free": 0 if fired < 20 else lost}, kmem_cache_free=fired),
                          self.CACHE_FREES: count}
                   for name, fired, count in zip(("before", "inner_before", "inner_after", "after"),
                                                 (10, 11, 1011, 1012), counted)}
        return self.compare(self.FREES, scrapes.pop("after"), "--before", "DIR/before", "--inner-before", "DIR/inner-before",
                            "--inner-after", "DIR/inner-after", "--tolerance-percent", "0.5", *arguments, **scrapes)

    def test_in_a_bracket(self):
        self.assertEqual(self.bracket(0, (10, 11, 1011, 1012))[0], 0)
        self.assertEqual(self.bracket(10, (10, 11, 1001, 1002))[0], 0)
        # Large ones have a percentage, also of what is missing beyond the declared.
        self.assertEqual(self.bracket(10, (10, 11, 1001, 1002), "--large", "1000")[0], 0)
        self.assertIn("exporter between 989 and 989", self.bracket(10, (10, 11, 1000, 999))[1])
        # The exporter counts too much: losses are no excuse.
        self.assertIn("exporter between 1001 and 1003", self.bracket(10, (10, 11, 1012, 1013))[1])
        self.assertIn("11 of 1000 events are declared as lost: too many", self.bracket(11, (10, 11, 1000, 1001))[1])
        self.assertIn("0.5 % off", self.bracket(0, (10, 11, 1011, 1022), "--large", "1000")[1])


class Engines(unittest.TestCase):
    NAMES = ("before", "inner-before", "inner-after", "after")

    def engines(self, change=None, comment="# TYPE a counter\n"):
        """change: (engine, scrapes, series, value): None takes the series away."""
        files = {}
        for engine, offset in (("tracefs", 0), ("bpf", 1)):
            for name, fired in zip(self.NAMES, (10, 20, 120, 130)):
                values = {**account({}, kfree=fired + offset), 'kmem_exporter_tracepoint_enabled{tracepoint="kfree"}': 1,
                          'kmem_page_allocations_total{migratetype="cma",order="0"}': 5}
                if change and change[0] == engine and name in change[1]:
                    values[change[2]] = change[3]
                    values = {series: value for series, value in values.items() if value is not None}
                files[f"{engine}/{name}.prom"] = samples(values, engine) + (comment if engine == "bpf" else "# TYPE a counter\n")
        return run_command(files, "engines", "--tracefs", "DIR/tracefs", "--bpf", "DIR/bpf")

    def test_equal(self):
        status, output = self.engines()
        self.assertEqual(status, 0, output)

    def test_a_series_is_missing(self):
        series = 'kmem_page_allocations_total{migratetype="cma",order="0"}'
        for engine in ("tracefs", "bpf"):
            # As before the interval: it may be from before the other one's start.
            self.assertEqual(self.engines((engine, self.NAMES, series, None))[0], 0)
            status, output = self.engines((engine, self.NAMES, 'kmem_exporter_events_read_total{tracepoint="kfree"}', None))
            self.assertEqual(status, 1, output)
            status, output = self.engines((engine, ("after",), "kmem_page_new_total", 1))
            self.assertIn(f"only with {engine}: kmem_page_new_total", output)
            self.assertEqual(status, 1, output)

    def test_help_and_type(self):
        self.assertIn("only one engine says: # TYPE a gauge", self.engines(comment="# TYPE a gauge\n")[1])

    def test_a_tracepoint_is_not_used(self):
        series = 'kmem_exporter_tracepoint_enabled{tracepoint="kfree"}'
        self.assertIn("1 with tracefs, 0 with bpf", self.engines(("bpf", self.NAMES, series, 0))[1])

    def test_events(self):
        for engine in ("tracefs", "bpf"):
            for series in ("kmem_tracepoint_events_total", "kmem_exporter_events_read_total"):
                result = self.engines((engine, ("after",), series + '{tracepoint="kfree"}', 100))
                self.assertEqual(result[0], 1, result[1])
            status, output = self.engines((engine, ("after",), 'kmem_tracepoint_events_total{tracepoint="kfree"}', 100))
            self.assertIn("in a longer interval", output)

    def test_engines_are_what_they_are_called(self):
        files = {f"{engine}/{name}.prom": samples(account({}, kfree=10), "tracefs")
                 for engine in ("tracefs", "bpf") for name in self.NAMES}
        self.assertEqual(run_command(files, "engines", "--tracefs", "DIR/tracefs", "--bpf", "DIR/bpf")[0], 2)


class PerfAndLosses(unittest.TestCase):
    def perf(self, lost, requested, said=None):
        label = '{allocator="kmalloc"}'
        files = {"stat": "Total bytes requested: 1,000\nTotal bytes allocated: 2,000\n"}
        for name, step in (("a", 0), ("b", 0), ("c", 1), ("d", 1)):
            files[name] = samples({**account({"kmalloc": lost * step}, kmalloc=10 * step),
                                   f"kmem_slab_requested_bytes_total{label}": requested * step,
                                   f"kmem_slab_allocated_bytes_total{label}": 2000 * step,
                                   'kmem_exporter_events_lost_total{reason="recursion"}': (lost if said is None else said) * step})
        return run_command(files, "perf", "--engine", "bpf", "--kmem-stat", "DIR/stat", "--before", "DIR/a",
                           "--inner-before", "DIR/b", "--inner-after", "DIR/c", "--after", "DIR/d")

    def test_bytes(self):
        self.assertEqual(self.perf(0, 1000)[0], 0)
        self.assertEqual(self.perf(0, 999)[0], 1)

    def test_declaration(self):
        self.assertEqual(self.perf(0, 1000, said=0)[0], 0)
        self.assertIn("0 events fired and were not read, 1 are declared", self.perf(0, 1000, said=1)[1])

    def callers(self, *functions, outside=0):
        """perf saw a allocate 4096 bytes, b 1000, c 996; the exporter what is given: (function, bytes) ...

        And so much of b more outside of perf's interval, one half just before it and one just behind it.
        """
        files = {"callers": " Callsite   | Total_alloc/Per | Total_req/Per | Hit | Ping-pong | Frag\n"
                            " a+1f       |       4000/40   |      3000/30  | 100 |         0 | 25.000%\n"
                            " a+b        |         96/96   |        80/80  |   1 |         0 | 16.667%\n"
                            " b.cold+0   |       1000/10   |       900/9   | 100 |         0 | 10.000%\n"
                            " c+0        |        996/9    |       900/9   | 100 |         0 | 10.000%\n"
                            " ...        | ...             | ...           | ... | ...       | ...\n"}
        for name, step, more in (("a", 0, 0), ("b", 0, outside), ("c", 1, outside), ("d", 1, 2 * outside)):
            files[name] = samples({
                **account({}, kmalloc=301 * step),
                **{f'kmem_slab_callsite_{what}_total{{call_site="{function}",module="kernel"}}':
                   value * step + (more if function == "b.cold" and what == "allocated_bytes" else 0)
                   for function, *values in functions
                   for what, value in zip(("allocated_bytes", "requested_bytes", "allocations"), values)}})
        return run_command(files, "callers", "--engine", "bpf", "--top", "3", "--callers", "DIR/callers", "--before",
                           "DIR/a", "--inner-before", "DIR/b", "--inner-after", "DIR/c", "--after", "DIR/d")

    A, B, C = ("a", 4096, 3080, 101), ("b.cold", 1000, 900, 100), ("c", 996, 900, 100)

    def test_callers(self):
        self.assertEqual(self.callers(self.B, self.A, self.C, ("other", 9999, 9999, 9999))[0], 0)
        status, output = self.callers(self.A, ("b.cold", 1000, 900, 102), self.C)
        self.assertEqual(status, 1)
        self.assertIn("kmem_slab_callsite_allocations_total of b.cold: perf 100, exporter between 102 and 102", output)

    def test_a_caller_that_is_off_within_a_wide_boundary(self):
        self.assertEqual(self.callers(self.A, ("b.cold", 980, 900, 100), self.C, outside=20)[0], 0)
        status, output = self.callers(self.A, ("b.cold", 960, 900, 100), self.C, outside=20)
        self.assertEqual(status, 1, output)
        self.assertIn("allocated_bytes_total of b.cold: perf 1000, exporter between 960 and 1000", output)

    def test_callers_in_another_order(self):
        swapped = ("b.cold", 996, 900, 100), ("c", 1000, 900, 100)
        status, output = self.callers(self.A, *swapped)
        self.assertEqual(status, 1)
        self.assertIn("b.cold comes before c for perf (1000 and 996), but not for the exporter (996 and 1000)", output)
        self.assertEqual(output.count("VIOLATION"), 1, output)
        # Closer than the boundary is wide: nobody can say.
        self.assertEqual(self.callers(self.A, ("b.cold", 990, 900, 100), ("c", 1000, 900, 100), outside=6)[0], 0)

    def test_a_caller_that_perf_did_not_see_that_often(self):
        status, output = self.callers(("d", 9000, 9000, 9000), self.A, self.B, self.C)
        self.assertEqual(status, 1)
        self.assertIn("d is not among perf's first 3, of which the last has 996, and the exporter counted at least 9000", output)

    def test_lost_allocations(self):
        self.assertIn("SKIPPED: bytes: 1 allocations", self.perf(1, 990)[1])


if __name__ == "__main__":
    unittest.main()
