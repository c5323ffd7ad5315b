"""Models, data and the local training step. Independent of the graph, the protocol and the network.

`trainer.build_trainer` is the entry point. This file imports nothing, so that commands which do not train do not wait
for torch.
"""
