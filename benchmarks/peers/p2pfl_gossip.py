"""p2pfl: local steps, and FedAvg whose models travel by gossip. Its learner is plain torch, so the steps are equal."""

from __future__ import annotations

import time
from typing import Any

import torch
from datasets import Dataset
from p2pfl.settings import Settings
from work import Training, build, optimiser, process, samples

Settings.general.DISABLE_RAY = True  # read by the imports that follow

from p2pfl.communication.protocols.protobuff.grpc import GrpcCommunicationProtocol  # noqa: E402
from p2pfl.learning.dataset.p2pfl_dataset import P2PFLDataset  # noqa: E402
from p2pfl.learning.frameworks import Framework  # noqa: E402
from p2pfl.learning.frameworks.learner import Learner  # noqa: E402
from p2pfl.learning.frameworks.p2pfl_model import P2PFLModel  # noqa: E402
from p2pfl.node import Node  # noqa: E402
from p2pfl.utils.utils import set_standalone_settings  # noqa: E402

_PORT = 6666


class Network(P2PFLModel):
    """The weights of a torch module."""

    def get_parameters(self) -> list[Any]:
        return [value.detach().cpu().numpy() for value in self.model.state_dict().values()]

    def set_parameters(self, params: list[Any] | bytes) -> None:
        if isinstance(params, bytes):
            params, _ = self.decode_parameters(params)
        names = self.model.state_dict()
        self.model.load_state_dict({n: torch.tensor(value) for n, value in zip(names, params, strict=True)})

    def get_framework(self) -> str:
        return Framework.PYTORCH.value


class Steps(Learner):
    """Takes the local steps of a round, and evaluates the average that begins it."""

    def __init__(self, training: Training) -> None:
        super().__init__()
        self._training = training
        self._optimizer: torch.optim.Optimizer | None = None

    def fit(self) -> P2PFLModel:
        job, model = self._training.job, self.get_model()
        before = self._optimizer
        self._optimizer = optimiser(job, model.model.parameters())
        if before is not None:  # an average is a new module: keep the momentum
            self._optimizer.load_state_dict(before.state_dict())
        for _ in range(job.local_steps):
            self._training.take(model.model, self._optimizer)
        model.set_contribution([self.addr], job.batch)
        return model

    def evaluate(self) -> dict[str, float]:
        self._training.evaluate_if_due(self.get_model().model)
        return {}

    def interrupt_fit(self) -> None:
        pass

    def get_framework(self) -> str:
        return Framework.PYTORCH.value


def main() -> None:
    rank, job = process()
    set_standalone_settings()
    Settings.ssl.USE_SSL = False
    addresses = [f"{host}:{_PORT}" for host in job.hosts[: job.nodes]]
    training = Training(rank, job)
    network = Network(build(job.model))
    data = P2PFLDataset(Dataset.from_dict({"label": samples(job, str(rank))[1]}))  # it wants to see some
    node = Node(network, data, addresses[rank], Steps(training), protocol=GrpcCommunicationProtocol())
    node.start()
    deadline = time.monotonic() + 60
    for other in addresses[rank + 1 :]:
        while not node.connect(other) and time.monotonic() < deadline:
            time.sleep(0.5)
    while len(node.get_neighbors()) < job.nodes - 1 and time.monotonic() < deadline:
        time.sleep(0.2)
    if rank == 0:
        node.set_start_learning(rounds=job.steps // job.local_steps, epochs=1, trainset_size=job.nodes)
    while training.step < job.steps:
        time.sleep(0.5)
    node.stop()


if __name__ == "__main__":
    main()
