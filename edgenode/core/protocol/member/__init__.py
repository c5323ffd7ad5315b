"""One member of a run: the state machine `node.Node`, and its parts."""
