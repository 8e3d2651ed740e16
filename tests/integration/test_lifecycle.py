"""Starting, stopping, dying and cleaning up, and two copies at once."""
import signal
import socket
import time

import load
from harness import TracingTest, wait_until


class Stopping(TracingTest):
    def assert_stops_clean(self, exporter, number):
        self.assertEqual(exporter.stop(number), 0, exporter.log())
        self.assertFalse(self.instance.exists(), "the instance is still there")
        self.assertEqual(len(exporter.log_lines(signal.Signals(number).name)), 1)

    def test_sigterm_removes_the_instance_and_exits_0(self):
        self.assert_stops_clean(self.start(), signal.SIGTERM)

    def test_sigint_removes_the_instance_and_exits_0(self):
        self.assert_stops_clean(self.start(), signal.SIGINT)

    def test_sighup_removes_the_instance_and_exits_0(self):
        self.assert_stops_clean(self.start(), signal.SIGHUP)

    def test_where_sighup_is_ignored_it_stays_so(self):
        exporter = self.start(prefix=["nohup"])
        exporter.kill(signal.SIGHUP)
        self.assert_counting(exporter)
        self.assert_stops_clean(exporter, signal.SIGTERM)

    def test_sigterm_right_after_the_address_is_logged_stops_clean(self):
        exporter = self.launch()
        exporter.wait_for_address()
        self.assertEqual(exporter.stop(), 0, exporter.log())
        self.assertFalse(self.instance.exists())

    def test_events_count_up_to_the_end(self):
        exporter = self.start(config={"tracefs": {"drain_interval_ms": 1000}})
        for _ in range(5):
            self.assert_counting(exporter)
        self.assert_stops_clean(exporter, signal.SIGTERM)

    def test_idle_connections_do_not_hold_up_the_stop(self):
        exporter = self.start()
        host, port = exporter.address.split(":")
        idle = [socket.create_connection((host, int(port))) for _ in range(50)]
        try:
            self.assert_stops_clean(exporter, signal.SIGTERM)
        finally:
            for each in idle:
                each.close()


class Killing(TracingTest):
    def kill_one(self):
        exporter = self.start()
        self.assert_counting(exporter)
        exporter.kill(signal.SIGKILL)
        self.assertEqual(exporter.wait(5), -signal.SIGKILL)

    def test_sigkill_leaves_an_instance_that_traces_nothing_and_holds_no_buffer(self):
        exporter = self.start()
        full_kb = int(self.instance.read("buffer_total_size_kb").split()[0])
        exporter.kill(signal.SIGKILL)
        exporter.wait(5)
        self.assertTrue(self.instance.exists())
        self.assertEqual(self.instance.read("tracing_on"), "0")
        left_kb = int(self.instance.read("buffer_total_size_kb").split()[0])
        # The kernel keeps two or three sub-buffers of 64 KiB for a CPU.
        self.assertLessEqual(left_kb, max(full_kb // 4, 3 * 64 * len(self.instance.cpus())))
        cpus = self.instance.cpus()
        before = [self.instance.events_ever(cpu) for cpu in cpus]
        load.mixed()
        self.assertEqual([self.instance.events_ever(cpu) for cpu in cpus], before)
        self.assertEqual(self.clean_up().returncode, 0)

    def test_the_next_start_takes_over_what_sigkill_left(self):
        self.kill_one()
        self.assertTrue(self.instance.exists())
        exporter = self.start()
        self.assert_counting(exporter)
        self.assertEqual(exporter.stop(), 0)

    def test_cleanup_removes_what_sigkill_left(self):
        self.kill_one()
        done = self.clean_up()
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, rf"^\S*{self.instance_name}: removed\n$")
        self.assertFalse(self.instance.exists())

    def test_cleanup_with_nothing_there_says_so(self):
        done = self.clean_up()
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, rf"^\S*{self.instance_name}: nothing to clean up\n$")

    def test_cleanup_is_refused_while_an_exporter_runs(self):
        exporter = self.start()
        self.assert_refused(self.clean_up(), rf"{self.instance_name}: in use by another process")
        self.assert_counting(exporter)

    def clean_up(self):
        return self.run_program("--cleanup", f"--config.file={self.config_file({})}")


class SecondCopy(TracingTest):
    def run_second(self, listen):
        return self.run_program(f"--config.file={self.config_file({})}",
                                f"--web.listen-address={listen}")

    def test_a_second_copy_on_the_same_instance_is_refused(self):
        exporter = self.start()
        done = self.run_second("127.0.0.1:0")
        self.assert_refused(done, rf"{self.instance_name}: in use by another process")
        self.assert_counting(exporter)
        metrics = exporter.scrape()
        self.assertEqual(metrics["kmem_exporter_interference_total"], 0)
        self.assertEqual(metrics["kmem_exporter_record_errors_total"], 0)

    def test_a_second_copy_on_the_same_port_is_refused(self):
        exporter = self.start()
        done = self.run_second(exporter.address)
        self.assert_refused(done, f'"{exporter.address}": cannot listen: .*in use')
        self.assert_counting(exporter)

    def test_a_copy_with_an_instance_of_its_own_runs_beside_it(self):
        # The base class looks after one instance: this one's exporter is stopped here.
        first = self.start()
        other = f"{self.instance_name}_b"
        second = self.start(config={"tracefs": {"instance": other}})
        self.assert_counting(first)
        self.assert_counting(second)
        self.assertEqual(second.stop(), 0)
        self.assert_counting(first)

    def test_a_port_in_use_ends_the_start_and_leaves_no_instance(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            done = self.run_second(address)
        self.assert_refused(done, f'"{address}": cannot listen: .*in use')
        self.assertFalse(self.instance.exists())


class InstanceTaken(TracingTest):
    def test_an_instance_that_a_reader_holds_is_refused_until_it_is_let_go(self):
        exporter = self.start()
        with open(self.instance.path("tracing_on"), encoding="utf-8"):
            exporter.kill(signal.SIGKILL)
            exporter.wait(5)
            done = self.run_program(f"--config.file={self.config_file({})}",
                                    "--web.listen-address=127.0.0.1:0")
            self.assert_refused(done, "in use by another process")
        again = self.start()
        self.assert_counting(again)

    def test_a_reader_that_holds_the_instance_at_the_stop_leaves_it_idle(self):
        exporter = self.start()
        with open(self.instance.path("tracing_on"), encoding="utf-8"):
            begin = time.monotonic()
            self.assertEqual(exporter.stop(), 0)
            self.assertLess(time.monotonic() - begin, 5)
            wait_until(lambda: self.instance.read("set_event") == "", 1, "no event is enabled")
            self.assertEqual(self.instance.read("tracing_on"), "0")
        self.assertEqual(self.run_program(
            "--cleanup", f"--config.file={self.config_file({})}").returncode, 0)
