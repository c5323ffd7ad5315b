"""The controller of a run: the state machine `cluster.Cluster`, and its parts."""
