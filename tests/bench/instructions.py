"""Counts the instructions that reading an event takes, by valgrind: the same on every machine."""
import re
import subprocess
import tempfile

from processes import Skipped


def _count(program, times, setting):
    """Instructions of the whole program, and the events that it read."""
    with tempfile.NamedTemporaryFile() as out:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}", program,
                   "--read", str(times), setting]
        try:
            done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
        except FileNotFoundError:
            raise Skipped("no valgrind here") from None
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or not found:
        raise Skipped(f"valgrind can't run it: {(done.stderr.splitlines() or ['no reason'])[-1]}")
    return int(found[1]), int(done.stdout)


def per_event(program, setting="all"):
    """The difference of two runs of different length, so that the start cancels out. `setting`:
    all, as by default, or nothing-by-name."""
    short, long = (_count(program, times, setting) for times in (20, 40))
    return (long[0] - short[0]) / (long[1] - short[1])
