"""Judges the loop and experiments: 10,000 simulated users through two instances on a real redis-server.

    python -m tests.judge [--users 10000] [--run counted|killed|experiment]

counted: our own count of impressions, clicks and joins is the prepared table's, row by row, and `model.replay` holds on
all rows, while bundle and catalogue are swapped. killed: a worker, an instance and the store (AOF always) are killed
meanwhile, and no acknowledged event is lost. In both every ranking must see the clicks that the other instance
acknowledged before it. experiment: Wide & Deep against BST, then both against popularity and chance, then a kill
(tests/judge/experiment): GET /experiments tells exactly our own users, impressions and clicks by variant, nobody sees
two variants, the true gain lies in the interval, and variants stand as the world was built. The last line is JSON; exit
code 1 where a promise does not hold.
"""

import argparse
import json

from model.command import run
from tests.judge import runs
from tests.judge.experiment.runs import experiment

RUNS = {"counted": runs.counted, "killed": runs.killed, "experiment": experiment}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.judge", description="Judges the loop and experiments.")
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--run", choices=RUNS, help="one of them alone")
    arguments = parser.parse_args()
    if arguments.users < 1:
        parser.error(f"--users {arguments.users}, allowed: 1 and more")
    judged = {name: judge(arguments.users) for name, judge in RUNS.items() if arguments.run in (None, name)}
    broken = [promise for one in judged.values() for promise in one.broken]
    for promise in broken:
        print(f"NOT HELD: {promise}")
    print(json.dumps({name: one.figures for name, one in judged.items()} | {"broken": broken}))
    return 1 if broken else 0


if __name__ == "__main__":
    run(main, "judge", "nothing is kept; run it again")
