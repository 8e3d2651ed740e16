"""Flags and files: what ends at once, with which status and which line."""
import os
import unittest

from harness import NOBODY, ExporterTest


class Answers(ExporterTest):
    def assert_answers(self, pattern, *arguments):
        done = self.run_program(*arguments)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, pattern)

    def test_help_goes_to_standard_output(self):
        self.assert_answers(r"\Ausage: kmem_exporter", "--help")
        self.assert_answers(r"--web\.listen-address", "-h")

    def test_version_goes_to_standard_output(self):
        self.assert_answers(r"\Akmem_exporter, version \d+\.\d+\.\d+ ", "--version")

    def test_a_good_file_is_ok(self):
        path = self.file("good.yaml", "web:\n  max_requests: 2\n")
        self.assert_answers(rf"\A{path}: OK\n\Z", "--config.check", f"--config.file={path}")

    def test_the_file_that_is_shipped_is_ok(self):
        path = os.path.join(os.path.dirname(__file__), "../../deploy/kmem_exporter.yaml")
        self.assert_answers("OK", "--config.check", f"--config.file={path}")

    def test_neither_touches_tracefs(self):
        path = self.file("elsewhere.yaml", "paths:\n  tracefs: /nonexistent\n")
        self.assert_answers("OK", "--config.check", f"--config.file={path}")
        self.assert_answers("version", "--version", "--path.tracefs=/nonexistent")


class Refusals(ExporterTest):
    def assert_file_refused(self, content, pattern):
        path = self.file("bad.yaml", content)
        for arguments in ([], ["--config.check"]):
            done = self.run_program(*arguments, f"--config.file={path}")
            self.assert_refused(done, f"{path}{pattern}")
            self.assertEqual(done.stdout, "")

    def test_an_unknown_flag(self):
        self.assert_refused(self.run_program("--web.max-request=3"),
                            r"--web\.max-request: is an unknown flag; see --help")

    def test_a_flag_out_of_range(self):
        self.assert_refused(self.run_program("--web.max-requests=0"),
                            r"--web\.max-requests: .*allowed is a whole number from 1 to 256")

    def test_a_word_that_is_no_flag(self):
        self.assert_refused(self.run_program("metrics"), '"metrics": is not a flag')

    def test_flags_that_exclude_one_another(self):
        self.assert_refused(self.run_program("--cleanup", "--replay=x"), "cannot go with")

    def test_an_address_of_another_machine(self):
        self.assert_refused(
            self.run_program("--web.listen-address=192.0.2.1:0", "--path.tracefs=/nonexistent"),
            r'"192\.0\.2\.1:0": cannot listen: .*address of this machine')

    def test_malformed_yaml(self):
        self.assert_file_refused("web: [1, 2\n", r":\d+:\d+: ")

    def test_an_unknown_key(self):
        self.assert_file_refused("web:\n  max_request: 3\n", r":2:3: web\.max_request: ")

    def test_a_key_that_stands_twice(self):
        self.assert_file_refused("web: {max_requests: 3, max_requests: 4}\n", r":1:\d+: ")

    def test_an_alias_bomb(self):
        lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
        self.assert_file_refused("\n".join(lines), r":\d+:\d+: ")

    def test_a_file_too_large(self):
        self.assert_file_refused("#" * (2 << 20), ": is too large, allowed is")

    def test_random_bytes(self):
        self.assert_file_refused(os.urandom(4096), ":")

    def test_a_file_that_is_absent_or_a_directory(self):
        for path in ("/nonexistent.yaml", self.directory):
            done = self.run_program(f"--config.file={path}")
            self.assert_refused(done, path)

    @unittest.skipUnless(os.geteuid() == 0, "it takes root to become somebody else")
    def test_a_file_that_may_not_be_read(self):
        path = self.file("secret.yaml")
        os.chmod(path, 0o600)
        done = self.run_program(f"--config.file={path}", user=NOBODY)
        self.assert_refused(done, f"{path}.*Permission denied")
