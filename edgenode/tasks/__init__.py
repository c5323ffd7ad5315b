"""Models, data and the local training step; knows nothing of rounds, graphs or the network.

`trainer.build_trainer` is the door; this file imports nothing, so that a command which trains
nothing does not wait for torch.
"""
