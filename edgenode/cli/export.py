"""``edgenode export``: a trained model for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgenode import factory
from edgenode.cli.shared_options import config_option, load_config, set_option
from edgenode.config.schema import Config
from edgenode.errors import ConfigError, one_of
from edgenode.storage import model_file
from edgenode.storage.model_file import ModelFile

if TYPE_CHECKING:
    from torch import Tensor, nn


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="File to write.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(["safetensors", "torchscript", "onnx"]),
              help="Format of the file. [default: that of the suffix of --out]")  # fmt: skip
@click.option("--input-shape", metavar="N,...",
              help="Shape of one input of a task of your own. Random inputs then replace its data.")  # fmt: skip
@config_option
@set_option
def export(
    source: Path,
    out: Path,
    form: str | None,
    input_shape: str | None,
    config_path: Path | None,
    settings: tuple[str, ...],
) -> None:
    """Write the model of SOURCE in another format, and check that the file computes the same.

    SOURCE is a model.safetensors or the state folder of a node, which may be training. A model that run.toml names
    takes images with the pixel values of the data set, as float32: the file contains the normalisation. For a task of
    your own, give the run.toml with task.entry. Its model takes what your data set returns.

    The formats are safetensors (the tensors as they are), torchscript (for torch.jit.load and C++) and onnx (needs
    edgenode[onnx]). The first dimension of inputs and outputs is the number of samples.

    \b
    Examples:
      edgenode export state --out birds.onnx
      edgenode export demo-run/node-0/model.safetensors --out digits.pt
      edgenode export state --out task.onnx --config run.toml --input-shape 3,64,64
    """
    from edgenode.inference import exporter

    form = form or exporter.SUFFIXES.get(out.suffix)
    if form is None:
        raise ConfigError(f"--out {out}: give --format, or one of the suffixes {one_of(exporter.SUFFIXES)}")
    path = source / model_file.MODEL_FILE if source.is_dir() else source
    file = model_file.read(path)
    if form == "safetensors":
        model_file.write(out, dict(file.tensors), dict(file.metadata))
        click.echo(f"written: {out} ({_described(file)})")
        return
    if form == "onnx":
        exporter.require_onnx()
    config = load_config(config_path, settings)
    model, inputs = _model(path, file, config, _shape(input_shape))
    click.echo(f"exporting to {form}, which can take a minute", err=True)
    difference = exporter.write(out, form, model, inputs, file.metadata)
    shape = ", ".join(["batch", *map(str, inputs.shape[1:])])
    kind = str(inputs.dtype).removeprefix("torch.")
    click.echo(f"written: {out} ({_described(file)})")
    click.echo(f"input: {kind} [{shape}]; largest difference of an output from the model's: {difference:.1g}")


def _model(path: Path, file: ModelFile, config: Config, shape: tuple[int, ...] | None) -> tuple[nn.Module, Tensor]:
    from edgenode.inference import exporter

    if config.task.entry:
        node = factory.node_info(config, file.metadata.get("node", "node"))
        return exporter.of_task(path, file, factory.task(config), node, shape)
    if "image" not in file.metadata:
        raise ConfigError(
            f"{path} holds a model of your own, {file.metadata.get('model', 'of an unknown class')}: give the run.toml "
            "whose task.entry made it with --config, or export it with edgenode.LiveModel and torch (docs/live.md)"
        )
    return exporter.of_image_task(path, file)


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ConfigError(f"--input-shape {text}: expected whole numbers, 1 or more, as in 3,64,64")
    return shape


def _described(file: ModelFile) -> str:
    return f"the model of {file.metadata.get('node', 'a node')} after {file.metadata.get('round', '?')} rounds"
