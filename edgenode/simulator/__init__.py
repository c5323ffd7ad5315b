"""Many nodes in one process, on the same state machines as the daemons."""
