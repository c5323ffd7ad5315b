"""Flower: FedAvg with a server on a host of its own, and some local steps in each round."""

from __future__ import annotations

import flwr
import numpy as np
import torch
from work import Job, Training, build, optimiser, process

_PORT = 8080


class Client(flwr.client.NumPyClient):
    """One node. It evaluates the average that it receives."""

    def __init__(self, rank: int, job: Job) -> None:
        self._job, self._model, self._training = job, build(job.model), Training(rank, job)
        self._optimizer = optimiser(job, self._model.parameters())

    def get_parameters(self, config: dict[str, flwr.common.Scalar]) -> list[np.ndarray]:
        return [value.numpy() for value in self._model.state_dict().values()]

    def fit(self, parameters: list[np.ndarray], config: dict[str, flwr.common.Scalar]) -> tuple:
        names = self._model.state_dict()
        self._model.load_state_dict({n: torch.from_numpy(v.copy()) for n, v in zip(names, parameters, strict=True)})
        self._training.evaluate_if_due(self._model)
        for _ in range(self._job.local_steps):
            self._training.take(self._model, self._optimizer)
        return self.get_parameters({}), self._job.batch, {}


def main() -> None:
    rank, job = process()
    address = f"{job.hosts[-1]}:{_PORT}"
    if rank < job.nodes:
        flwr.client.start_client(server_address=address, client=Client(rank, job).to_client(), insecure=True)
        return
    strategy = flwr.server.strategy.FedAvg(
        fraction_evaluate=0.0, min_fit_clients=job.nodes, min_available_clients=job.nodes
    )
    rounds = flwr.server.ServerConfig(num_rounds=job.steps // job.local_steps)
    flwr.server.start_server(server_address=f"0.0.0.0:{_PORT}", config=rounds, strategy=strategy)


if __name__ == "__main__":
    main()
