"""edgenode: decentralised training of one model on devices that keep their own data.

`Task` is a model and data of your own in the loop of edgenode. `Mesh` puts a training loop of your own on a run.
`LiveModel` is the newest model of a node, for use while it trains. The names are imported when they are first
used, so `import edgenode` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgenode.errors import ConfigError, EdgenodeError
    from edgenode.inference.live_model import LiveModel
    from edgenode.mesh import Mesh
    from edgenode.tasks.task import NodeInfo, RunLength, Task

__version__ = "0.1.0"
__all__ = ["ConfigError", "EdgenodeError", "LiveModel", "Mesh", "NodeInfo", "RunLength", "Task", "__version__"]

_HOME = {
    "ConfigError": "edgenode.errors",
    "EdgenodeError": "edgenode.errors",
    "LiveModel": "edgenode.inference.live_model",
    "Mesh": "edgenode.mesh",
    "NodeInfo": "edgenode.tasks.task",
    "RunLength": "edgenode.tasks.task",
    "Task": "edgenode.tasks.task",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
