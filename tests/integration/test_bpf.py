"""The in-kernel engine: which engine runs and why, that it counts what the other counts, what it
needs, and that it leaves nothing in the kernel."""
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import unittest

import load
import test_cross_cpu
import test_idle_cost
import test_resources
import test_tracing
import tracefs
from harness import PROGRAM, TIME_SCALE, ExporterTest, TracingTest, wait_until

BTF = "/sys/kernel/btf/vmlinux"
BPFTOOL = shutil.which("bpftool", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
OF_ONE_ENGINE = ("kmem_exporter_engine_info", "kmem_exporter_event_cost_seconds")  # the series that differ on purpose
BY_NAME = "kmem_slab_(callsite|cache)_"
# setpriv: nothing but these.
ONLY_BPF = ["setpriv", "--no-new-privs", "--bounding-set=-all,+bpf,+perfmon", "--inh-caps=-all"]
NO_CAPABILITY = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
# As on a kernel that has none; it takes root.
WITHOUT_BTF = ["unshare", "--mount", "sh", "-c",
               f'{{ [ ! -e {BTF} ] || mount -t tmpfs nodev {os.path.dirname(BTF)}; }} && exec "$0" "$@"']


def why_unusable():
    """Why BPF programs can't be loaded here, or None."""
    if not os.path.exists(BTF):
        return f"no {BTF}: the kernel has no BTF"
    if os.geteuid() != 0:
        return "not root"
    return None if is_built() else "built without the in-kernel engine"


def is_built():
    return "KMEM_BPF:BOOL=OFF" not in read_or_empty(f"{os.path.dirname(PROGRAM)}/CMakeCache.txt")


def read_or_empty(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def attached_by(pid):
    """The tracepoints that the process has a BPF program on, with the program's id each."""
    directory = f"/proc/{pid}/fdinfo"
    links = (read_or_empty(f"{directory}/{fd}") for fd in os.listdir(directory))
    return {re.search(r"^tp_name:\s*(\S+)", link, re.M)[1]:
            int(re.search(r"^prog_id:\s*(\d+)", link, re.M)[1])
            for link in links if "tp_name:" in link}


def loaded_programs():
    """The ids of all BPF programs, whosever they are."""
    shown = subprocess.run([BPFTOOL, "-j", "prog", "show"], check=True, capture_output=True)
    return {program["id"] for program in json.loads(shown.stdout)}


class BpfTest(ExporterTest):
    ENGINE = "bpf"

    @classmethod
    def setUpClass(cls):
        reason = why_unusable()
        if reason is not None:
            raise unittest.SkipTest(reason)
        super().setUpClass()

    def engine_of(self, exporter):
        samples = exporter.scrape().samples["kmem_exporter_engine_info"]
        self.assertEqual(list(samples.values()), [1])
        return dict(next(iter(samples)))


class Tracepoints(BpfTest, test_tracing.Tracepoints):
    def test_collectors_that_are_off_enable_no_events(self):
        exporter = self.start("--no-collector.slab", "--no-collector.page")
        self.assertEqual(set(attached_by(exporter.pid)), {
            "mm_page_alloc_zone_locked", "mm_page_pcpu_drain", "mm_page_alloc", "mm_page_free"})
        self.assertNotIn("kmalloc", exporter.scrape().events())

    def test_more_extra_events_than_there_is_room_for_are_logged_and_the_rest_runs(self):
        names = ["rss_stat", "sched_switch", "sched_wakeup", "sched_process_fork",
                 "sched_process_exit", "sched_process_exec", "sys_enter", "sys_exit", "timer_start"]
        exporter = self.start(config={"extra_events": names})
        enabled = exporter.scrape().by("kmem_exporter_tracepoint_enabled", "tracepoint")
        there = [name for name in names if name in enabled]
        refused = [name for name in there if not enabled[name]]
        self.assertEqual(refused, there[8:])
        self.assertEqual(len(exporter.log_lines("counts at most 8 extra events")), len(refused))
        self.assert_counting(exporter)


class Exactness(BpfTest, test_tracing.Exactness):
    pass


class CrossCpu(BpfTest, test_cross_cpu.CrossCpu):
    RACES = 8


class Speed(BpfTest, test_resources.Speed):
    def test_the_first_good_scrape_comes_within_half_a_second(self):
        seconds = min(self.seconds_to_first_scrape() for _ in range(self.ATTEMPTS))
        print(f"\n  {seconds * 1000:.0f} ms to the first good scrape")
        self.assertLessEqual(seconds, 0.5)


class Memory(BpfTest, test_resources.Memory):
    pass


class IdleCost(BpfTest, test_idle_cost.IdleCost):
    pass


class Scrapes(BpfTest, TracingTest):
    def test_what_recursion_lost_is_the_difference_and_all_else_agrees(self):
        exporter = self.start()
        load.storm(1)
        now = exporter.scrape_now()
        events, read = now.events(), now.by("kmem_exporter_events_read_total", "tracepoint")
        lost = {name: events[name] - read[name] for name in events}
        self.assertTrue(all(count >= 0 for count in lost.values()), lost)
        self.assertEqual(now.get("kmem_exporter_events_lost_total", reason="recursion"),
                         sum(lost.values()))
        self.assertEqual(now["kmem_exporter_record_errors_total"], 0)

    def test_no_counter_falls_while_scrapes_meet_events_half_counted(self):
        exporter = self.start()
        stop = threading.Event()

        def run():
            while not stop.is_set():
                load.storm(0.1)
        storms = [threading.Thread(target=run) for _ in range(os.cpu_count() or 1)]
        # Threads of one interpreter take turns; processes do not.
        busy = ["sh", "-c", "while :; do ls -lR /proc/self/ >/dev/null 2>&1; done"]
        others = [subprocess.Popen(busy) for _ in range(os.cpu_count() or 1)]
        for storm in storms:
            storm.start()
        try:
            last = exporter.scrape()
            for _ in range(60):
                now = exporter.scrape()
                for name, samples in now.samples.items():
                    if not name.endswith(("_total", "_bucket", "_count", "_sum")):
                        continue
                    for labels, value in samples.items():
                        before = last.samples.get(name, {}).get(labels, 0)
                        self.assertGreaterEqual(value, before, f"{name} {dict(labels)}")
                last = now
        finally:
            stop.set()
            for storm in storms:
                storm.join()
            for other in others:
                other.kill()
                other.wait()

    def test_both_engines_have_the_same_series(self):
        bpf = self.start()
        # The other one's tracefs instance is in use by the first, for extfrag.
        name = f"{self.instance_name}_other"
        self.addCleanup(lambda: self.assertFalse(tracefs.remove(name), "an instance was left"))
        other = self.start(config={"engine": "tracefs", "tracefs": {"instance": name}})

        def series(metrics):  # of call sites and caches the engines may have met others
            return {(name, None if re.match(BY_NAME, name) else labels)
                    for name, samples in metrics.samples.items()
                    for labels in samples if name not in OF_ONE_ENGINE}
        for exporter in (bpf, other):
            exporter.scrape()
        ours, theirs = bpf.scrape(), other.scrape()
        self.assertEqual(series(ours), series(theirs))
        self.assertEqual(bpf.stop(), 0)
        self.assertEqual(other.stop(), 0)


class Privileges(BpfTest, TracingTest):
    def setUp(self):
        super().setUp()
        if shutil.which("setpriv") is None:
            self.skipTest("no setpriv here")

    def test_cap_bpf_and_cap_perfmon_are_enough(self):
        exporter = self.start(prefix=ONLY_BPF)
        self.assertEqual(int(exporter.status("CapEff"), 16), 1 << 38 | 1 << 39)
        self.assert_counting(exporter)
        self.assertEqual(self.engine_of(exporter), {"engine": "bpf", "reason": "configured"})

    def test_without_them_the_start_ends_and_says_what_is_missing(self):
        done = subprocess.run(
            [*NO_CAPABILITY, PROGRAM, f"--config.file={self.config_file({})}",
             "--web.listen-address=127.0.0.1:0"], capture_output=True, encoding="utf-8",
            timeout=20 * TIME_SCALE, check=False)
        self.assert_refused(done, r"bpf: .*Operation not permitted.*CAP_BPF and CAP_PERFMON")

    def test_auto_without_them_takes_tracefs_and_says_why(self):
        exporter = self.start(prefix=NO_CAPABILITY, config={"engine": "auto"})
        self.assertEqual(self.engine_of(exporter),
                         {"engine": "tracefs", "reason": "auto, bpf not_permitted"})
        lines = exporter.log_lines("engine bpf can't be used, tracefs is tried: bpf:")
        self.assertEqual(len(lines), 1)
        self.assert_counting(exporter)

    def test_auto_takes_bpf(self):
        exporter = self.start(config={"engine": "auto"})
        self.assertEqual(self.engine_of(exporter), {"engine": "bpf", "reason": "auto"})
        self.assertEqual(len(exporter.log_lines(r"engine bpf \(auto\)")), 1)

    def test_a_kernel_without_btf_is_a_reason_of_its_own(self):
        exporter = self.start(prefix=WITHOUT_BTF, config={"engine": "auto"})
        self.assertEqual(self.engine_of(exporter),
                         {"engine": "tracefs", "reason": "auto, bpf no_btf"})
        done = subprocess.run(
            [*WITHOUT_BTF, PROGRAM, f"--config.file={self.config_file({})}",
             "--web.listen-address=127.0.0.1:0"], capture_output=True, encoding="utf-8",
            timeout=20 * TIME_SCALE, check=False)
        self.assert_refused(done, f"bpf: .*{BTF}.*CONFIG_DEBUG_INFO_BTF")

    def test_where_neither_works_the_line_has_both_reasons(self):
        done = subprocess.run(
            [*NO_CAPABILITY, PROGRAM, f"--config.file={self.config_file({'engine': 'auto'})}",
             "--web.listen-address=127.0.0.1:0", "--path.tracefs=/nonexistent"],
            capture_output=True, encoding="utf-8", timeout=20 * TIME_SCALE, check=False)
        self.assert_refused(done, r"tracefs: /nonexistent: no tracefs.*bpf: .*CAP_BPF")


class WithoutTracefs(BpfTest):
    def start_without(self):
        return self.start("--path.tracefs=/nonexistent")

    def test_it_counts_all_the_same(self):
        exporter = self.start_without()
        before = exporter.scrape_now().events()
        load.pipes(500)
        after = exporter.scrape_now().events()
        self.assertGreaterEqual(sum(after.values()) - sum(before.values()),
                                500 * load.PIPE_PAIR_EVENTS)
        success = exporter.scrape().by("kmem_exporter_scrape_collector_success", "collector")
        self.assertEqual(set(success.values()), {1}, success)

    def test_the_owner_of_a_pageblock_is_unknown_and_said_to_be(self):
        exporter = self.start_without()
        owners = exporter.scrape().by("kmem_extfrag_events_total", "change_ownership")
        self.assertEqual(set(owners), {"unknown"})
        self.assertEqual(len(exporter.log_lines("change_ownership is unknown")), 1)

    def test_with_tracefs_it_is_told(self):
        reason = tracefs.why_unusable()
        if reason is not None:
            self.skipTest(reason)
        exporter = self.start()
        owners = exporter.scrape().by("kmem_extfrag_events_total", "change_ownership")
        self.assertLessEqual({"true", "false"}, set(owners))
        self.assertTrue(self.instance.exists())
        self.assertEqual(self.instance.read("set_event"), "kmem:mm_page_alloc_extfrag")


@unittest.skipUnless(BPFTOOL, "no bpftool here")
class Ending(BpfTest):
    def end(self, number):
        exporter = self.start()
        programs = set(attached_by(exporter.pid).values())
        self.assertGreaterEqual(len(programs), 8)
        self.assertLessEqual(programs, loaded_programs())
        exporter.kill(number)
        status = exporter.wait(5)
        # The kernel frees programs after a grace period of RCU.
        wait_until(lambda: not programs & loaded_programs(), 10, "no program is left")
        return status

    def test_sigterm_leaves_no_program(self):
        self.assertEqual(self.end(signal.SIGTERM), 0)
        self.assertFalse(tracefs.mounted() and self.instance.exists())

    def test_sigkill_leaves_no_program(self):
        self.assertEqual(self.end(signal.SIGKILL), -signal.SIGKILL)
        if tracefs.mounted():
            self.assertEqual(self.instance.read("tracing_on"), "0")
            self.assertTrue(tracefs.remove(self.instance_name))


# The base classes are tests of other files.
def load_tests(loader, _tests, _pattern):
    here = [value for value in globals().values()
            if isinstance(value, type) and issubclass(value, unittest.TestCase)
            and value.__module__ == __name__ and value is not BpfTest]
    return unittest.TestSuite(loader.loadTestsFromTestCase(each) for each in here)
