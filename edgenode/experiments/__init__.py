"""The paper's tables and figures as data over one runner: which runs they need, and how these are tabulated.

`catalogue` says what there is, `scale` how large, `runner` plays the runs, `report` and `picture` write what came out.
"""
