"""The choice of the port, and the merge of the slices of one Service."""

from __future__ import annotations

import msgspec
import pytest

from shmroute.resources.endpointslice import EndpointSlice, SlicePort
from shmroute.rows import EndpointRow, EndpointsState
from shmroute.tables.merge_slices import EndpointRules, IpFamily, merge, pack
from tests.tables.builders import endpoint, endpointslice


def one(ports: str, address: str = "10.0.0.1") -> EndpointSlice:
    return endpointslice(f"s-{address}", address, service="app", ports=ports)


def addresses(*slices: EndpointSlice, port: str = "", default_port: str = "") -> list[str]:
    row, _ = merge("default/app", map(pack, slices), port, EndpointRules(default_port))
    return [f"{each.host}:{each.port}" for each in row.endpoints]


def problem(*slices: EndpointSlice, port: str = "", default_port: str = "") -> str:
    row, problem = merge("default/app", map(pack, slices), port, EndpointRules(default_port))
    assert row.state == (EndpointsState.AMBIGUOUS_PORT if problem else EndpointsState.KNOWN)
    assert not (problem and row.endpoints)
    return problem


@pytest.mark.parametrize(
    ("ports", "port", "default_port", "chosen"),
    [
        (":80", "", "", 80),
        ("grpc:9090", "", "", 9090),
        ("http:80 grpc:9090", "", "", 80),
        ("api:8080 web:8080", "", "", 8080),
        ("http:80 grpc:9090", "grpc", "", 9090),
        ("http:80 grpc:9090", "9090", "", 9090),
        ("http:80 grpc:9090", "", "grpc", 9090),
        ("http:80 grpc:9090", "", "9090", 9090),
        ("http:80 grpc:9090", "http", "grpc", 80),
        ("http:80 grpc:9090", "", "missing", 80),
        ("grpc:9090", "", "missing", 9090),
        ("", "8080", "", 8080),
        ("", "", "8080", 8080),
    ],
    ids=[
        "the only one",
        "the only one, named",
        "http by convention",
        "one number under two names",
        "annotated name",
        "annotated number",
        "default name",
        "default number",
        "annotation before default",
        "default that is not there, then http",
        "default that is not there, then the only one",
        "annotated number where none is declared",
        "default number where none is declared",
    ],
)
def test_the_port_is_chosen_by_the_first_rule_that_applies(
    ports: str, port: str, default_port: str, chosen: int
) -> None:
    assert addresses(one(ports), port=port, default_port=default_port) == [f"10.0.0.1:{chosen}"]


@pytest.mark.parametrize(
    ("ports", "port", "words"),
    [
        ("api:8080 grpc:9090", "", "ambiguous port: Service default/app has api 8080, grpc 9090"),
        ("http:80", "grpc", "port 'grpc' is not a TCP port of Service default/app, which has http 80"),
        (":80", "8080", "port '8080' is not a TCP port of Service default/app, which has 80"),
        ("", "", "Service default/app declares no port: give a number in the annotation iidp.com/port"),
        ("", "http", "port 'http' is not a TCP port of Service default/app, which has no port"),
    ],
)
def test_the_problem_names_the_ports_if_no_rule_applies(ports: str, port: str, words: str) -> None:
    assert problem(one(ports), port=port).startswith(words)


def test_long_list_of_ports_is_cut_in_the_message() -> None:
    ports = " ".join(f"p{number}:{number}" for number in range(100, 200))
    assert problem(one(ports)).count(", ") == 10


def test_slices_without_endpoints_do_not_affect_the_port() -> None:
    assert addresses(one("web:80"), endpointslice("e", service="app", ports="api:1 grpc:2")) == ["10.0.0.1:80"]


def test_slices_of_one_service_may_carry_the_port_under_different_numbers() -> None:
    assert addresses(one("http:80", "10.0.0.1"), one("http:8080", "10.0.0.2")) == ["10.0.0.1:80", "10.0.0.2:8080"]


def test_slices_differ_in_port_while_it_is_being_named() -> None:
    assert addresses(one(":80", "10.0.0.1"), one("api:8080", "10.0.0.2")) == ["10.0.0.1:80", "10.0.0.2:8080"]


def test_a_pod_without_the_chosen_port_is_left_out() -> None:
    slices = one("http:80 metrics:9100", "10.0.0.1"), one("metrics:9100", "10.0.0.2")
    assert addresses(*slices) == ["10.0.0.1:80"]


def test_a_pod_lacking_a_port_does_not_change_the_choice() -> None:
    slices = one("web:80 metrics:9100", "10.0.0.1"), one("metrics:9100", "10.0.0.2")
    assert problem(*slices).startswith("ambiguous port")


def test_an_address_in_two_slices_is_one_endpoint() -> None:
    first = endpointslice("s", "10.0.0.1", "10.0.0.2", service="app")
    second = endpointslice("t", "10.0.0.2", "10.0.0.3", service="app")
    assert addresses(first, second) == ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]


