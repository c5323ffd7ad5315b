"""Networks behind routers, as namespaces: homes, a carrier's NAT, a Wi-Fi that isolates its clients, a public host.

Each home has a router that translates addresses, and 192.168.1.0/24 behind it: all homes use the same addresses, as
homes do. A router forwards no port, or that of its first host. A public home is a network with addresses of its own.
Host 0 is public. The hosts of the homes follow, in the order of the homes.

With IPv6, every host has a public address of its own besides. The routers let nothing new in.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.e2e import netns

PUBLIC, PUBLIC6 = "203.0.113.10", "2001:db8::10"
_NEW_ADDRESS = 100  # of a router that restarts, above its old one


@dataclass(frozen=True)
class Home:
    """One network.

    Attributes:
        hosts: the number of its hosts: 192.168.1.11 and so on.
        behind_carrier: the router has no public address either. Its carrier translates once more.
        isolated: its hosts reach the router, and not each other.
        forwards: the router lets its first host be dialled at port 7600.
        public: the hosts have public addresses, 198.51.N.11 and so on, and everybody can dial them.
    """

    hosts: int
    behind_carrier: bool = False
    isolated: bool = False
    forwards: bool = False
    public: bool = False


class Homes(netns.Network):
    """Homes and a public host on one internet.

    Attributes:
        places: of each home, the indexes of its hosts.
    """

    def __init__(self, *homes: Home, ipv6: bool = False) -> None:
        super().__init__()
        self._homes, self._ipv6, self._prefix = homes, ipv6, netns.unique("homes")
        self._switch = f"{self._prefix}-internet"
        names, self.places = [f"{self._prefix}-public"], list[tuple[int, ...]]()
        for number, home in enumerate(homes):
            begin = len(names)
            names += [f"{self._prefix}-home{number}-{host}" for host in range(home.hosts)]
            self.places.append(tuple(range(begin, len(names))))
        self.namespaces = tuple(names)

    def restart_router(self, home: int) -> None:
        """Give a router another public address. It forgets all connections."""
        old, new = self._outside(home), self._outside(home, _NEW_ADDRESS)
        router = self._router(home)
        for way in ("down", "up"):
            netns.ip("-n", router, "link", "set", "eth0", way)
            if way == "down":
                netns.ip("-n", router, "address", "delete", f"{old}/24", "dev", "eth0")
                netns.ip("-n", router, "address", "add", f"{new}/24", "dev", "eth0")

    def isolate(self, home: int, on: bool) -> None:
        """Let the hosts of a home reach each other, or the router only."""
        for host in range(self._homes[home].hosts):
            way = ("isolated", "on" if on else "off")
            self._inside(self._router(home), "bridge", "link", "set", "dev", f"host{host}", *way)

    def crossed(self, home: int) -> int:
        """The bytes that a router has sent to the internet and received from it, headers included."""
        counters = [f"/sys/class/net/eth0/statistics/{way}_bytes" for way in ("tx", "rx")]
        return sum(map(int, self._inside(self._router(home), "cat", *counters).split()))

    def _router(self, home: int) -> str:
        return f"{self._prefix}-router{home}"

    def _network(self, home: int) -> str:
        return f"198.51.{home}" if self._homes[home].public else "192.168.1"

    @staticmethod
    def _outside(home: int, more: int = 0) -> str:
        return f"203.0.113.{20 + home + more}"

    def _build(self) -> None:
        self._add_namespace(self._switch)
        self._add_switch(self._switch)
        self._add_namespace(self.namespaces[0])
        self._plug(self.namespaces[0], f"{PUBLIC}/24", self._switch, "public")
        for number, home in enumerate(self._homes):
            self._add_home(number, home)
        for number in (number for number, home in enumerate(self._homes) if home.public):
            others = [self._router(other) for other in range(len(self._homes)) if other != number]
            for name in (self.namespaces[0], *others):
                route = (f"{self._network(number)}.0/24", "via", self._outside(number))
                netns.ip("-n", name, "route", "add", *route)
        if self._ipv6:
            self._add_address(self.namespaces[0], f"{PUBLIC6}/64")
            for number, home in enumerate(self._homes):
                self._add_ipv6(number, home)
        self._undo.callback(self._end_children)

    def _add_home(self, number: int, home: Home) -> None:
        router, outside = self._router(number), f"{self._outside(number)}/24"
        network = self._network(number)
        if home.behind_carrier:
            carrier = f"{self._prefix}-carrier{number}"
            self._add_router(carrier, outside, self._switch, f"carrier{number}", "100.64.0.1/24")
            self._translate(carrier)
            self._add_router(router, "100.64.0.2/24", carrier, "router", f"{network}.1/24")
            netns.ip("-n", router, "route", "add", "default", "via", "100.64.0.1")
        else:
            self._add_router(router, outside, self._switch, f"router{number}", f"{network}.1/24")
        if not home.public:
            self._translate(router)
        for host, index in enumerate(self.places[number]):
            name = self.namespaces[index]
            self._add_namespace(name)
            self._plug(name, f"{network}.{11 + host}/24", router, f"host{host}")
            netns.ip("-n", name, "route", "add", "default", "via", f"{network}.1")
        if home.forwards:
            self._forward(router, f"{network}.11")
        self.isolate(number, home.isolated)

    def _add_ipv6(self, number: int, home: Home) -> None:
        """Give a home a network of IPv6, 2001:db8:0:N::/64, with a firewall."""
        if home.behind_carrier:
            raise ValueError("carriers have no IPv6 here")
        router, network, outside = self._router(number), f"2001:db8:0:{number + 1}::", f"2001:db8::{20 + number}"
        self._add_address(router, f"{outside}/64")
        self._add_address(router, f"{network}1/64", "br0")
        self._inside(router, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        self._close(router, "ip6tables", "FORWARD")  # not INPUT: neighbours have to be found
        netns.ip("-n", self.namespaces[0], "route", "add", f"{network}/64", "via", outside)
        for host, index in enumerate(self.places[number]):
            self._add_address(self.namespaces[index], f"{network}{11 + host}/64")
            netns.ip("-n", self.namespaces[index], "route", "add", "default", "via", f"{network}1")
        for other in range(len(self._homes)):
            if other != number:
                netns.ip("-n", router, "route", "add", f"2001:db8:0:{other + 1}::/64", "via", f"2001:db8::{20 + other}")

    def _forward(self, router: str, host: str) -> None:
        dialled = ("-i", "eth0", "-p", "tcp", "--dport", "7600")
        forward = ("-j", "DNAT", "--to-destination", host)
        self._inside(router, "iptables", "-w", "-t", "nat", "-A", "PREROUTING", *dialled, *forward)
        self._inside(router, "iptables", "-w", "-I", "FORWARD", *dialled, "-d", host, "-j", "ACCEPT")

    def _close(self, router: str, tool: str, *chains: str) -> None:
        """Let nothing new in."""
        known = ("-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED")
        for chain in chains:
            self._inside(router, tool, "-w", "-A", chain, "-i", "eth0", *known, "-j", "ACCEPT")
            self._inside(router, tool, "-w", "-A", chain, "-i", "eth0", "-j", "DROP")

    def _add_router(self, name: str, outside: str, switch: str, port: str, inside: str) -> None:
        self._add_namespace(name)
        self._plug(name, outside, switch, port)
        self._add_switch(name)
        netns.ip("-n", name, "address", "add", inside, "dev", "br0")
        self._inside(name, "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def _translate(self, router: str) -> None:
        """What comes from inside goes out with the router's address, and nothing new comes in."""
        self._inside(router, "iptables", "-w", "-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-j", "MASQUERADE")
        self._close(router, "iptables", "FORWARD", "INPUT")
