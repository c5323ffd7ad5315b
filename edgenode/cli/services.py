"""The shell commands that install the systemd services of this installation, for ``edgenode doctor --systemd``."""

from __future__ import annotations

import sys
from pathlib import Path

from edgenode.doctor import installed_file

_UNITS = "edgenode-node.service", "edgenode-controller.service"
_NODE_ENV = "/etc/edgenode/node.env"


def installation(invite: str = "") -> str:
    """A shell script for root, in the folder of run.toml.

    Args:
        invite: an invite for this device. With it, the script also starts the node.
    """
    prefix = Path(sys.prefix)
    lines = [
        f"# edgenode as a service, from {prefix}. Next to run.toml: edgenode doctor --systemd | sudo sh",
        *_warning_of_home(prefix),
        "set -e",
        "install -D -m 644 run.toml /etc/edgenode/run.toml",
        *(f"sed 's|/opt/edgenode|{prefix}|' {installed_file(unit)} > /etc/systemd/system/{unit}" for unit in _UNITS),
        f"touch {_NODE_ENV}; chmod 600 {_NODE_ENV}  # options, one a line, such as EDGENODE_CONTROLLER=10.0.0.5:7700",
        "systemctl daemon-reload",
        *(_start(invite) if invite else _NEXT),
        "# For a GPU, which the service hides by default: systemctl edit edgenode-node, and add",
        "#   [Service]",
        "#   PrivateDevices=no",
        "#   SupplementaryGroups=video render",
    ]
    return "\n".join(lines) + "\n"


_NEXT = (
    "# Next, on one device:",
    "#   sudo systemctl enable --now edgenode-controller",
    "#   sudo edgenode invite --credentials /var/lib/edgenode-controller/operator.pem  # prints an invite",
    "# On every device, with an invite of its own:",
    "#   edgenode doctor --systemd --join inv-... | sudo sh",
    "# What the services do:",
    "#   systemctl status edgenode-node    # round, accuracy, and what it waits for",
    "#   journalctl -fu edgenode-node",
)


def _start(invite: str) -> tuple[str, ...]:
    return (
        f"sed -i '/^EDGENODE_JOIN=/d' {_NODE_ENV}",
        f"echo EDGENODE_JOIN={invite} >> {_NODE_ENV}  # used once, and ignored from then on",
        "systemctl enable edgenode-node",
        "systemctl restart edgenode-node",
    )


def _warning_of_home(prefix: Path) -> tuple[str, ...]:
    if not (prefix.is_relative_to("/home") or prefix.is_relative_to("/root")):
        return ()
    return (
        "# A service cannot see home folders. Install edgenode elsewhere first, and ask that installation:",
        "#   python3 -m venv /opt/edgenode && /opt/edgenode/bin/pip install CHECKOUT",
        "#   /opt/edgenode/bin/edgenode doctor --systemd",
    )
