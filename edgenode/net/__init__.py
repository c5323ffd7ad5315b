"""gRPC, HTTP and mDNS on asyncio. Moves messages, and does not mix or train."""

import gc
import os

# Before gRPC is imported, because its C core reads this once: it would log to stderr what our errors say.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# A forked process, such as the worker of a DataLoader, has none of gRPC's threads. If its garbage collector freed an
# object of gRPC that it has inherited, the destructor would wait for a thread for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=gc.freeze)
