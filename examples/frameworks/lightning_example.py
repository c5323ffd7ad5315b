import sys

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from edgenode.integrations.lightning import MeshCallback


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def samples(seed: int) -> tuple[Tensor, Tensor]:
    points = torch.randn(256, 8, generator=torch.Generator().manual_seed(seed))
    return points, (points.sum(1) > 0).long()


module = Classifier()
mesh = MeshCallback("run.toml")
test_points, test_labels = samples(1000)


@mesh.evaluate
def accuracy() -> float:
    return float((module.net(test_points).argmax(1) == test_labels).float().mean())


own_data = TensorDataset(*samples(seed=int(sys.argv[1])))  # each node has its own
trainer = Trainer(accelerator="cpu", callbacks=[mesh], logger=False, enable_checkpointing=False)
trainer.fit(module, DataLoader(own_data, 32, shuffle=True))
if result := mesh.mesh.result:
    print("accuracy", result["mean_test_accuracy"])
