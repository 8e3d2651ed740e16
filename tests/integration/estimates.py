"""`make estimates`: a load that is as steady as one can be made, and its counters while it is sampled.

It makes so many pipes in each millisecond on every CPU, and sleeps in between. Where a CPU is taken
away from it, it catches up. So its counters are to be within 1 %, and nothing is allowed for its own
unsteadiness, which the storm of test_overhead.py has: it makes as many as the machine just can.
"""
import time

from load import Storm
from test_overhead import Overhead, make_pipes


def fifty_pipes_each_millisecond():
    """To be called over and over: does them when it is their time."""
    due = time.monotonic()

    def do():
        nonlocal due
        due += 0.001
        time.sleep(max(0.0, due - time.monotonic()))
        return make_pipes(50)

    return do


class SteadyLoad(Overhead):
    STEADY_ERROR = 0.01

    def start_load(self):
        return Storm(fifty_pipes_each_millisecond())

    def allowed(self, spread):
        return self.STEADY_ERROR


class SteadyLoadInTheKernel(SteadyLoad):
    ENGINE = "bpf"
