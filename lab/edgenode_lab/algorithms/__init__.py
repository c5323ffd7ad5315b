"""Published methods to compare with, as extensions of edgenode: each module imports `edgenode.extensions` alone.

Their papers average all workers, pairs of them, or the neighbours in an undirected graph. Here each one averages over
the graph of the run, and ``W`` is doubly stochastic.

    sparta        sends the entries of x-hat that the compressor selects, and forgets what it left out
    noloco        sends C[x-hat + error], and the change of x has momentum
    sparse-loco   sends C[x-hat - known], and part of what it left out is forgotten
    choco-jwins   sends C[T (x-hat - known)], where T is a wavelet transform: JWINS' ranking in CHOCO-SGD
    dsgt          sends x-hat and a tracker of the mean step; on directed graphs it is Push-DIGing
    mt            the same for a sum of steps: Momentum Tracking
    qg-dsgdm      sends x-hat, and adds how the averages moved; qg-dsgdm-n is its Nesterov variant
    gut           sends x-hat, and adds how the average differs from the last step
    skew-scout    is Sparse-Push, and a simulation chooses the share that top-k keeps
    attacked      is SCSP, and some nodes of a simulation lie
"""
