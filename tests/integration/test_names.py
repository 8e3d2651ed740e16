"""Call sites and caches by name, on the live kernel: known loads, hidden symbols, the cap."""
import os
import re
import shutil
import subprocess
import unittest

import load
import tracefs
from harness import PROGRAM, TIME_SCALE, TracingTest, wait_until
from test_bpf import ONLY_BPF, why_unusable

NO_SYSLOG = ["setpriv", "--bounding-set=-syslog"]
KPTR_RESTRICT = "/proc/sys/kernel/kptr_restrict"
ALLOCATIONS = "kmem_slab_callsite_allocations_total"
TOTALS = ("allocations_total", "requested_bytes_total", "allocated_bytes_total")
# A kernel address: in hexadecimal, as a whole number, and as a number of the text format.
ADDRESS = re.compile(r".*(\b(0x)?ffff[0-9a-f]{8,}|\b1844[67]\d{15}\b|\b1\.844[67]\d*e\+?19).*", re.I)
# All that could tell of one.
TALKATIVE = {"log": {"level": "debug"}, "collectors": {"slab": {"live": {"enabled": True}}}}


class kptr_restrict:
    """Sets the sysctl for a while."""

    def __init__(self, value):
        self.value = value

    def __enter__(self):
        with open(KPTR_RESTRICT, encoding="ascii") as file:
            self.before = file.read()
        self._write(self.value)

    def __exit__(self, *_):
        self._write(self.before)

    @staticmethod
    def _write(value):
        with open(KPTR_RESTRICT, "w", encoding="ascii") as file:
            file.write(str(value))


