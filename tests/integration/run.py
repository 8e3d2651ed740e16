"""Runs the integration tests: python3 run.py [MODULE[.CLASS[.TEST]]...], without arguments all.

Environment:
  KMEM_EXPORTER         the program, else build/release/kmem_exporter
  KMEM_TEST_TIME_SCALE  factor on all deadlines, 1 by default; the targets of speed and memory are
                        tested only at 1

Where no tracefs is mounted at its usual place and we may mount one, it is mounted for these tests
alone, in a mount namespace of their own.

Exit status: 0 passed, 1 failed, 77 all skipped. Every skip is printed with its reason.
"""
import os
import shutil
import subprocess
import sys
import unittest

import tracefs

HERE = os.path.dirname(os.path.abspath(__file__))
IN_NAMESPACE = "KMEM_TEST_MOUNTED_TRACEFS"
SKIPPED = 77


def enter_namespace_with_tracefs():
    """Starts this program anew with tracefs mounted, if that works; else returns."""
    if tracefs.mounted() or IN_NAMESPACE in os.environ or shutil.which("unshare") is None:
        return
    mount = f"mount -t tracefs nodev {tracefs.ROOT}"
    if subprocess.run(["unshare", "--mount", "sh", "-c", mount], check=False).returncode != 0:
        return
    script = f'{mount} && exec "$@"'
    os.environ[IN_NAMESPACE] = "1"
    os.execvp("unshare", ["unshare", "--mount", "sh", "-c", script, "sh",
                          sys.executable, "-B", *sys.argv])


def main():
    enter_namespace_with_tracefs()
    tracefs.remove_leftovers()
    loader = unittest.defaultTestLoader
    names = sys.argv[1:]
    suite = loader.loadTestsFromNames(names) if names else loader.discover(HERE)
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    for test, reason in result.skipped:
        print(f"SKIPPED: {test.id()}: {reason}", flush=True)
    # A class skipped as a whole counts as no test run.
    skipped_tests = [test for test, _ in result.skipped if isinstance(test, unittest.TestCase)]
    nothing_ran = result.testsRun == len(skipped_tests)
    if not result.wasSuccessful() or (nothing_ran and not result.skipped):
        return 1
    return SKIPPED if nothing_ran else 0


if __name__ == "__main__":
    sys.exit(main())
