"""Sends mDNS packets about the clusters in this network without end, as a stranger can, until it is killed.

    python tests/floods/mdns_packets.py KIND... [--rate 40] [--size 9000] [--sources 10.77.0.50 ...]

It asks for a controller first, and learns the name of its cluster. KINDs say what the packets contain, in turn:

new         services of the cluster, each under a name that was never there, with pointer, SRV, TXT and address
impostor    `node-0` to `node-3` and the controller at other addresses
goodbye     goodbyes for these
pointers    pointers to names of our type, of which nothing else is said
records     SRV, TXT and addresses without end for one name
foreign     services of another type
question    questions for our types
probe       questions for anything about the names of the cluster
known       questions with as many known answers as fit
controllers the announcements of `--count` controllers, as their own processes would send them. Connections are taken
"""

from __future__ import annotations

import argparse
import itertools
import socket
import time
from collections.abc import Iterator
from struct import pack

from zeroconf import (  # type: ignore[attr-defined]  # there, and documented
    DNSAddress,
    DNSIncoming,
    DNSOutgoing,
    DNSQuestion,
    DNSRecord,
    DNSService,
    DNSText,
    ServiceInfo,
)

from edgenode.net.mdns_service import SERVICE_TYPES, Service, instance_name, service_to_info

GROUP = ("224.0.0.251", 5353)
_QUERY, _RESPONSE, _PTR, _ANY, _IN = 0, 0x8400, 12, 255, 1
NAMES = ("node-0", "node-1", "node-2", "node-3")


def socket_of(address: str) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind((address, 5353))
    one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    if address:
        one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    return one


def cluster_here() -> str:
    """Ask for a controller until one answers, and return its cluster."""
    question = DNSOutgoing(_QUERY)
    question.add_question(DNSQuestion(SERVICE_TYPES["controller"], _PTR, _IN))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(1.0)
        while True:
            asker.sendto(question.packets()[0], GROUP)
            try:
                answers = DNSIncoming(asker.recv(9000)).answers()
            except TimeoutError:
                continue
            texts = [record for record in answers if isinstance(record, DNSText)]
            info = ServiceInfo(
                SERVICE_TYPES["controller"], f"x.{SERVICE_TYPES['controller']}", properties=texts[0].text
            )
            return info.decoded_properties["cluster"] or ""


def records_of(service: Service, *addresses: str) -> list[DNSRecord]:
    info = service_to_info(service, addresses)
    return [info.dns_pointer(), info.dns_service(), info.dns_text(), *info.dns_addresses()]


def a_node(cluster: str, name: str, port: int = 7600) -> Service:
    return Service("node", cluster, name, (), port, 1)


def true_ones(cluster: str) -> list[Service]:
    return [Service("controller", cluster, "controller", (), 7700, 1), *(a_node(cluster, name) for name in NAMES)]


def new(cluster: str, serial: Iterator[int]) -> Iterator[DNSRecord]:
    for i in serial:
        kind = "controller" if i % 2 else "node"
        yield from records_of(Service(kind, cluster, f"x{i}", (), 7600, 1), f"10.77.{i >> 8 & 255}.{i & 255}")


def impostor(cluster: str, serial: Iterator[int]) -> Iterator[DNSRecord]:
    for i in serial:
        for service in true_ones(cluster):
            yield from records_of(service, f"10.99.{i >> 8 & 255}.{i & 255}")


def goodbye(cluster: str, serial: Iterator[int]) -> Iterator[DNSRecord]:
    for service in (service for _ in serial for service in true_ones(cluster)):
        for record in records_of(service, *(f"10.77.0.{i}" for i in range(1, 6))):
            record.ttl = 0
            yield record


def pointers(cluster: str, serial: Iterator[int]) -> Iterator[DNSRecord]:
    return (records_of(a_node(cluster, f"x{i}"))[0] for i in serial)


def records(cluster: str, serial: Iterator[int]) -> Iterator[DNSRecord]:
    for i in serial:
        yield from records_of(a_node(cluster, "node-9", i % 65_535 + 1), f"10.77.{i >> 8 & 255}.{i & 255}")[1:]


