"""Where tracing is impossible the exporter says why, and ends or, if told to, stays up."""
import os
import re
import subprocess
import unittest

import test_bpf
import tracefs
from harness import NOBODY, ExporterTest, observe, wait_until

IS_ROOT = os.geteuid() == 0


class ExitIsTheDefault(ExporterTest):
    def refused(self, *arguments, pattern, user=None):
        done = self.run_program(f"--config.file={self.config_file({})}",
                                "--web.listen-address=127.0.0.1:0", *arguments, user=user)
        return self.assert_refused(done, pattern)

    def test_an_absent_path_ends_the_start(self):
        line = self.refused("--path.tracefs=/nonexistent/tracing",
                            pattern=r"tracefs: /nonexistent/tracing: no tracefs there; mount it")
        self.assertIn("--path.tracefs", line)

    def test_a_directory_that_is_no_tracefs_ends_the_start(self):
        os.mkdir(f"{self.directory}/instances")
        self.refused(f"--path.tracefs={self.directory}",
                     pattern=rf"tracefs: {re.escape(self.directory)}: no tracefs there; mount it")
        self.assertEqual(os.listdir(f"{self.directory}/instances"), [])

    def test_a_file_in_place_of_the_directory_ends_the_start(self):
        path = self.file("file")
        self.refused(f"--path.tracefs={path}", pattern=f"tracefs: {re.escape(path)}: no tracefs")

    @unittest.skipUnless(IS_ROOT, "it takes root to become somebody else")
    @unittest.skipUnless(tracefs.mounted(), "no tracefs is mounted")
    def test_no_permission_ends_the_start(self):
        self.refused(user=NOBODY, pattern=r"tracefs: \S*: Permission denied; run as uid 0")
        self.assertFalse(self.instance.exists())

    def test_cleanup_says_the_same(self):
        done = self.run_program("--cleanup", "--path.tracefs=/nonexistent/tracing")
        self.assert_refused(done, "tracefs: /nonexistent/tracing: no tracefs there")

    @unittest.skipUnless(IS_ROOT, "it takes root to become somebody else")
    @unittest.skipUnless(tracefs.mounted(), "no tracefs is mounted")
    def test_cleanup_without_permission_says_so(self):
        done = self.run_program("--cleanup", user=NOBODY)
        self.assert_refused(done, r"tracefs: \S*: Permission denied")


class Retry(ExporterTest):
    RETRY = {"on_tracing_failure": "retry"}

    def assert_serves_without_tracing(self, exporter, reason):
        self.assertEqual(exporter.request("/-/ready").status, 200)
        self.assertEqual(exporter.request("/-/healthy").status, 200)
        metrics = exporter.scrape()
        self.assertEqual(metrics.get("kmem_exporter_tracing_up", reason=reason), 0)
        self.assertEqual(len(metrics.samples["kmem_exporter_tracing_up"]), 1)
        for family in ("kmem_free_blocks", "kmem_unusable_free_index", "kmem_min_free_bytes",
                       "kmem_compaction_stalls_total", "process_resident_memory_bytes"):
            self.assertIn(family, metrics)
        self.assertNotIn("kmem_tracepoint_events_total", metrics)
        success = metrics.by("kmem_exporter_scrape_collector_success", "collector")
        self.assertEqual({name for name in success if not success[name]} - {"pcp"},
                         {"slab", "page", "extfrag"})
        self.assertEqual(success["pcp"], 0)
        self.assertEqual(len(exporter.log_lines("not tracing, next attempt")), 1)
        self.assertIn("Not tracing:", exporter.request("/").body.decode())

    def test_without_tracefs_it_stays_up_and_serves_what_needs_no_tracing(self):
        exporter = self.start("--path.tracefs=/nonexistent/tracing", config=self.RETRY)
        self.assert_serves_without_tracing(exporter, "absent")
        observe(exporter.running, 1, "it stays up")
        self.assertEqual(exporter.stop(), 0)

    @unittest.skipUnless(IS_ROOT, "it takes root to become somebody else")
    @unittest.skipUnless(tracefs.mounted(), "no tracefs is mounted")
    def test_without_permission_it_stays_up_and_serves_what_needs_no_tracing(self):
        exporter = self.start(config=self.RETRY, user=NOBODY)
        self.assert_serves_without_tracing(exporter, "not_permitted")
        self.assertEqual(exporter.stop(), 0)

    @unittest.skipUnless(IS_ROOT, "it takes root to hide the kernel's BTF")
    @unittest.skipUnless(test_bpf.is_built(), "built without the in-kernel engine")
    @unittest.skipIf(subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode,
                     "no mount namespace can be made, as in a chroot")
    def test_without_btf_the_engine_bpf_stays_up_and_serves_what_needs_no_tracing(self):
        exporter = self.start(config={**self.RETRY, "engine": "bpf"}, prefix=test_bpf.WITHOUT_BTF)
        self.assert_serves_without_tracing(exporter, "no_btf")
        self.assertEqual(len(exporter.log_lines(f"bpf: .*{test_bpf.BTF}.*CONFIG_DEBUG_INFO_BTF")), 1)
        observe(exporter.running, 1, "it stays up")
        self.assertEqual(exporter.stop(), 0)

    def test_a_port_in_use_ends_the_start_all_the_same(self):
        exporter = self.start("--path.tracefs=/nonexistent/tracing", config=self.RETRY)
        done = self.run_program(f"--config.file={self.config_file(self.RETRY)}",
                                f"--web.listen-address={exporter.address}")
        self.assert_refused(done, "cannot listen: .*in use")


@unittest.skipIf(tracefs.why_unusable(), str(tracefs.why_unusable()))
class RetryWithTracefs(ExporterTest):
    def test_an_instance_in_use_is_a_reason_too(self):
        first = self.start()
        second = self.start(config={"on_tracing_failure": "retry"})
        metrics = second.scrape()
        self.assertEqual(metrics.get("kmem_exporter_tracing_up", reason="in_use"), 0)
        self.assertEqual(second.stop(), 0)
        self.assertTrue(self.instance.exists(), "the first one's instance")
        self.assertEqual(first.scrape()["kmem_exporter_tracing_up"], 1)

    def test_it_tries_again_every_minute(self):
        place = f"{self.directory}/tracing"
        exporter = self.start(f"--path.tracefs={place}", config={"on_tracing_failure": "retry"})
        self.assertEqual(exporter.scrape().get("kmem_exporter_tracing_up", reason="absent"), 0)
        os.symlink(tracefs.ROOT, place)
        wait_until(lambda: exporter.scrape()["kmem_exporter_tracing_up"] == 1, 70, "it traces")
        self.assertIn("kmem_tracepoint_events_total", exporter.scrape())
        self.assertEqual(len(exporter.log_lines("tracepoints in use")), 1)
        self.assertEqual(exporter.stop(), 0)
        self.assertFalse(self.instance.exists())
