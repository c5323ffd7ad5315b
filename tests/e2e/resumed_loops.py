"""Training loops that a test interrupts: one of one's own, Lightning's and that of Hugging Face's Trainer.

Each has what makes a restart hard: dropout, data that is disturbed by random numbers, a shuffled loader with a
generator of its own or without one, a schedule, and evaluations that draw random numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import edgenode
from edgenode.integrations import lightning as for_lightning
from edgenode.integrations import transformers as for_transformers

BATCH, BATCHES, PASSES = 4, 3, 50
STEPS = BATCHES * PASSES

Reach = Callable[[int], None]


class Disturbed(Dataset[dict[str, Tensor]]):
    def __init__(self, node: int) -> None:
        numbers = torch.Generator().manual_seed(node)
        self.x = torch.randn(BATCH * BATCHES - 1, 6, generator=numbers)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"x": self.x[i] + 0.1 * torch.randn(6), "labels": (self.x[i].sum() > 0).long()}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.body(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def accuracy(model: Net, data: Dataset[dict[str, Tensor]]) -> float:
    batch = next(iter(DataLoader(data, 8, shuffle=True)))
    return (model(**batch)["logits"].argmax(1) == batch["labels"]).float().mean().item()


def plain(node: int, arguments: dict[str, Any], reach: Reach, folder: Path) -> None:
    model, data = Net(), Disturbed(node)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    mesh = edgenode.Mesh(model, None, optimizer, schedule, **arguments)
    mesh.evaluate(lambda: accuracy(model, data))
    for batch in mesh.loop(DataLoader(data, BATCH, shuffle=True, generator=torch.Generator().manual_seed(node))):
        reach(mesh.round)
        loss = model(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        mesh.step(loss=loss)


class Module(pl.LightningModule):
    def __init__(self, mesh: for_lightning.MeshCallback, reach: Reach) -> None:
        super().__init__()
        self.net, self.mesh, self.reach = Net(), mesh, reach

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        self.reach(self.mesh.mesh.round)
        assert self.current_epoch == self.mesh.mesh.round // BATCHES
        return self.net(**batch)["loss"]

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        self.log("val_loss", self.net(**batch)["loss"])

    def on_train_epoch_end(self) -> None:
        torch.rand(1)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 9, 0.8)]  # of epochs


def with_lightning(node: int, arguments: dict[str, Any], reach: Reach, folder: Path) -> None:
    mesh, data = for_lightning.MeshCallback(**arguments), Disturbed(node)
    module = Module(mesh, reach)
    mesh.evaluate(lambda: accuracy(module.net, data))
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[mesh], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=f"{folder}-lightning",
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, BATCH, shuffle=True), DataLoader(data, BATCH))


class Reaches(transformers.TrainerCallback):
    def __init__(self, mesh: for_transformers.MeshCallback, reach: Reach) -> None:
        self.mesh, self.reach = mesh, reach

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.reach(self.mesh.mesh.round)
        assert state.global_step == self.mesh.mesh.round or self.mesh.mesh.done


def with_trainer(node: int, arguments: dict[str, Any], reach: Reach, folder: Path) -> None:
    mesh, data, model = for_transformers.MeshCallback(**arguments), Disturbed(node), Net()
    mesh.evaluate(lambda: accuracy(model, data))
    args = transformers.TrainingArguments(
        output_dir=f"{folder}-trainer", max_steps=STEPS, per_device_train_batch_size=BATCH, report_to="none",
        save_strategy="no", use_cpu=True, disable_tqdm=True, learning_rate=0.01, eval_strategy="epoch", seed=node,
    )  # fmt: skip
    transformers.Trainer(
        model, args, train_dataset=data, eval_dataset=data, callbacks=[mesh, Reaches(mesh, reach)]
    ).train()


LOOPS = {"plain": plain, "lightning": with_lightning, "trainer": with_trainer}


def keys(cluster: str, nodes: int) -> dict[str, object]:
    """The keys of run.toml."""
    every = {"run.checkpoint_every": 7, "run.evaluate_every": 10}
    patient = {"run.barrier_timeout_s": 120, "run.evict_after_s": 120}
    return {"run.cluster": cluster, "run.nodes": nodes, "run.rounds": STEPS, **every, **patient}


def run_node(
    form: str,
    node: int,
    settings: dict[str, object],
    controller: str,
    folder: Path,
    place: int,
    reached: Event,
    go_on: Event,
) -> None:
    """The life of one process. Node 0 pauses in the first round from ``place`` on."""
    log = os.open(folder / f"{form}-{node}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["EDGENODE_INSECURE"] = "1"
    torch.set_num_threads(1)
    torch.manual_seed(node)

    def reach(t: int) -> None:
        if node == 0 and t >= place and not reached.is_set():
            reached.set()
            go_on.wait()

    arguments = {"name": f"n{node}", "listen": "127.0.0.1:0", "controller": controller, "settings": settings}
    LOOPS[form](node, {**arguments, "state_dir": folder / f"n{node}"}, reach, folder / f"n{node}")


def run_command(log: Path, *arguments: str) -> None:
    """An edgenode command."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ["EDGENODE_INSECURE"] = "1"
    from edgenode.cli import main

    main(arguments)