def foreign(cluster: str, serial: Iterator[int]) -> Iterator[DNSRecord]:
    for i in serial:
        info = ServiceInfo("_ipp._tcp.local.", f"x{i}.{cluster}._ipp._tcp.local.", 631, parsed_addresses=["10.77.0.9"])
        yield from (info.dns_pointer(), info.dns_service(), info.dns_text(), *info.dns_addresses())


def answers_of(stream: Iterator[DNSRecord], size: int) -> Iterator[bytes]:
    """Responses, each as full as `size` allows. zeroconf would split what exceeds 1,460 bytes."""
    body, count = b"", 0
    for record in stream:
        encoded = wire(record)
        if len(body) + len(encoded) + 12 > size:
            yield pack("!6H", 0, _RESPONSE, 0, count, 0, 0) + body
            body, count = b"", 0
        body, count = body + encoded, count + 1


def wire(record: DNSRecord) -> bytes:
    """A record without compression of names."""
    match record:
        case DNSService():
            data = pack("!3H", 0, 0, record.port) + wire_name(record.server)
        case DNSText():
            data = record.text
        case DNSAddress():
            data = record.address
        case _:
            data = wire_name(record.alias)
    return wire_name(record.name) + pack("!2HIH", record.type, record.class_, int(record.ttl), len(data)) + data


def wire_name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split(".")) + b"\0"


def questions(cluster: str, types: int, known: int, probes: bool) -> Iterator[bytes]:
    serial = itertools.count()
    while True:
        out = DNSOutgoing(_QUERY)
        for service_type in SERVICE_TYPES.values():
            for _ in range(types):
                out.add_question(DNSQuestion(service_type, _PTR, _IN))
        if probes:
            for service in true_ones(cluster):
                out.add_question(DNSQuestion(instance_name(service), _ANY, _IN))
        for i in itertools.islice(serial, max(1, known)):
            out.add_answer_at_time(records_of(a_node(cluster, f"x{i}"))[0], 0)
        yield out.packets()[0]


def controllers(cluster: str, count: int, host: str) -> Iterator[bytes]:
    """Announcements of controllers at one host, at ports from 20000 on."""
    while True:
        for i in range(count):
            out = DNSOutgoing(_RESPONSE)
            for record in records_of(Service("controller", cluster, f"a{i:03}", (), 20_000 + i, 1), host):
                out.add_answer_at_time(record, 0)
            yield from out.packets()


def packets(kind: str, cluster: str, size: int, count: int, host: str) -> Iterator[bytes]:
    match kind:
        case "question":
            return questions(cluster, 1, 0, probes=False)
        case "probe":
            return questions(cluster, 20, 0, probes=True)
        case "known":
            return questions(cluster, 1, 30, probes=False)
        case "controllers":
            return controllers(cluster, count, host)
    streams = {"new": new, "impostor": impostor, "goodbye": goodbye, "pointers": pointers, "records": records}
    return answers_of({**streams, "foreign": foreign}[kind](cluster, itertools.count()), size)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kinds", nargs="+")
    parser.add_argument("--rate", type=float, default=40.0, help="packets a second")
    parser.add_argument("--size", type=int, default=8900, help="bytes of a packet")
    parser.add_argument("--count", type=int, default=200, help="controllers")
    parser.add_argument("--sources", nargs="*", default=[""], help="own addresses to send from, in turn")
    options = parser.parse_args()
    sockets = itertools.cycle([socket_of(address) for address in options.sources])
    host = options.sources[0]
    silent = [socket.create_server((host, 20_000 + i)) for i in range(options.count * ("controllers" in options.kinds))]
    cluster = cluster_here()
    began, sent, size = time.monotonic(), 0, 0
    shown = began
    streams = [packets(kind, cluster, options.size, options.count, host) for kind in options.kinds]
    for packet in itertools.chain.from_iterable(zip(*streams, strict=True)):
        next(sockets).sendto(packet, GROUP)
        sent, size = sent + 1, size + len(packet)
        time.sleep(max(0.0, began + sent / options.rate - time.monotonic()))
        if (now := time.monotonic()) - shown > 1:
            print(f"{sent / (now - began):.0f} packets/s, {size * 8 / 1e6 / (now - began):.2f} Mbit/s", flush=True)
            shown = now
    del silent  # held open until now


if __name__ == "__main__":
    main()
