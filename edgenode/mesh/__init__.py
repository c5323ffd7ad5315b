"""`Mesh`: a node of a run in the user's own training loop."""

from __future__ import annotations

import os

# Before gRPC is imported: it would get in the way of the forks with which a DataLoader starts its workers.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from edgenode.mesh.mesh import Mesh

__all__ = ["Mesh"]
