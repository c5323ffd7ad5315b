"""A controller that renews certificates as often as it is asked, for nodes that change their keys every few seconds.

python generous_controller.py controller --config run.toml ...
"""

from __future__ import annotations

from edgenode.cli import main
from edgenode.net import credential_server

credential_server._MOST_RENEWALS = 1_000_000
credential_server._UNUSED_S = 0

if __name__ == "__main__":
    main()
