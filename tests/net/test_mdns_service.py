"""A service and its form in DNS."""

from __future__ import annotations

from ipaddress import IPv4Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zeroconf import ServiceInfo

from edgenode.names import PATTERN
from edgenode.net.mdns_service import SERVICE_TYPES, Service, instance_label, service_from_info, service_to_info

names = st.from_regex(PATTERN)


@given(
    st.builds(
        Service,
        kind=st.sampled_from(list(SERVICE_TYPES)),
        cluster=names,
        name=names,
        addresses=st.lists(st.ip_addresses(v=4).map(str), min_size=1, max_size=3, unique=True).map(sorted).map(tuple),
        port=st.integers(1, 65_535),
        protocol=st.integers(0, 999_999_999),
    )
)
def test_service_survives_its_form_in_dns(service: Service) -> None:
    assert service_from_info(service_to_info(service, service.addresses), ()) == service


def test_addresses_that_this_machine_has_too_come_last() -> None:
    service = Service("node", "lab", "n0", ("10.0.0.2", "172.17.0.1"), 7001, 1)
    info = service_to_info(service, ["172.17.0.1", "10.0.0.2"])
    own = (IPv4Interface("10.0.0.2/32"),)
    assert service_from_info(info, own) == Service("node", "lab", "n0", ("172.17.0.1", "10.0.0.2"), 7001, 1)


def test_addresses_in_a_network_of_this_machine_come_first() -> None:
    """A board with Docker has 172.17.0.1, which a board without Docker cannot reach."""
    service = Service("node", "lab", "n0", ("172.17.0.1", "192.168.1.5", "fe80::1"), 7001, 1)
    found = service_from_info(service_to_info(service, service.addresses), (IPv4Interface("192.168.1.7/24"),))
    assert found is not None
    assert found.addresses == ("192.168.1.5", "172.17.0.1", "fe80::1")


def test_own_addresses_are_in_the_order_of_the_interfaces() -> None:
    """A node on the controller's board announces the address on which it reaches the controller."""
    service = Service("controller", "lab", "controller", ("172.17.0.1", "192.168.1.5"), 7001, 1)
    own = (IPv4Interface("192.168.1.5/24"), IPv4Interface("172.17.0.1/16"))
    found = service_from_info(service_to_info(service, service.addresses), own)
    assert found is not None
    assert found.addresses == ("192.168.1.5", "172.17.0.1")


@pytest.mark.parametrize(
    "change",
    [
        {"parsed_addresses": []},
        {"port": 0},
        *({"properties": {"node": "n0", "cluster": "lab", "protocol": "1"} | text} for text in (
            {"node": ""}, {"cluster": ""}, {"node": "../n0"}, {"node": "n" * 64}, {"cluster": "Küche"},
            {"protocol": ""}, {"protocol": "one"}, {"protocol": "-1"}, {"protocol": "²"},
        )),
    ],
)  # fmt: skip
def test_incomplete_or_invalid_descriptions_are_ignored(change: dict[str, object]) -> None:
    whole = {
        "parsed_addresses": ["10.0.0.2"],
        "port": 7001,
        "properties": {"node": "n0", "cluster": "lab", "protocol": "1"},
    }
    service_type = SERVICE_TYPES["node"]
    for fields, is_whole in ((whole, True), (whole | change, False)):
        info = ServiceInfo(service_type, f"n0@lab.{service_type}", **fields)  # type: ignore[arg-type]
        assert (service_from_info(info, ()) is not None) == is_whole


def test_targets_put_ipv6_in_brackets() -> None:
    service = Service("node", "lab", "n0", ("10.0.0.2", "fd00::2"), 7001, 1)
    assert service.targets == ("10.0.0.2:7001", "[fd00::2]:7001")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("lab", "a-b"), ("b-lab", "a")),
        (("lab", "Node"), ("lab", "node")),
        (("lab", "n.1"), ("lab", "n-1")),
        (("lab", "x" * 80), ("lab", "x" * 81)),
        (("y" * 80, "n"), ("y" * 81, "n")),
    ],
)
def test_labels_are_unique_dns_labels(one: tuple[str, str], other: tuple[str, str]) -> None:
    labels = [instance_label(*one), instance_label(*other)]
    assert labels[0].lower() != labels[1].lower()
    assert all(0 < len(label.encode()) <= 63 and "." not in label for label in labels)


def test_plain_label_is_readable() -> None:
    assert instance_label("lab", "pi-3") == "pi-3@lab"
