"""Recorded traces instead of the live kernel: no privilege, no tracefs."""
import contextlib
import glob
import os
import random
import signal
import subprocess
import unittest

from harness import NOBODY, PROGRAM, TIME_SCALE, TRACES, ExporterTest, Metrics, wait_until


def process_state(pid):
    """A letter, as in /proc/PID/stat; nothing if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


class ReplayAndExit(ExporterTest):
    def replay(self, path, *arguments, **options):
        return self.run_program(f"--replay={path}", "--replay.exit", *arguments, **options)

    def assert_file_refused(self, path, pattern=""):
        done = self.replay(path)
        self.assert_refused(done, f"{path}: .*{pattern}")
        self.assertEqual(done.stdout, "")

    def test_each_recorded_trace_gives_metrics(self):
        paths = sorted(glob.glob(f"{TRACES}/*.dat"))
        self.assertTrue(paths)
        for path in paths:
            with self.subTest(trace=os.path.basename(path)):
                done = self.replay(path, seconds=5)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual([line for line in done.stderr.splitlines()
                                  if "level=info" not in line], [])
                metrics = Metrics(done.stdout)
                self.assertEqual(metrics["kmem_exporter_replay"], 1)
                self.assertEqual(metrics["kmem_exporter_record_errors_total"], 0)
                for name in ("kmalloc", "kfree", "mm_page_alloc", "mm_page_alloc_extfrag"):
                    self.assertGreater(metrics.events()[name], 0, name)
                self.assertNotIn("kmem_free_blocks", metrics)

    def test_the_same_trace_gives_the_same_metrics(self):
        def counted():
            done = self.replay(self.trace(), seconds=5)
            return [line for line in done.stdout.splitlines()
                    if not line.startswith(("process_", "kmem_exporter_scrape_",
                                            "kmem_exporter_drain_"))]
        self.assertEqual(counted(), counted())

    def test_tables_of_proc_come_in_where_asked_for(self):
        done = self.replay(self.trace(), "--path.procfs=/proc", seconds=5)
        self.assertIn("kmem_free_blocks", Metrics(done.stdout))

    def stopped_reader(self, parent):
        """The process that reads the file, stopped in the middle; None: it was too fast for that."""
        with open(f"/proc/{parent}/task/{parent}/children", encoding="ascii") as file:
            children = [int(pid) for pid in file.read().split()]
        for reader in children:
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f"/proc/{reader}/fd/2") != "/dev/null":
                    continue  # it has just been forked
                os.kill(reader, signal.SIGSTOP)
                wait_until(lambda pid=reader: process_state(pid) in "tTZ", 10, "it has stopped")
                if process_state(reader) != "Z":
                    return reader
        return None

    def test_a_signal_ends_it_while_it_reads_and_nothing_is_left(self):
        for ending in (signal.SIGINT, signal.SIGTERM):
            def interrupted():
                with subprocess.Popen([PROGRAM, f"--replay={self.trace()}", "--replay.exit"],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
                    reader = None
                    while reader is None and process.poll() is None:
                        reader = self.stopped_reader(process.pid)
                    process.send_signal(ending)
                    try:
                        return reader and (reader, process.wait(10 * TIME_SCALE))
                    except subprocess.TimeoutExpired:
                        os.kill(reader, signal.SIGKILL)
                        raise
            reader, status = wait_until(interrupted, 30, "stopped while it reads")
            self.assertEqual(status, -ending)
            wait_until(lambda: process_state(reader) in ("", "Z"), 10, "the reader has ended")

    def test_an_absent_file_is_refused(self):
        self.assert_file_refused("/nonexistent.dat", "No such file")

    def test_a_directory_is_refused(self):
        self.assert_file_refused(self.directory, "not a regular file")

    def test_an_empty_file_is_refused(self):
        self.assert_file_refused(self.file("empty.dat"), "empty")

    def test_random_bytes_are_refused(self):
        randomness = random.Random(1)
        for size in (1, 10, 4096, 1 << 20):
            with self.subTest(size=size):
                self.assert_file_refused(self.file("random.dat", randomness.randbytes(size)),
                                         "not a trace.dat")

    def test_random_bytes_behind_a_good_header_are_refused(self):
        head = self.content()[:64]
        for seed in range(5):
            with self.subTest(seed=seed):
                noise = random.Random(seed).randbytes(65536)
                self.assert_file_refused(self.file("noise.dat", head + noise))

    def test_a_truncated_file_is_refused(self):
        content = self.content()
        randomness = random.Random(1)
        sizes = [*range(1, 41), *(randomness.randrange(41, len(content)) for _ in range(80))]
        for size in sizes:
            with self.subTest(size=size, of=len(content)):
                self.assert_file_refused(self.file("cut.dat", content[:size]))

    def test_damaged_files_never_crash_or_hang(self):
        content = self.content()
        for seed in range(10):
            with self.subTest(seed=seed):
                randomness = random.Random(seed)
                damaged = bytearray(content)
                for _ in range(50):
                    damaged[randomness.randrange(len(damaged))] = randomness.randrange(256)
                done = self.replay(self.file("damaged.dat", damaged), seconds=10)
                if done.returncode != 0:
                    self.assert_refused(done, "damaged.dat: ")

    def trace(self):
        return f"{TRACES}/kmem-6.1.dat"

    def content(self):
        with open(self.trace(), "rb") as file:
            return file.read()


class ReplayAndServe(ExporterTest):
    def assert_serves(self, **options):
        with open(f"{TRACES}/kmem-6.12.dat", "rb") as trace:
            path = self.file("trace.dat", trace.read())
        exporter = self.start(f"--replay={path}", "--path.tracefs=/nonexistent", **options)
        first = exporter.scrape()
        self.assertEqual(first["kmem_exporter_replay"], 1)
        self.assertGreater(sum(first.events().values()), 1000)
        self.assertEqual(first.events(), exporter.scrape().events())
        self.assertNotIn("kmem_free_blocks", first)
        self.assertNotIn("kmem_compaction_stalls_total", first)
        self.assertEqual(exporter.stop(), 0)

    def test_the_final_values_are_served(self):
        self.assert_serves()

    @unittest.skipUnless(os.geteuid() == 0, "it takes root to become somebody else")
    def test_it_takes_no_privilege(self):
        self.assert_serves(user=NOBODY)

    def test_a_bad_file_ends_the_start(self):
        done = self.run_program(f"--replay={self.file('empty.dat')}",
                                "--web.listen-address=127.0.0.1:0")
        self.assert_refused(done, "empty.dat: the file is empty")

    def test_a_bad_file_ends_the_start_even_where_tracing_is_retried(self):
        config = self.config_file({"on_tracing_failure": "retry"})
        done = self.run_program(f"--replay={self.file('empty.dat')}", f"--config.file={config}",
                                "--web.listen-address=127.0.0.1:0")
        self.assert_refused(done, "empty.dat: the file is empty")
