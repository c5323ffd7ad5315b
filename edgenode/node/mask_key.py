"""The masks of a process: what it adds to its messages, so that a neighbour sees their sum alone.

1. Each process draws an X25519 key when it starts, and keeps it in memory only. Its public key is the name by which
   others tell it from other processes of the same node, so it is in each greeting.
2. The plan names the key of each member. A controller takes it from the connection that the node's certificate has
   opened, and signs the plan. Fixed peers agree on all keys before they begin. A push names the plan, and each node
   compares its own key in it. So who puts a key in another's place has to stand between all nodes, with certificates in
   their names: only the cluster's authority can.
3. Each pair of nodes has a secret. HKDF gives a key for each exchange, and AES in counter mode a mask. One of the two
   adds it, and the other subtracts it.
4. Members that resume are new processes, all of them. So no mask is used twice, whichever part of an exchange was sent.
5. A node shows its model to nobody else (`model_server`). While it waits for messages, that has what its own hides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import cast

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import CHUNK, Ints
from edgenode.core.algorithm.masked_sum import FEWEST, MASKED, MaskedSum, Masks, most_nodes
from edgenode.core.algorithm.rounding import Integers
from edgenode.core.protocol.plan.record import Member
from edgenode.errors import LocalProtocolError, SecurityError
from edgenode.tasks.os_random import OsRandom


class MaskKey:
    """The key of one process.

    Attributes:
        public: the public key, 64 hex digits.
    """

    def __init__(self) -> None:
        self._own = X25519PrivateKey.generate()
        self.public = self._own.public_key().public_bytes_raw().hex()
        self._newest = -1  # the exchange that was masked last

    def hide(self, spec: AlgorithmSpec, name: str, members: Iterable[Member]) -> AlgorithmSpec:
        """Return the algorithm as this node runs it among these members: with its masks, if it needs some.

        Raises:
            SecurityError: the plan has too few or too many members, another key for this node, or no key for another.
        """
        if spec.rule is not MASKED:
            return spec
        keys = {member.node: member.mask_key for member in members}
        most = most_nodes(bits := cast(Integers, spec.compressor.quantise).bits)
        if not FEWEST <= len(keys) <= most:
            raise SecurityError(f"the plan has {len(keys)} members: masked messages need {FEWEST} to {most}")
        return replace(spec, rule=MaskedSum(len(keys), bits, self.masks(name, keys)).rule(spec.rule))

    def masks(self, name: str, keys: Mapping[str, str]) -> Masks:
        """Return the masks of this node, given the public keys of all nodes by name.

        Raises:
            SecurityError: as ``hide``.
        """
        if keys[name] != self.public:
            raise SecurityError(f"the plan has another key for the masks of {name} than that of its process")
        secrets = {other: self._secret(other, key) for other, key in keys.items() if other != name}

        def masks(t: int, size: int, modulus: int) -> Ints:
            if t <= self._newest:
                raise LocalProtocolError(f"exchange {t} after {self._newest}: a mask hides one message only")
            self._newest = t
            streams = [
                (1 if name < other else -1, OsRandom(_derived(secret, t, (name, keys[name]), (other, keys[other]))))
                for other, secret in secrets.items()
            ]
            return _sum(streams, size, modulus)

        return masks

    def _secret(self, other: str, key: str) -> bytes:
        try:
            return self._own.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(key)))
        except ValueError as exc:  # the length is wrong, or the point is of low order: everybody would know the secret
            raise SecurityError(f"the plan has no valid key for the masks of {other}: {key[:80]!a}") from exc


def _derived(secret: bytes, t: int, *pair: tuple[str, str]) -> bytes:
    info = f"edgenode masks {t} {sorted(pair)}".encode()
    return HKDF(SHA256(), 32, salt=None, info=info).derive(secret)


def _sum(streams: list[tuple[int, OsRandom]], size: int, modulus: int) -> Ints:
    """The sum of all streams, each with its sign, modulo ``modulus``: [size]."""
    total = np.zeros(size, dtype=np.int64)
    for begin in range(0, size, CHUNK):  # the random numbers of a part stay in a processor's cache
        part = total[begin : begin + CHUNK]
        for sign, random in streams:
            part += sign * (random.uniform(len(part)) * modulus).astype(np.int64)
        part %= modulus
    return total
