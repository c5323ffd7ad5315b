import sys
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, EvalPrediction, Trainer, TrainingArguments

from edgenode.integrations.transformers import MeshCallback


def samples(seed: int) -> list[dict[str, Any]]:
    words = torch.randint(0, 32, (128, 8), generator=torch.Generator().manual_seed(seed))
    return [{"input_ids": line, "labels": int(line[0] >= 16)} for line in words]


def accuracy(predicted: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((np.argmax(predicted.predictions, 1) == predicted.label_ids).mean())}


config = BertConfig(vocab_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
args = TrainingArguments(
    "trainer", max_steps=40, learning_rate=2e-3, report_to="none", save_strategy="no", use_cpu=True
)
mesh = MeshCallback("run.toml")
trainer = Trainer(
    BertForSequenceClassification(config),
    args,
    train_dataset=samples(seed=int(sys.argv[1])),  # each node has its own
    eval_dataset=samples(1000),
    compute_metrics=accuracy,
    callbacks=[mesh],
)
mesh.evaluate(lambda: trainer.evaluate()["eval_accuracy"])
trainer.train()
if result := mesh.mesh.result:
    print("accuracy", result["mean_test_accuracy"])
