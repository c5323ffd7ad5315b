"""What outlives a process: checkpoints, the controller's state, the history and the results of runs."""
