"""The decoders of everything that is not gRPC: files, command lines, certificates and mDNS packets."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as tensors
from zeroconf import DNSOutgoing

from edgenode.config.load import load
from edgenode.core.algorithm.sparse_push import State
from edgenode.core.protocol.controller.changes import requests_from_json, requests_to_json
from edgenode.core.protocol.events import Persist, Rotate, Stop
from edgenode.core.topology.edge_list import parse_edges
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.names import is_name, to_name
from edgenode.net.enrolment_server import EnrolmentRequest
from edgenode.net.interfaces import LOOPBACK
from edgenode.net.mdns_listener import MdnsListener
from edgenode.net.mdns_service import Service, service_to_info
from edgenode.security import certificates
from edgenode.security.invite import Invite
from edgenode.security.subject import Subject
from edgenode.storage.checkpoints import _META, _STATE, Checkpoint, CheckpointStore, _sums
from edgenode.storage.controller_state import ControllerState
from tests.fuzz.decoder import Decoder
from tests.fuzz.messages import plan

_SEPARATOR = b"\xfe\xfd\xfc\xfb"  # between the files of one input
_RUN_DIGEST = "run"


@cache
def _folder() -> Path:
    """In memory, where there is such a file system."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))


def _text(take: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: take(data.decode("utf-8", "replace"))


def _run_toml(data: bytes) -> None:
    path = _folder() / "run.toml"
    path.write_bytes(data)
    load(path, environ={})


class _OneCheckpoint:
    """A disk with one checkpoint, of any content and with valid checksums."""

    def __init__(self, meta: bytes, state: bytes) -> None:
        sums = {_META: sha256(meta).hexdigest(), _STATE: sha256(state).hexdigest()}
        self._files = {_META: meta, _STATE: state, "SHA256SUMS": _sums(sums)}

    def names(self, folder: Path) -> list[str]:
        return ["round-000000005"]

    def read(self, path: Path) -> bytes:
        return self._files[path.name]


def _checkpoint(data: bytes) -> None:
    meta, _, state = data.partition(_SEPARATOR)
    CheckpointStore(Path(), _RUN_DIGEST, _OneCheckpoint(meta, state)).load(5)  # type: ignore[arg-type]


def _checkpoints() -> tuple[bytes, ...]:
    state = State(np.zeros(3, dtype=np.float32))
    saved = Checkpoint(5, state, plan(1), {"m": np.zeros(2)}, {"messages": 3})
    parts = CheckpointStore(Path(), _RUN_DIGEST)._files(saved, {})
    files = {name: b"".join(content) for name, content in parts}
    return (files[_META] + _SEPARATOR + files[_STATE],)


def _model(data: bytes) -> None:
    with suppress(SafetensorError):
        tensors.load(data)


def _controller_state(data: bytes) -> None:
    state = ControllerState(_folder(), _RUN_DIGEST)
    state.path.write_bytes(data)
    state.load()


def _controller_states() -> tuple[bytes, ...]:
    state = ControllerState(_folder(), _RUN_DIGEST)
    state.close()
    state.save(Persist(3, 2, plan(2), False, plan().records[0].schedule, (Stop(-1),)))
    return (state.path.read_bytes(),)


def _requests(data: bytes) -> None:
    with suppress(ValueError):
        requests_from_json(data.decode("utf-8", "replace"))


def _enrol(data: bytes) -> None:
    try:
        wanted = msgspec.json.decode(data, type=EnrolmentRequest)
        bytes.fromhex(wanted.secret)
    except ValueError:
        return
    certificates.requested_key_id(wanted.request.encode())


def _pems() -> tuple[bytes, ...]:
    authority = certificates.make_authority("home")
    key = certificates.make_key()
    request = certificates.signing_request(key)
    return authority.certificate, certificates.issue(authority, request, Subject("node", "n0")), request


def _certificate(data: bytes) -> None:
    assert certificates.Credentials(b"", data, b"").subject
    for take in (certificates.digest, certificates.public_key_id):
        take(data)


@cache
def _listener() -> MdnsListener:
    return MdnsListener()


def _mdns(data: bytes) -> None:
    _listener().received(data, LOOPBACK)


def _packets() -> tuple[bytes, ...]:
    found = []
    for name, address in (("n0", LOOPBACK), ("controller", "fe80::1")):
        kind = "controller" if name == "controller" else "node"
        info = service_to_info(Service(kind, "lab", name, (address,), 7001, 2), [address])
        out = DNSOutgoing(0x8400)
        for record in (info.dns_service(), info.dns_text(), *info.dns_addresses()):
            out.add_answer_at_time(record, 0)
        found += out.packets()
    return tuple(found)


_TOML = b"""[run]
nodes = 3
cluster = "home"
rounds = 40
[topology]
graphs = ["a", "b"]
every = "3ep"
[algorithm]
name = "scsp"
compressor = "topk"
[task]
dataset = "digits"
"""
_INVITE = str(Invite(bytes(10), bytes(16), (("10.0.0.1", 7701), ("fe80::1", 7702)))).encode()

DECODERS = {
    "run.toml": Decoder(_run_toml, (_TOML, *(_TOML.replace(b"scsp", name) for name in (b"sp", b"d2"))), share=2),
    "invite": Decoder(_text(Invite.parse), (_INVITE,)),
    "name": Decoder(_text(lambda text: is_name(text) and is_name(to_name(text))), (b"n0", b"-x", b"a b")),
    "dns-name": Decoder(_text(Subject.parse), (b"n0.node.edgenode", b"_41.operator.edgenode")),
    "edges": Decoder(
        _text(lambda text: parse_edges("mine", text)), (b"n0 n1\nn1 -> n0 # ring\n", b"0 -- 1 0.25\n1 -- n2 0.3")
    ),
    "certificate": Decoder(_certificate, _pems()[1:2], share=5),
    "signing-request": Decoder(certificates.requested_key_id, _pems()[2:], share=5),
    "enrolment": Decoder(
        _enrol,
        (msgspec.json.encode(EnrolmentRequest("00" * 16, "n0", _pems()[2].decode())),),
        share=5,
    ),
    "mdns": Decoder(_mdns, _packets(), max_bytes=9000),
    "model": Decoder(_model, (tensors.save({"z": np.zeros(3, np.float32), "buffer.m": np.ones((2, 2))}),)),
    "checkpoint": Decoder(_checkpoint, _checkpoints()),
    "controller-state": Decoder(_controller_state, _controller_states(), max_bytes=1 << 16, share=1),
    "requests": Decoder(
        _requests,
        (requests_to_json(None, (Rotate(-1, (GraphSpec("a"),), Period(2, "epochs")), Stop(-1))).encode(),),
    ),
}
