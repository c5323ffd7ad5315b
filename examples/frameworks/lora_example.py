import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from edgenode.integrations.transformers import MeshCallback

torch.manual_seed(0)  # stands for from_pretrained: the same base on every node
base = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=64, n_layer=2, n_head=2))
model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["c_attn"], fan_in_fan_out=True))
exchanged, everything = model.get_nb_trainable_parameters()

lines = torch.randint(0, 64, (128, 16), generator=torch.Generator().manual_seed(int(sys.argv[1])))
args = TrainingArguments("trainer", max_steps=40, report_to="none", save_strategy="no", use_cpu=True)
mesh = MeshCallback("run.toml")
data = [{"input_ids": line, "labels": line} for line in lines]
Trainer(model, args, train_dataset=data, callbacks=[mesh]).train()

print(f"exchanges {exchanged} of {everything} parameters")
if result := mesh.mesh.result:
    sent = result["nodes"][0]
    print(f"sent {sent['payload_bytes']} bytes in {sent['messages']} messages")
