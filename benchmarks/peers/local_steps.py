"""Local steps alone: every node trains by itself, and nothing is exchanged. No peer can take more steps."""

from __future__ import annotations

from work import Training, build, optimiser, process


def main() -> None:
    rank, job = process()
    model = build(job.model)
    optimizer, training = optimiser(job, model.parameters()), Training(rank, job)
    for _ in range(job.steps):
        training.take(model, optimizer)
        training.evaluate_if_due(model)


if __name__ == "__main__":
    main()
