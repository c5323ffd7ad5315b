"""A trained model in the format of another program, checked against the model it came from."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgenode.errors import ConfigError, EdgenodeError, first_line
from edgenode.inference.image_model import ImageModel
from edgenode.inference.live_model import load_into
from edgenode.storage.model_file import ModelFile
from edgenode.storage.replacement import replacing
from edgenode.tasks.task import new_model

if TYPE_CHECKING:
    from edgenode.tasks.task import NodeInfo, Task

SUFFIXES = {".safetensors": "safetensors", ".pt": "torchscript", ".ts": "torchscript", ".onnx": "onnx"}
_TOLERANCE = 1e-4  # of the largest output: float32 sums in another order differ by about 1e-6
_SAMPLES = 3  # with one sample, torch assumes that the model accepts no other number

_NOT_WRITTEN = "the exported model does not compute what the model does, and was not written"

Run = Callable[[Tensor], Tensor]
"""Inputs to outputs."""


def of_image_task(path: Path, file: ModelFile) -> tuple[nn.Module, Tensor]:
    """The model that edgenode built by its name, which normalises its inputs, and inputs to try it with.

    Raises:
        ConfigError: the file does not describe such a model.
    """
    model = ImageModel.of(path, file.metadata)
    load_into(model.network, file.tensors, path)
    noise = torch.randn(_SAMPLES, *model.image_shape, generator=torch.Generator().manual_seed(0))
    return model, model.mean + noise * model.std


def of_task(
    path: Path, file: ModelFile, task: Task, node: NodeInfo, shape: tuple[int, ...] | None
) -> tuple[nn.Module, Tensor]:
    """The model of a user's task, and inputs to try it with: random ones of ``shape``, or from the task's data.

    Raises:
        ConfigError: they do not fit, or the inputs of the task are not one tensor.
    """
    if shape is None:
        inputs = _inputs(task, node)
    else:
        inputs = torch.randn(_SAMPLES, *shape, generator=torch.Generator().manual_seed(0))
    model = new_model(task, node)
    load_into(model, file.tensors, path)
    return model, inputs


def _inputs(task: Task, node: NodeInfo) -> Tensor:
    data = task.test_data(node) or task.train_data(node)
    batch = task.collate([data[place % len(data)] for place in range(_SAMPLES)])
    inputs = batch[0] if isinstance(batch, tuple | list) else batch
    if not isinstance(inputs, Tensor):
        raise ConfigError(
            f"{type(task).__name__}: the first part of a batch is {type(inputs).__name__}, but an exported model takes "
            "one tensor; export yours with edgenode.LiveModel and torch"
        )
    return inputs


def write(out: Path, form: str, model: nn.Module, inputs: Tensor, metadata: Mapping[str, str]) -> float:
    """Write a model as TorchScript or ONNX, in one step, with the metadata of its file. Other numbers of samples than
    that of ``inputs`` are possible, too.

    Returns:
        The largest difference between the outputs of the file and of the model.

    Raises:
        ConfigError: the model cannot be exported. The text has the reason of torch.
        EdgenodeError: the file does not compute what the model does. It is not written.
    """
    model.eval()
    save, load = _FORMATS[form]
    # The warnings of torch's exporters concern torch's own code, or what this module checks.
    with replacing(out) as draft, torch.no_grad(), warnings.catch_warnings(action="ignore"):
        _require_tensor(model, inputs)
        try:
            save(model, inputs, draft, dict(metadata))
        except Exception as exc:  # whatever torch's exporters raise
            raise ConfigError(f"the model cannot be exported as {form}: {first_line(exc)}") from exc
        run = load(draft)
        return max(_difference(run, model, part) for part in (inputs[:1], inputs))


def _require_tensor(model: nn.Module, inputs: Tensor) -> None:
    try:
        output = model(inputs)
    except Exception as exc:  # of the user's model
        raise ConfigError(f"the model does not take inputs of {list(inputs.shape)}: {first_line(exc)}") from exc
    if not isinstance(output, Tensor):
        raise ConfigError(f"the model returns {type(output).__name__}, but an exported model must return one tensor")


def _difference(run: Run, model: nn.Module, inputs: Tensor) -> float:
    expected, found = model(inputs), run(inputs)
    if expected.shape != found.shape:
        raise EdgenodeError(f"{_NOT_WRITTEN}: it returns {list(found.shape)} instead of {list(expected.shape)}")
    difference = float((expected - found).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        raise EdgenodeError(f"{_NOT_WRITTEN}: its outputs differ by {difference:g}")
    return difference


# TorchScript -------------------------------------------------------------------------------------------


def _save_torchscript(model: nn.Module, inputs: Tensor, path: Path, metadata: dict[str, str]) -> None:
    script = torch.jit.trace(model, inputs, check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(script, str(path), _extra_files={"metadata.json": json.dumps(metadata)})


def _load_torchscript(path: Path) -> Run:
    run: Run = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    return run


# ONNX --------------------------------------------------------------------------------------------------


def _save_onnx(model: nn.Module, inputs: Tensor, path: Path, metadata: dict[str, str]) -> None:
    shapes: Any = ({0: torch.export.Dim("batch")},)
    program: Any = torch.onnx.export(
        model, (inputs,), dynamo=True, dynamic_shapes=shapes, input_names=["input"], output_names=["output"],
        verbose=False,
    )  # fmt: skip
    program.model.metadata_props.update(metadata)
    program.save(str(path), external_data=False)


def _load_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {"input": inputs.numpy()})[0])


def require_onnx() -> None:
    """Refuse to export to ONNX without what it needs.

    Raises:
        ConfigError: a package is missing. The text names it.
    """
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        raise ConfigError(f"--format onnx needs torch 2.6 or newer, and this is {torch.__version__}")
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as exc:
        raise ConfigError(f"--format onnx needs {exc.name}: pip install 'edgenode[onnx]'") from exc


_FORMATS: dict[str, tuple[Callable[[nn.Module, Tensor, Path, dict[str, str]], None], Callable[[Path], Run]]] = {
    "torchscript": (_save_torchscript, _load_torchscript),
    "onnx": (_save_onnx, _load_onnx),
}
