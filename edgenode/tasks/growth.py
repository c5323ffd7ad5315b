"""Data of one node that grows while the node trains.

1. A pass uses the samples that were listed when it began. `Growth` looks for others at the start of each pass.
2. A checkpoint holds the listing of its pass. A resumed run therefore replays the rest of the pass with it, whatever
   was added since, and looks for new samples at the start of the next one. If the data is then as an uninterrupted run
   would have found it, the results are bit-identical.
3. The node's weight (``task.objective``) and the epochs of the run follow from the samples at its first round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from numpy.typing import NDArray
from torch import Tensor

from edgenode.tasks.batches import Batches
from edgenode.tasks.folder_samples import FolderSamples
from edgenode.tasks.local_data import LocalData
from edgenode.tasks.packing import pack, unpack

log = structlog.get_logger()

PREFIX = "growth"


class Growth:
    """Follows the data of one node. What does not grow, or is cut for several nodes, stays as it is.

    Attributes:
        samples: training samples at the first round.
        tested: indices of the test samples in use. None for all.
    """

    def __init__(self, data: LocalData, batches: Batches) -> None:
        self._batches = batches
        self._train = data.train if data.own and isinstance(data.train, FolderSamples) else None
        self._test = data.test if data.own and isinstance(data.test, FolderSamples) else None
        self._names: dict[str, list[str]] = {"train": [], "test": []}
        self.samples = len(batches)
        self.tested: Tensor | None = None
        if self._train is not None:
            self._names = self._found()
            self._use(self._train, 0)
            self.samples = len(batches)

    def begin_batch(self, number: int) -> None:
        """Look for new samples if a pass begins with this batch."""
        if self._train is None or not self._batches.begins_pass(number):
            return
        before = {split: len(names) for split, names in self._names.items()}
        found = self._found()
        if found != self._names:
            self._names = found
            self._use(self._train, number)
            for split, names in found.items():
                if len(names) != before[split]:
                    log.info("the data changed", split=split, samples=len(names), before=before[split])

    def _found(self) -> dict[str, list[str]]:
        """The names of all samples. If there is no training sample left, it stays with those that it has."""
        assert self._train is not None
        train = self._train.listed() or self._names["train"]
        return {"train": train, "test": [] if self._test is None else self._test.listed()}

    def _use(self, train: FolderSamples, number: int) -> None:
        """Train on the named samples from this batch on."""
        self._batches.relist(train.places(self._names["train"]), number)
        if self._test is not None:
            self.tested = self._test.places(self._names["test"])

    # checkpoints ---------------------------------------------------------------------------------------

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the state that `load` restores. Empty if the data does not grow."""
        if self._train is None:
            return {}
        began, turn = self._batches.began
        return pack(PREFIX, {**self._names, "began": began, "turn": turn, "samples": self.samples})

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue with the listing that `state` returned. An older checkpoint has none.

        Samples that are gone are left out: the results then differ from those of an uninterrupted run.
        """
        if self._train is None or not any(name.startswith(PREFIX) for name in state):
            return
        kept = unpack(PREFIX, state)
        self._names, self.samples = {split: kept[split] for split in ("train", "test")}, kept["samples"]
        gone = len(self._names["train"]) - len(self._train.places(self._names["train"]))
        if gone:
            log.warning("samples of the checkpoint are gone: the results differ from an uninterrupted run", gone=gone)
        if gone < len(self._names["train"]):
            self._batches.began = kept["began"], kept["turn"]
            self._use(self._train, kept["began"])