def test_an_address_under_two_ports_is_two_endpoints() -> None:
    assert addresses(one("http:80"), one("http:8080")) == ["10.0.0.1:80", "10.0.0.1:8080"]


@pytest.mark.parametrize(("first", "second"), [(9, 10), (10, 9), (0, 0)])
def test_address_ready_in_one_of_two_slices_counts_as_ready(first: int, second: int) -> None:
    slices = [
        endpointslice("a", endpoint("10.0.0.1", ready=False), service="app", version=first),
        endpointslice("b", endpoint("10.0.0.1", ready=True), service="app", version=second),
    ]
    for order in (slices, slices[::-1]):
        row, _ = merge("default/app", map(pack, order), "", EndpointRules())
        assert row.endpoints == (EndpointRow("10.0.0.1", 80, True, True, False),)


@pytest.mark.parametrize("version", ["", "abc", "-1", "9" * 40, "٣"])
def test_a_non_numeric_resource_version_counts_as_none(version: str) -> None:
    item = EndpointSlice(
        key=one("").key,
        resource_version=version,
        service=one("").service,
        address_type="IPv4",
        ports=one("http:80").ports,
        endpoints=one("").endpoints,
    )
    assert addresses(item) == ["10.0.0.1:80"]


def with_ports(item: EndpointSlice, *ports: SlicePort) -> EndpointSlice:
    return msgspec.structs.replace(item, ports=ports)


GRPC, HTTP_UDP, HTTP = SlicePort("grpc", 8060), SlicePort("http", 8443, "UDP"), SlicePort("http", 8060)


@pytest.mark.fault(48)
@pytest.mark.parametrize(
    ("ports", "port", "chosen"),
    [
        ((GRPC, HTTP_UDP), "", 8060),
        ((GRPC, SlicePort("sctp", 9, "SCTP")), "", 8060),
        ((HTTP, HTTP_UDP, SlicePort("x", 1)), "", 8060),
    ],
)
def test_only_tcp_ports_are_chosen(ports: tuple[SlicePort, ...], port: str, chosen: int) -> None:
    assert addresses(with_ports(one(""), *ports), port=port) == [f"10.0.0.1:{chosen}"]


@pytest.mark.parametrize("port", ["http", "8443"])
def test_a_udp_port_is_not_used_even_if_named(port: str) -> None:
    assert problem(with_ports(one(""), GRPC, HTTP_UDP), port=port) == (
        f"port '{port}' is not a TCP port of Service default/app, which has grpc 8060, http 8443/UDP"
    )


@pytest.mark.fault(48)
def test_slices_with_different_port_names_are_not_merged() -> None:
    http, metrics = one("http:8060"), one("metrics:9100", "10.0.0.2")
    assert addresses(http, metrics) == ["10.0.0.1:8060"]
    assert problem(one("api:8060"), metrics).startswith("ambiguous port")


def test_each_slice_has_its_own_number_under_one_name() -> None:
    assert addresses(one("api:80"), one("api:8080", "10.0.0.2")) == ["10.0.0.1:80", "10.0.0.2:8080"]


@pytest.mark.fault(48)
@pytest.mark.parametrize("options", [{"port": "8060"}, {"default_port": "8060"}])
def test_a_pod_whose_slice_does_not_declare_the_number_is_left_out(options: dict[str, str]) -> None:
    declared, other, none = one("http:8060"), one("metrics:9100", "10.0.0.2"), one("", "10.0.0.3")
    assert addresses(declared, other, none, **options) == ["10.0.0.1:8060"]
    assert addresses(none, **options) == ["10.0.0.3:8060"]


def dual(family: IpFamily) -> list[str]:
    """Return two pods with both families, one with IPv6 only, and an address of each family without a pod."""
    pairs = [("10.0.0.1", "a"), ("10.0.0.2", "b"), ("10.0.0.9", "")]
    more = [("fd00::1", "a"), ("fd00::2", "b"), ("fd00::3", "c"), ("fd00::9", "")]
    v4, v6 = (
        endpointslice(name, *(endpoint(host, pod=pod) for host, pod in hosts), service="app", ports=":80")
        for name, hosts in (("v4", pairs), ("v6", more))
    )
    row, _ = merge("default/app", map(pack, [v4, v6]), "", EndpointRules(ip_family=family))
    return [each.host for each in row.endpoints]


@pytest.mark.fault(48)
@pytest.mark.parametrize(
    ("family", "hosts"),
    [
        ("ipv4", ["10.0.0.1", "10.0.0.2", "10.0.0.9", "fd00::3", "fd00::9"]),
        ("ipv6", ["10.0.0.9", "fd00::1", "fd00::2", "fd00::3", "fd00::9"]),
        ("both", ["10.0.0.1", "10.0.0.2", "10.0.0.9", "fd00::1", "fd00::2", "fd00::3", "fd00::9"]),
    ],
)
def test_a_dual_stack_pod_counts_once(family: IpFamily, hosts: list[str]) -> None:
    assert dual(family) == hosts
