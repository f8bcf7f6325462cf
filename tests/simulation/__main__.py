"""Runs simulations for as long as one likes: `python -m tests.simulation 100000 --seed 0`."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time

from tests.simulation.shrink import first_failure, report

AT_ONCE = 100
EVERY_S = 5.0


def main() -> int:
    """Return 0 if all held; else 1, with the first failure made small."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=100_000, help="how many seeds")
    parser.add_argument("--seed", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    first, count = arguments.seed, arguments.count
    began_s = said_s = time.monotonic()
    done = 0
    end = first + count
    seeds = [range(begin, min(begin + AT_ONCE, end)) for begin in range(first, end, AT_ONCE)]
    # Not forked: nothing of this process is to be in the others.
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for failed in pool.imap(first_failure, seeds):
            if failed is not None:
                pool.terminate()
                print(f"\nseed {failed}\n{report(failed)}")
                return 1
            done = min(count, done + AT_ONCE)
            now_s = time.monotonic()
            if now_s - said_s >= EVERY_S or done == count:
                said_s = now_s
                a_second = done / (now_s - began_s)
                left_s = (count - done) / a_second
                print(
                    f"{done:,} of {count:,} seeds, {a_second:,.0f}/s, {left_s:,.0f} s left",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
