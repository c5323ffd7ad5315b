"""How much longer boards in two homes take to reach an accuracy than the same boards with public addresses.

    python -m benchmarks.homes

Two boards in each home train the digits with the recommended recipe on ring a, where every edge leads to the other
home. The line of each home has 1 Mbit/s up and 10 Mbit/s down, and a packet takes 60 ms from home to home and back. The
controller is on a public host between the lines, and relays. The homes' routers translate addresses and forward no
port, or the boards have public addresses. Both kinds of run alternate. Printed are the seconds from the begin of the
run until the mean test accuracy of the boards is 85 %, those until its end, and the median and the range of the ratios.

It needs root, iproute2 and iptables.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.overlap import reached, seconds
from edgenode.config.load import load
from tests.e2e import netns
from tests.e2e.fleet import Fleet
from tests.e2e.homes import PUBLIC, Home, Homes

_HOSTS = 1, 3, 2, 4  # of the boards: neighbours of ring a are in different homes


class SlowHomes(Homes):
    """Homes with slow lines.

    Args:
        line: bits per second up and down, and seconds in one direction.
    """

    def __init__(self, *homes: Home, line: tuple[float, float, float]) -> None:
        super().__init__(*homes)
        self._line = line

    def _plug(self, host: str, address: str, switch: str, port: str, device: str = "eth0", bridge: str = "br0") -> None:
        if switch != self._switch or host == self.namespaces[0]:
            super()._plug(host, address, switch, port, device, bridge)
            return
        line = f"{host}-line"
        self._add_namespace(line)
        command = ["ip", "netns", "exec", line, "nice", "-n", "-10", sys.executable, "-m", "benchmarks.line"]
        carrying = subprocess.Popen([*command, *map(str, self._line)], stdout=subprocess.PIPE)
        self._undo.enter_context(carrying)
        self._undo.callback(carrying.kill)
        assert carrying.stdout and carrying.stdout.readline(), "the line has ended"
        netns.ip("-n", line, "link", "set", "internet", "netns", switch, "name", port)
        netns.ip("-n", switch, "link", "set", port, "master", bridge, "up")
        netns.ip("-n", line, "link", "set", "home", "netns", host, "name", device)
        self._bring_up(host, address, device)


def run(public: bool, seed: int, options: argparse.Namespace) -> tuple[float, float]:
    """Run the boards to their end. Return the seconds until they reached the accuracy, and those of all rounds."""
    settings = {
        "run.recipe": "recommended", "run.rounds": options.rounds, "run.evaluate_every": options.evaluate_every,
        "run.seed": seed, "run.threads": 1, "run.device": "cpu", "task.skew": options.skew,
    }  # fmt: skip
    line = options.up * 1e6, options.down * 1e6, options.round_trip / 4e3  # a round trip passes two lines twice
    with (
        tempfile.TemporaryDirectory() as folder,
        SlowHomes(Home(2, public=public), Home(2, public=public), line=line) as homes,
        Fleet(Path(folder)) as fleet,
    ):
        config = load(None, {"run.cluster": fleet.cluster, **settings}, {})
        (fleet.folder / "run.toml").write_text(config.to_toml())
        controller = fleet.controller("--public", PUBLIC, "--relay", listen=None, spawn=partial(homes.spawn, 0))
        controller.logs("controller ready")
        where = ("--controller", f"{PUBLIC}:7700", "--log-format", "json")
        boards = [
            fleet.node(f"node-{i}", *where, listen=None, spawn=partial(homes.spawn, host))
            for i, host in enumerate(_HOSTS)
        ]
        for process in (*boards, controller):
            process.exits(0)
        logs = [[json.loads(line) for line in board.stderr.splitlines() if line.startswith("{")] for board in boards]
    begun, ended = (
        [seconds(e) for log in logs for e in log if e["event"] == name] for name in ("run begins", "run done")
    )
    return reached(logs, options.accuracy)[0], max(ended) - min(begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accuracy", type=float, default=0.85)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--evaluate-every", type=int, default=10, metavar="ROUNDS")
    parser.add_argument("--skew", type=float, default=0.8, help="share of the data that is cut by label")
    parser.add_argument("--up", type=float, default=1.0, metavar="MBIT")
    parser.add_argument("--down", type=float, default=10.0, metavar="MBIT")
    parser.add_argument("--round-trip", type=float, default=60.0, metavar="MS", help="from home to home and back")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if reason := netns.cannot_disturb():
        sys.exit(reason)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the namespaces are removed in every case
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print(f"| seconds, two homes against public addresses | to {options.accuracy:.0%} | to the end |\n|---|---|---|")
    ratios = []
    for seed in range(options.seeds):
        near, far = (run(public, seed, options) for public in (True, False))
        ratios.append([there / here for there, here in zip(far, near, strict=True)])
        cells = [f"{there:.1f} against {here:.1f}" for there, here in zip(far, near, strict=True)]
        print(f"| seed {seed} | {' | '.join(cells)} |", flush=True)
    cells = [f"{median(both):.2f} times ({min(both):.2f} to {max(both):.2f})" for both in zip(*ratios, strict=True)]
    print(f"| ratio | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
