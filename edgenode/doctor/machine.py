"""Checks of the machine: what is installed, and whether the model of a run fits."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from msgspec.structs import replace

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.core.topology.period import Epoch
from edgenode.doctor import Finding, ok, problem, warning
from edgenode.errors import ConfigError, EdgenodeError, first_line
from edgenode.node.resources import find_meter, peak_memory_bytes
from edgenode.node.task_workload import TaskWorkload

_OLDEST = (3, 11)
_VECTORS = 6  # float32, in addition to the trainer's: x, error, z, and three copies while a checkpoint is written
_KEPT = 3  # checkpoints: two, and the one that is being written
_SAVED = 3  # float32 vectors in each: x, error, momentum
_ROOM = 0.8  # above this share of what is free, a warning
_ROUNDS = 3  # that are timed, after one that is not
_CLEARLY = 0.9  # of the time of a step: less could be chance


def installed() -> Iterator[Finding]:
    """The versions of Python and of the required packages."""
    version = platform.python_version()
    if sys.version_info < _OLDEST:
        yield problem("python", f"{version} is too old", "install Python 3.11 or newer")
    else:
        yield ok("python", f"{version} on {platform.machine()}, {platform.system()} {platform.release()}")
    try:
        wanted = metadata.requires("edgenode") or []
    except metadata.PackageNotFoundError:
        yield problem("packages", "edgenode itself is not installed", "pip install .")
        return
    wrong = list(_unsatisfied(wanted))
    if wrong:
        yield problem("packages", "; ".join(wrong), "pip install --upgrade edgenode")
    else:
        names = ("edgenode", "torch", "numpy", "grpcio", "zeroconf")
        yield ok("packages", ", ".join(f"{name} {metadata.version(name)}" for name in names))


def _unsatisfied(wanted: list[str]) -> Iterator[str]:
    try:
        from packaging.requirements import Requirement
    except ImportError:  # it may be missing as any other
        yield "packaging is missing"
        return
    for requirement in map(Requirement, wanted):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            there = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield f"{requirement.name} is missing"
            continue
        # pip accepts an installed pre-release too: a board vendor's torch is named like one
        if not requirement.specifier.contains(there, prereleases=True):
            yield f"{requirement.name} is {there}, but {requirement.specifier} is required"


def torch(config: Config) -> Iterator[Finding]:
    """The device and the threads that a node would train with."""
    try:
        import torch
        import torchvision
    except (ImportError, OSError, RuntimeError) as exc:
        yield problem(
            "torch", f"does not load: {first_line(exc)}", "install matching versions of torch and torchvision"
        )
        return
    device, threads, cores = factory.device(config), factory.threads(config), factory.threads(_all_cores(config))
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    if device == "cuda" and not torch.cuda.is_available():
        remedy = "install the driver and a torch built for it, or set run.device = cpu"
        yield problem("torch", f"run.device = cuda, but {versions} finds no CUDA device", remedy)
    elif threads > cores:
        text = f"{versions} on {device}, run.threads = {threads}, but {cores} physical cores"
        yield warning("torch", text, 'more threads than cores slow a step down; run.threads = "auto" uses one per core')
    else:
        where = torch.cuda.get_device_name() if device == "cuda" else device
        yield ok("torch", f"{versions} on {where}, {threads} of {cores} physical cores")


def _all_cores(config: Config) -> Config:
    return replace(config, run=replace(config.run, threads="auto"))


def model(config: Config, state_dir: Path) -> Iterator[Finding]:
    """Train the model on the first shard for a few steps, then compare its needs with what is free."""
    task = config.task
    name = task.entry or task.model
    try:
        factory.algorithm_spec(config)
        factory.schedule(config)
        workload = TaskWorkload(config, "node-0")
        size, step_s = _size_and_step_s(config, workload)
        needs = memory(size)  # before a second model takes memory
        faster = _faster(config, workload, step_s)
    except ConfigError as exc:
        yield problem("run.toml", str(exc), "correct it")
        return
    except (EdgenodeError, RuntimeError, MemoryError) as exc:
        text = f"{name} cannot be trained: {first_line(exc)}"
        yield problem("model", text, "choose a smaller model or another device")
        return
    data = "" if task.entry else f" on {task.dataset}"
    yield ok("model", f"{name}{data}: {size:,} parameters, {step_s * 1e3:.3g} ms a step{faster}")
    yield needs
    yield disk(size, state_dir)


def _size_and_step_s(config: Config, workload: TaskWorkload) -> tuple[int, float]:
    """The number of parameters, and the seconds of a local step."""
    members = [f"node-{i}" for i in range(config.run.nodes)]
    trainer = workload.trainer(members[0], members, Epoch.of([workload.prepare()]))
    z = trainer.initial()
    rounds = []
    for t in range(1 + _ROUNDS):
        began = time.perf_counter()
        trainer.train(t, z.copy())
        rounds.append(time.perf_counter() - began)
    steps = 1 if config.task.local_steps == "auto" else config.task.local_steps
    return trainer.size, min(rounds[1:]) / steps


def _faster(config: Config, workload: TaskWorkload, step_s: float) -> str:
    """Return the setting that makes steps clearly faster, or ""."""
    other = "contiguous" if config.task.memory_format == "channels_last" else "channels_last"
    changed = replace(config, task=replace(config.task, memory_format=other))
    try:
        _, other_s = _size_and_step_s(changed, TaskWorkload(changed, "node-0", workload))
    except (EdgenodeError, RuntimeError, MemoryError):  # among others, of a model that calls `view` on activations
        return ""
    ratio = other_s / step_s
    return f', and {ratio:.2g} times as long with task.memory_format = "{other}"' if ratio < _CLEARLY else ""


def memory(parameters: int) -> Finding:
    """Compare free memory with the needs of a node: the peak of this process, and the vectors of the protocol."""
    import psutil

    held = peak_memory_bytes() or psutil.Process().memory_info().rss
    needs = held + _VECTORS * 4 * parameters
    free = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    text = f"a node needs up to {_mb(needs)}, {_mb(free)} are free"
    if needs > free:
        remedy = "end other programs, or choose a smaller model or batch; swap helps only a little"
        return problem("memory", text, remedy)
    if needs > _ROOM * free:
        return warning("memory", text, "that is tight: end other programs, and add some swap (docs/devices.md)")
    return ok("memory", text)


def disk(parameters: int, state_dir: Path) -> Finding:
    """Return whether checkpoints fit in the state folder, and can be written."""
    folder = next(place for place in (state_dir.absolute(), *state_dir.absolute().parents) if place.exists())
    needs, free = _KEPT * _SAVED * 4 * parameters, shutil.disk_usage(folder).free
    text = f"checkpoints need {_mb(needs)} in {state_dir}, {_mb(free)} are free"
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return problem("disk", f"{state_dir} cannot be written", "choose another --state-dir")
    if needs > free:
        return problem("disk", text, "free some space, or choose another --state-dir")
    if needs > _ROOM * free:
        return warning("disk", text, "free some space: a full disk stops checkpoints")
    return ok("disk", text)


def liars(config: Config) -> Iterator[Finding]:
    """Whether nodes have the in-neighbours that protection from liars takes. Nothing if nobody asked for it."""
    tolerated = config.algorithm.liars
    if not tolerated and config.run.on_poison == "report":
        return
    try:
        graph, fewest = factory.fewest_in_neighbours(config)
    except ConfigError:
        return  # the check of the model reports it
    needed = 2 * tolerated + 1
    if fewest <= 1:
        text = f"on graph {graph} a node has one in-neighbour: nothing protects it from one that lies below the alarm"
        yield warning("liars", text, "use a graph with three or more, such as complete, and algorithm.liars")
    elif tolerated and fewest < needed:
        text = f"on graph {graph} a node has {fewest} in-neighbours, but algorithm.liars = {tolerated} takes {needed}"
        yield warning("liars", text, "use a graph with more, such as complete, or a smaller number")
    elif tolerated:
        yield ok("liars", f"every node has {fewest} in-neighbours or more, and tolerates {tolerated}")


def power() -> Finding:
    """The sensor that measures joules per round. A run works without one."""
    meter = find_meter()
    return ok("power", meter if isinstance(meter, str) else f"measured by {meter.source}")


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
