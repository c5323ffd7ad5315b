"""The laboratory beside edgenode: what a researcher needs and a device does not.

`algorithms` are published methods to compare with. `experiments` reproduces the tables and figures of the Sparse-Push
paper, and runs tables of one's own. `command` is `edgenode experiment`. `networks` and `datasets` are the paper's.
edgenode finds all of them by entry points, as it finds any other package (docs/extending.md). `testing` checks
extensions.
"""
