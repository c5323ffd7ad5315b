"""Lightning's Trainer as a node: the run decides its length, and a restart continues with what checkpoints hold."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from edgenode import ConfigError
from tests.integrations.conftest import Arguments

lightning = pytest.importorskip("lightning.pytorch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of Lightning

DATA = TensorDataset(torch.arange(40.0).view(10, 4) / 40, torch.arange(10) % 3)


class Module(lightning.LightningModule):  # type: ignore[misc]
    def __init__(self, fail_at: int = -1) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        self.fail_at, self.rates, self.losses = fail_at, list[float](), list[float]()
        self.epochs = list[int]()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.global_step == self.fail_at:
            raise KeyError("the power fails")
        self.epochs.append(self.current_epoch)
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        loss = nn.functional.cross_entropy(self.body(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(module: Module, mesh: Any, **options: Any) -> Any:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(callbacks=[mesh], enable_model_summary=False, **quiet, **options)
    trainer.fit(module, DataLoader(DATA, batch_size=4, shuffle=True))
    return trainer


def callback(arguments: dict[str, Any]) -> Any:
    from edgenode.integrations.lightning import MeshCallback

    return MeshCallback(**arguments)


def test_fit_takes_as_long_as_the_run(alone: Arguments, tmp_path: Path) -> None:
    mesh, module, measured = callback(alone()), Module(), list[bool]()

    @mesh.evaluate
    def accuracy() -> float:
        measured.append(module.training)
        return 0.5

    trainer = fit(module, mesh, max_epochs=1)
    assert (trainer.global_step, mesh.mesh.done, mesh.mesh.result["mean_test_accuracy"]) == (12, True, 0.5)
    assert measured and not any(measured)
    saved = load_file(tmp_path / "n0" / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in module.state_dict().items())


def test_progress_bars_show_the_epochs_of_the_run(alone: Arguments) -> None:
    shown = list[str]()

    class Bar(lightning.callbacks.RichProgressBar):  # type: ignore[misc]
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            shown.append(self._get_train_description(trainer.current_epoch).strip())

    mesh, trainers = callback(alone()), {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(callbacks=[mesh, Bar()], enable_model_summary=False, max_epochs=1, **trainers)
    trainer.fit(Module(), DataLoader(DATA, batch_size=4))
    assert shown == [f"Epoch {epoch}/3" for epoch in range(4)]


def test_a_loader_that_is_replaced_is_refused(alone: Arguments) -> None:
    with pytest.raises(ConfigError, match="reload_dataloaders_every_n_epochs would replace the loader"):
        fit(Module(), callback(alone()), reload_dataloaders_every_n_epochs=1)


def test_accumulated_batches_are_one_step_with_their_mean_loss(alone: Arguments) -> None:
    mesh, module = callback(alone(task__local_steps=2, run__rounds=3)), Module()
    steps: list[float] = []
    mesh._loop.step, original = lambda loss: (steps.append(float(loss)), original(loss))[1], mesh._loop.step
    trainer = fit(module, mesh, accumulate_grad_batches=2)
    assert (trainer.global_step, len(steps)) == (6, 6)
    epochs = [module.losses[first : first + 3] for first in (0, 3, 6)]  # of 3 batches: a step of two, and one of one
    assert steps == pytest.approx([loss for a, b, c in epochs for loss in ((a + b) / 2, c)])


def test_restart_continues_with_optimiser_and_schedule(alone: Arguments) -> None:
    arguments, broken = alone(), Module(fail_at=8)
    with pytest.raises(KeyError):
        fit(broken, callback(arguments))
    module, mesh = Module(), callback(arguments)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        trainer = fit(module, mesh)  # from the checkpoint before round 5
    assert [str(warning.message) for warning in heard if "resum" in str(warning.message)] == []
    assert (trainer.global_step, trainer.current_epoch, module.epochs) == (12, 4, [1, 2, 2, 2, 3, 3, 3])
    assert module.rates == pytest.approx([0.01 * 0.5**t for t in range(5, 12)])
    assert trainer.optimizers[0].state_dict()["state"][0]["step"] == 12


def test_training_that_ends_early_leaves_the_run(alone: Arguments) -> None:
    mesh, module = callback(alone(run__rounds=400)), Module()
    trainer = fit(module, mesh, max_time={"seconds": 0.2})
    assert 0 < trainer.global_step < 400
    assert mesh.mesh.done


def test_early_stopping_ends_training_and_the_run_is_completed(alone: Arguments) -> None:
    """The node has no controller that could let it go."""
    from lightning.pytorch.callbacks import EarlyStopping

    mesh, module = callback(alone(run__rounds=60)), Module()
    module.on_train_epoch_end = lambda: module.log("never better", torch.tensor(1.0))
    early = EarlyStopping("never better", patience=2, check_on_train_epoch_end=True)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(callbacks=[early, mesh], enable_model_summary=False, **quiet)
    trainer.fit(module, DataLoader(DATA, batch_size=4, shuffle=True))
    assert trainer.global_step == 9  # three passes of three batches
    assert mesh.mesh.result["nodes"][0]["rounds"] == 60


class Data(lightning.LightningDataModule):  # type: ignore[misc]
    def train_dataloader(self) -> Any:
        return DataLoader(DATA, batch_size=4, shuffle=True)


def test_restart_keeps_the_patience_of_early_stopping(alone: Arguments, tmp_path: Path) -> None:
    """It stops after three passes of three batches. The checkpoint is from the second pass."""
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

    def fit(module: Module) -> Any:
        module.on_train_epoch_end = lambda: module.log("never better", torch.tensor(1.0))
        early = EarlyStopping("never better", patience=2, check_on_train_epoch_end=True)
        saves = ModelCheckpoint(tmp_path / "best", monitor="never better")
        quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
        mesh = callback(arguments)
        trainer = lightning.Trainer(callbacks=[early, mesh, saves], enable_model_summary=False, **quiet)
        trainer.fit(module, datamodule=Data())
        return trainer

    arguments = alone(run__rounds=40)
    with pytest.raises(KeyError):
        fit(Module(fail_at=8))
    trainer = fit(Module())  # from the checkpoint before round 5
    assert trainer.global_step == 9
    assert (trainer.early_stopping_callback.wait_count, trainer.current_epoch) == (2, 3)
    assert Path(trainer.checkpoint_callback.best_model_path).name == "epoch=0-step=3.ckpt"


def test_several_processes_are_refused(alone: Arguments) -> None:
    mesh = callback(alone())
    with pytest.raises(ConfigError, match="this trainer has 2 processes"):
        mesh.on_train_start(type("Trainer", (), {"world_size": 2}), Module())
    with pytest.raises(ConfigError, match="no mesh before training"):
        _ = mesh.mesh
