"""`systemctl` for a board without systemd: starts a unit as its user, with its environment file and state folder.

It knows of a unit what the services of edgenode use, and supervises them as systemd does.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

UNITS, LOGS, UIDS = Path("/etc/systemd/system"), Path("/var/log/units"), 61184
_READY_S = 300.0


def settings(name: str) -> dict[str, str]:
    """The settings of a unit. Of one that is given twice, the last."""
    text = (UNITS / f"{name}.service").read_text()
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.M))


def user(unit: dict[str, str]) -> int:
    """The user that DynamicUser makes: another one for each state folder, and the same at each start."""
    assert unit["DynamicUser"] == "yes"
    return UIDS + sum(unit["StateDirectory"].encode()) % 4096


def environment(unit: dict[str, str], notify: Path) -> dict[str, str]:
    """What the service sees: the lines of its file, and what systemd sets."""
    environ = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LANG": "C.UTF-8", "HOME": "/"}
    file = Path(unit["EnvironmentFile"].removeprefix("-"))
    if file.exists():
        lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
        environ |= dict(line.split("=", 1) for line in lines)
    return environ | {"STATE_DIRECTORY": f"/var/lib/{unit['StateDirectory']}", "NOTIFY_SOCKET": str(notify)}


def supervise(name: str, listener: socket.socket, notify: Path) -> None:
    """Run a unit to its end, and again after a failure, as its settings say."""
    unit = settings(name)
    owner, state = user(unit), Path("/var/lib") / unit["StateDirectory"]
    state.mkdir(mode=int(unit["StateDirectoryMode"], 8), exist_ok=True)
    os.chown(state, owner, owner)
    environ = environment(unit, notify)
    command = [
        word.replace("${STATE_DIRECTORY}", environ["STATE_DIRECTORY"]) for word in shlex.split(unit["ExecStart"])
    ]
    confined = ["setpriv", f"--reuid={owner}", f"--regid={owner}", "--clear-groups", "--no-new-privs"]
    confined += ["--bounding-set=-all", "--inh-caps=-all"]
    over = {"0", *unit["SuccessExitStatus"].split(), *unit.get("RestartPreventExitStatus", "").split()}
    os.umask(int(unit["UMask"], 8))
    LOGS.mkdir(parents=True, exist_ok=True)
    while True:
        with (LOGS / name).open("ab") as log:
            code = subprocess.call([*confined, *command], env=environ, cwd="/", stderr=log, stdout=log)
        if str(code) in over or unit["Restart"] != "on-failure":
            break
        time.sleep(float(unit["RestartSec"]))
    listener.close()


def start(name: str) -> int:
    """Start a unit, and wait until it is ready. Its supervisor stays in the background."""
    notify = Path(f"/var/lib/notify-{name}")
    notify.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(notify))
    notify.chmod(0o666)
    if os.fork() == 0:
        os.setsid()
        sys.stdout.close()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        supervise(name, listener, notify)
        os._exit(0)
    listener.settimeout(1)
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        try:
            if "READY=1" in listener.recv(4096).decode():
                return 0
        except TimeoutError:
            continue
    print(f"Job for {name}.service failed.", file=sys.stderr)
    return 1


def main(words: list[str]) -> int:
    """The verbs that the pages use."""
    names = [word.removesuffix(".service") for word in words[1:] if not word.startswith("-")]
    match words[0]:
        case "daemon-reload":
            return 0
        case "enable":
            return max(map(start, names)) if "--now" in words else 0
        case "restart":
            return max(map(start, names))
        case "status":
            print((LOGS / names[0]).read_text()[-2000:])
            return 0
    print(f"Unknown command verb {words[0]}.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
