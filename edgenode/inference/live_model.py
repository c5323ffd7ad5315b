"""`LiveModel`: the newest model of a node, in another process, while the node trains."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from edgenode.errors import ConfigError
from edgenode.inference.image_model import ImageModel
from edgenode.storage import model_file
from edgenode.storage.model_file import MODEL_FILE, ModelFile
from edgenode.tasks.plain_names import plain_state_dict

_POLL_S = 0.1


class LiveModel:
    """The newest model that a node has published, for use while the node trains.

    Args:
        path: the model.safetensors of a node, or the state folder that holds it.
        model: gets the parameters and buffers of the file. Without it, a model that edgenode knows by name is built
            from the file. That one takes images [N, channels, size, size] with the pixel values of the data set, and
            normalises them as in training.
        wait_s: seconds to wait for a first file.

    Attributes:
        model: the model, in evaluation mode.

    Raises:
        ConfigError: there is no file, or it does not fit the model. The text names what differs.

    Examples:
        >>> live = edgenode.LiveModel("/run/edgenode/model.safetensors", wait_s=60)
        >>> while True:
        ...     if live.refresh():
        ...         print("now with the model of round", live.round)
        ...     with torch.inference_mode():
        ...         print(live.classes[live.model(next_image()).argmax()])
    """

    def __init__(self, path: str | Path, model: nn.Module | None = None, *, wait_s: float = 0.0) -> None:
        path = Path(path).expanduser()
        self._path = path / MODEL_FILE if path.is_dir() else path
        _wait_for_another(self._path, None, wait_s)
        file = model_file.read(self._path)
        self.model = ImageModel.of(self._path, file.metadata) if model is None else model
        self._load(file)
        self.model.eval()

    def refresh(self, wait_s: float = 0.0) -> bool:
        """Load the newest file, if it is another than the loaded one. Return whether it was.

        Call it between two predictions: it changes the model in place. Without a new file it takes microseconds. A node
        that resumes from a checkpoint may publish rounds again, so the round can fall.

        Args:
            wait_s: seconds to wait for another file.

        Raises:
            ConfigError: the file does not fit the model, which stays as it was.
        """
        if not _wait_for_another(self._path, self._file.version, wait_s):
            return False
        self._load(model_file.read(self._path))
        return True

    @property
    def round(self) -> int:
        """The number of rounds that the loaded model has been trained for."""
        return int(self.metadata.get("round", "0"))

    @property
    def metadata(self) -> Mapping[str, str]:
        """The metadata of the loaded file: "run_digest", "node", "cluster", "round", and what describes the model."""
        return self._file.metadata

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the model's outputs. Empty if the file has none."""
        return tuple(json.loads(self.metadata.get("classes", "[]")))

    def _load(self, file: ModelFile) -> None:
        target = self.model.network if isinstance(self.model, ImageModel) else self.model
        load_into(target, file.tensors, self._path)
        self._file = ModelFile({}, file.metadata, file.version)  # the tensors are in the model


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy a state dict into a model, all of it or nothing.

    Raises:
        ConfigError: it belongs to another model.
    """
    own = plain_state_dict(model)
    for name in sorted(own.keys() | tensors.keys()):
        if name not in own:
            raise ConfigError(f"{path} does not fit the model: the model has no {name}")
        if name not in tensors:
            raise ConfigError(f"{path} does not fit the model: it has no {name}, which the model has")
        if own[name].shape != tensors[name].shape:
            theirs, ours = (list(t[name].shape) for t in (tensors, own))
            raise ConfigError(f"{path} does not fit the model: {name} is {theirs} in the file and {ours} in the model")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])


def _wait_for_another(path: Path, known: model_file.Version | None, wait_s: float) -> bool:
    """Wait until there is a file of another version. Return whether there is."""
    until = time.monotonic() + wait_s
    while (found := model_file.version(path)) is None or found == known:
        if time.monotonic() >= until:
            return False
        time.sleep(min(_POLL_S, wait_s))
    return True
