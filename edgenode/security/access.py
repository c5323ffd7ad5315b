"""The table of methods that each role may call. The server enforces it, and docs/security-model.md shows it."""

from __future__ import annotations

from collections.abc import Mapping

from edgenode.security.subject import ROLES, Role

_EVERYONE: frozenset[Role] = frozenset(ROLES)
_PEERS: frozenset[Role] = frozenset({"node"})
_OPERATOR: frozenset[Role] = frozenset({"operator"})

ACCESS: Mapping[str, frozenset[Role]] = {
    "/edgenode.v1.PeerService/Meet": frozenset({"node", "controller"}),  # a controller probes a silent node
    "/edgenode.v1.PeerService/Push": _PEERS,
    "/edgenode.v1.PeerService/FetchModel": _PEERS,
    "/edgenode.v1.RelayService/Relay": frozenset({"node", "controller"}),  # that calls members which wait there
    "/edgenode.v1.RelayService/Wait": _PEERS,
    "/edgenode.v1.RelayService/Take": _PEERS,
    "/edgenode.v1.RelayRegistryService/Register": frozenset({"relay"}),
    "/edgenode.v1.ControlService/Attend": _PEERS,
    "/edgenode.v1.OperatorService/Status": _EVERYONE - {"relay"},
    "/edgenode.v1.OperatorService/Watch": _EVERYONE - {"relay"},
    "/edgenode.v1.OperatorService/OpenPage": frozenset({"operator", "viewer"}),
    "/edgenode.v1.OperatorService/Rotate": _OPERATOR,
    "/edgenode.v1.OperatorService/Stop": _OPERATOR,
    "/edgenode.v1.OperatorService/Extend": _OPERATOR,
    "/edgenode.v1.OperatorService/Pause": _OPERATOR,
    "/edgenode.v1.OperatorService/Resume": _OPERATOR,
    "/edgenode.v1.OperatorService/Evict": _OPERATOR,
    "/edgenode.v1.CredentialService/Renew": _EVERYONE - {"controller"},
    "/edgenode.v1.CredentialService/Vouch": _PEERS,
    "/edgenode.v1.CredentialService/Invite": _OPERATOR,
    "/edgenode.v1.CredentialService/ListKeys": _OPERATOR,
    "/edgenode.v1.CredentialService/Revoke": _OPERATOR,
    "/grpc.health.v1.Health/Check": _EVERYONE,
    "/grpc.health.v1.Health/List": _EVERYONE,
    "/grpc.health.v1.Health/Watch": _EVERYONE,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _OPERATOR,  # if it is served at all
}
"""The roles that may call each method, by its full name. A method that is missing here may be called by none."""


def refusal(role: Role, method: str) -> str:
    """Return why a role may not call a method, and what a person can do about it."""
    allowed = sorted(ACCESS.get(method, ()))
    remedy = (
        "type the command where the controller runs, or become an operator: edgenode invite NAME --role operator, there"
        if "operator" in allowed
        else ""
    )
    why = f"a certificate of the role {role} does not permit {method.rpartition('/')[2]}"
    if allowed:
        why += f", which takes the role {' or '.join(allowed)}"
    return f"{why}; {remedy}" if remedy else why


def may_call(role: Role, method: str) -> bool:
    """Return whether a role may call a method, given by its full name."""
    return role in ACCESS.get(method, frozenset())