@unittest.skipUnless(os.geteuid() == 0, "not root")
class Names(TracingTest):
    ENGINE = "tracefs"

    def start_engine(self, *arguments, config=None, **options):
        # Room enough to lose nothing, however slow this build is.
        room = {"tracefs": {"buffer_size_kb": 16384, "buffer_total_max_kb": 131072}}
        return self.start(f"--engine={self.ENGINE}", *arguments, config={**(config or {}), **room},
                          **options)

    def sites(self, exporter):
        return exporter.scrape_now().by(ALLOCATIONS, "call_site")

    def wait_for(self, exporter, family, label, name):
        """What pipes made the name count, once it has a series: after a window of 10 s at most,
        unless it was already in the first scrape."""
        def value():
            load.pipes(200)
            return exporter.scrape_now().by(family, label).get(name)
        return wait_until(value, 30, f"{name} has a series")

    def sums_off(self, metrics):
        """By how much the sums over the call sites differ from the allocators' totals."""
        return [metrics[f"kmem_slab_callsite_{total}"] - metrics[f"kmem_slab_{total}"] for total in TOTALS]

    def test_pipes_are_counted_at_the_function_that_makes_them(self):
        exporter = self.start_engine()
        load.pipes(2000)
        before = self.wait_for(exporter, ALLOCATIONS, "call_site", "alloc_pipe_info")
        load.pipes(3000)
        metrics = exporter.scrape_now()
        made = metrics.by(ALLOCATIONS, "call_site")["alloc_pipe_info"] - before
        # Two objects a pipe: itself and its ring. Others make some pipes, too.
        self.assertGreaterEqual(made, 6000)
        self.assertLess(made, 2 * 6000)
        self.assertEqual(metrics.get("kmem_exporter_symbols_available"), 1)

    def test_the_sum_of_the_call_sites_is_the_allocators_total(self):
        exporter = self.start_engine()
        load.mixed()
        if self.ENGINE == "tracefs":
            self.assertEqual(self.sums_off(exporter.scrape()), [0, 0, 0])
        else:  # whose readings of the two may have events between them
            wait_until(lambda: not any(self.sums_off(exporter.scrape())), 10, "the sums are right")

    def test_more_names_than_the_cap_are_in_other(self):
        exporter = self.start_engine(config={"collectors": {"slab": {
            "callsites": {"max_series": 3}, "caches": {"max_series": 2}}}})
        load.mixed()
        # Names get their places at a scrape, of what had been read by then.
        folded = lambda: exporter.scrape().by("kmem_exporter_series_folded", "family")["kmem_slab_callsite"]
        wait_until(folded, 10, "names are folded")
        self.assertEqual(len(self.sites(exporter)), 4)
        metrics = exporter.scrape()
        for name in ("kmem_slab_cache_allocations_total", "kmem_slab_cache_frees_total"):
            if name in metrics:
                self.assertLessEqual(len(metrics.by(name, "cache")), 3)

    def test_what_is_off_is_not_there(self):
        exporter = self.start_engine(config={"collectors": {"slab": {
            "callsites": {"enabled": False}, "caches": {"enabled": False}}}})
        load.mixed()
        names = set(exporter.scrape().samples)
        self.assertEqual({name for name in names if "callsite" in name or "slab_cache" in name
                          or "slab_kmalloc" in name or "symbols" in name or "folded" in name}, set())

    def assert_no_address(self, exporter, prefix=()):
        """Nowhere, whether functions have names or not: it would tell where the kernel lies."""
        texts = {"log": exporter.log(), "/metrics": exporter.text_now(),
                 "/": exporter.request("/").body.decode()}
        for form in ("--json", None):
            config = self.config_file({**TALKATIVE, "engine": self.ENGINE})
            command = [*prefix, PROGRAM, "report", "--duration=1", f"--config.file={config}"]
            with subprocess.Popen([*command, form] if form else command, encoding="utf-8",
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE) as report:
                load.mixed()
                out, log = report.communicate(timeout=20 * TIME_SCALE)
            self.assertEqual(report.returncode, 0, log)
            self.assertIn("other", out)
            texts[f"report {form}"] = out + log
        for where, text in texts.items():
            found = ADDRESS.search(text)
            self.assertIsNone(found, f"{where}: {found and found[0]}")

    def assert_hidden(self, exporter, prefix=()):
        load.mixed()
        metrics = exporter.scrape()
        self.assertEqual(set(metrics.by(ALLOCATIONS, "call_site")), {"other"})
        self.assertEqual(metrics.get("kmem_exporter_symbols_available"), 0)
        warnings = exporter.log_lines("call sites have no names")
        self.assertEqual(len(warnings), 1, exporter.log())
        self.assertIn("CAP_SYSLOG", warnings[0])
        self.assert_no_address(exporter, prefix)

    @unittest.skipUnless(shutil.which("setpriv"), "no setpriv here")
    def test_without_cap_syslog_names_are_hidden_and_the_log_says_what_they_need(self):
        self.assert_hidden(self.start_engine(prefix=NO_SYSLOG, config=TALKATIVE), NO_SYSLOG)

    def test_kptr_restrict_2_hides_the_names_from_everybody(self):
        with kptr_restrict(2):
            self.assert_hidden(self.start_engine(config=TALKATIVE))

    def test_kptr_restrict_1_does_not_hide_them_from_who_has_the_capability(self):
        with kptr_restrict(1):
            exporter = self.start_engine(config=TALKATIVE)
            self.wait_for(exporter, ALLOCATIONS, "call_site", "alloc_pipe_info")
            self.assert_no_address(exporter)

    def test_a_cache_has_its_name(self):
        exporter = self.start_engine()
        load.pipes(2000)
        allocations = "kmem_slab_cache_allocations_total"
        if allocations not in exporter.scrape_now():
            self.skipTest("this kernel does not name the cache of an allocation")
        before = self.wait_for(exporter, allocations, "cache", "filp")
        load.pipes(2000)
        metrics = exporter.scrape_now()
        self.assertGreaterEqual(metrics.by(allocations, "cache")["filp"] - before, 4000)
        self.assertLess(metrics.by(allocations, "cache")["filp"],
                        metrics.get("kmem_slab_allocations_total", allocator="kmem_cache"))


@unittest.skipIf(why_unusable(), why_unusable())
class NamesInTheKernel(Names):
    ENGINE = "bpf"

    def test_the_names_need_no_more_than_three_capabilities(self):
        prefix = [word.replace("+perfmon", "+perfmon,+syslog") for word in ONLY_BPF]
        exporter = self.start_engine(prefix=prefix)
        self.wait_for(exporter, ALLOCATIONS, "call_site", "alloc_pipe_info")


if __name__ == "__main__":
    unittest.main()
