"""Measures what the messages, reports and models of a run tell of its training samples (docs/privacy.md).

`membership`, `inversion`, `gossip` and `class_counts` are the attacks. They know neither edgenode nor torch. `victims`
is the task that is attacked, and `transcript` what a neighbour and the controller see of a run. `shadows` plays the
runs of `cells`, `first_round` attacks first steps, and `hops` those of nodes that are not neighbours. `experiment` and
`report` are `edgenode experiment privacy`.
"""
