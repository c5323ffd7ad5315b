"""The shell commands that install the systemd services of this installation, for ``edgenode doctor --systemd``."""

from __future__ import annotations

import sys
from pathlib import Path

from edgenode.doctor import installed_file

_NODE_ENV, _RELAY_ENV = "/etc/edgenode/node.env", "/etc/edgenode/relay.env"


def installation(invite: str = "") -> str:
    """A shell script for root, in the folder of run.toml.

    Args:
        invite: an invite for this device. With it, the script also starts the node.
    """
    lines = [
        f"# edgenode as a service, from {sys.prefix}. Next to run.toml: edgenode doctor --systemd | sudo sh",
        *_warning_of_home(),
        "set -e",
        "install -D -m 644 run.toml /etc/edgenode/run.toml",
        *map(_unit, ("node", "controller")),
        f"touch {_NODE_ENV}; chmod 600 {_NODE_ENV}  # options, one a line, such as EDGENODE_CONTROLLER=10.0.0.5:7700",
        "systemctl daemon-reload",
        *(_start("node", _NODE_ENV, invite) if invite else _NEXT),
        "# For a GPU, which the service hides by default: systemctl edit edgenode-node, and add",
        "#   [Service]",
        "#   PrivateDevices=no",
        "#   SupplementaryGroups=video render",
    ]
    return "\n".join(lines) + "\n"


def installation_of_relay(invite: str = "") -> str:
    """A shell script for root, on the machine of a relay. It needs no run.toml.

    Args:
        invite: an invite for this relay. With it, the script also starts the relay.
    """
    lines = [
        f"# edgenode relay as a service, from {sys.prefix}: edgenode doctor --systemd --relay-only | sudo sh",
        *_warning_of_home(),
        "set -e",
        "mkdir -p /etc/edgenode",
        _unit("relay"),
        f"touch {_RELAY_ENV}; chmod 600 {_RELAY_ENV}  # options, one a line, such as EDGENODE_PUBLIC=relay.example.org",
        "systemctl daemon-reload",
        *(_start("relay", _RELAY_ENV, invite) if invite else _NEXT_OF_RELAY),
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


_NEXT_OF_RELAY = (
    "# Next, with the invite that edgenode invite NAME --role relay prints where the controller runs:",
    "#   edgenode doctor --systemd --relay-only --join inv-... | sudo sh",
    "# What the service does:",
    "#   systemctl status edgenode-relay",
)


def _unit(name: str) -> str:
    unit = f"edgenode-{name}.service"
    return f"sed 's|/opt/edgenode|{sys.prefix}|' {installed_file(unit)} > /etc/systemd/system/{unit}"


def _start(name: str, env: str, invite: str) -> tuple[str, ...]:
    return (
        f"sed -i '/^EDGENODE_JOIN=/d' {env}",
        f"echo EDGENODE_JOIN={invite} >> {env}  # used once, and ignored from then on",
        f"systemctl enable edgenode-{name}",
        f"systemctl restart edgenode-{name}",
    )


def _warning_of_home() -> tuple[str, ...]:
    prefix = Path(sys.prefix)
    if not (prefix.is_relative_to("/home") or prefix.is_relative_to("/root")):
        return ()
    return (
        "# A service cannot see home folders. Install edgenode elsewhere first, and ask that installation:",
        "#   python3 -m venv /opt/edgenode && /opt/edgenode/bin/pip install CHECKOUT",
        "#   /opt/edgenode/bin/edgenode doctor --systemd",
    )
