"""Addresses and networks: the same one in any spelling is the same one, and nothing else is."""

import pytest

from wampkit.networks import Networks, read_address

from .support.tables import rows

V4, OTHER_V4, LOCAL_V4 = "10.1.2.3", "10.2.0.1", "127.0.0.1"
V6, OTHER_V6, LINK, LOCAL_V6, MANY = "2001:db8::1", "2001:db8:1::1", "fe80::1", "::1", "64:ff9b::a01:203"

SPELLINGS: dict[str, str | None] = {
    # spelling: what it means, None if it is no address
    "10.1.2.3": V4,
    "::ffff:10.1.2.3": V4,
    "::FFFF:10.1.2.3": V4,
    "::ffff:a01:203": V4,
    "0:0:0:0:0:ffff:10.1.2.3": V4,
    "0000:0000:0000:0000:0000:ffff:0a01:0203": V4,
    "::ffff:10.1.2.3%eth0": V4,
    "10.2.0.1": OTHER_V4,
    "::ffff:10.2.0.1": OTHER_V4,
    "127.0.0.1": LOCAL_V4,
    "::ffff:127.0.0.1": LOCAL_V4,
    "2001:db8::1": V6,
    "2001:DB8::1": V6,
    "2001:0db8:0000:0000:0000:0000:0000:0001": V6,
    "2001:db8:0:0::1": V6,
    "2001:db8:1::1": OTHER_V6,
    "fe80::1": LINK,
    "fe80::1%eth0": LINK,
    "fe80::1%1": LINK,
    "::1": LOCAL_V6,
    "0:0:0:0:0:0:0:1": LOCAL_V6,
    "64:ff9b::10.1.2.3": MANY,
    "unix": "unix",
    "": None,
    "10.1.2": None,
    "10.1.515": None,
    "167838211": None,
    "0x0a010203": None,
    "010.001.002.003": None,
    "10.1.2.3.": None,
    "10.1.2.3 ": None,
    " 10.1.2.3": None,
    "10.1.2.3:80": None,
    "10.1.2.3%eth0": None,
    "[2001:db8::1]": None,
    "10.1.2.3/32": None,
    "\uff12.1.2.3": None,
    "10.1.2.256": None,
    "fe80::1%": None,
    "unknown": None,
    "example.com": None,
}

RULES: dict[str, set[str]] = {
    # rule: whom it holds of those above
    "10.1.2.3": {V4},
    "10.1.2.3/32": {V4},
    "::ffff:10.1.2.3": {V4},
    "::ffff:10.0.0.0/104": {V4, OTHER_V4},
    "10.0.0.0/8": {V4, OTHER_V4},
    "10.0.0.9/8": {V4, OTHER_V4},
    "10.0.0.0/255.255.0.0": set(),
    "10.1.2.0/24": {V4},
    "0.0.0.0/0": {V4, OTHER_V4, LOCAL_V4},
    "::ffff:0:0/96": {V4, OTHER_V4, LOCAL_V4},
    "::/0": {V6, OTHER_V6, LINK, LOCAL_V6, MANY},
    "2001:db8::/32": {V6, OTHER_V6},
    "2001:DB8:0::/48": {V6},
    "2001:db8::1": {V6},
    "fe80::1%eth7": {LINK},
    "fe80::/10": {LINK},
    "127.0.0.0/8": {LOCAL_V4},
    "::1": {LOCAL_V6},
    "64:ff9b::/96": {MANY},
    "unix": {"unix"},
}


@rows("rule", RULES)
@rows("spelling", [spelling for spelling, meaning in SPELLINGS.items() if meaning is not None])
def test_a_rule_holds_an_address_in_any_spelling(rule: str, spelling: str) -> None:
    """Whether a rule holds an address depends on what the address is, and never on how it is written."""
    address = None if spelling == "unix" else read_address(spelling)
    found = Networks([rule]).find(address)
    assert (found is not None) == (SPELLINGS[spelling] in RULES[rule])


@rows("spelling", [spelling for spelling, meaning in SPELLINGS.items() if meaning is None])
def test_what_is_no_address_is_not_read(spelling: str) -> None:
    """Odd spellings, which other readers take for addresses, are none."""
    with pytest.raises(ValueError, match="address"):
        read_address(spelling)


@rows("rule", ["10.0.0.0/33", "example.com", "", "10.0.0", "/8", "10.0.0.0/", "Unix", "::/129", "10.0.0.0/8/8", "*"])
def test_what_is_no_network_is_no_rule(rule: str) -> None:
    """A rule that cannot be read is refused, and those beside it are not taken either."""
    networks = Networks(["10.0.0.1"])
    with pytest.raises(ValueError, match="network|address"):
        networks.add("10.0.0.2", rule)
    assert list(networks) == ["10.0.0.1"]


def test_a_list_in_the_place_of_a_network_is_refused() -> None:
    """What is no text is refused with an example."""
    with pytest.raises(ValueError, match="unix"):
        Networks([["10.0.0.0/8"]])  # type: ignore[list-item]


def test_the_widest_entry_is_named() -> None:
    """What is found is named as the rule says it, in its normal form."""
    networks = Networks(["10.1.2.3", "::ffff:10.0.0.0/104", "unix"])
    assert networks.find(read_address("::ffff:10.1.2.3")) == "10.0.0.0/8"
    assert networks.find(None) == "unix"
    assert networks.find(read_address("11.0.0.1")) is None
    assert list(networks) == ["10.0.0.0/8", "10.1.2.3", "unix"]


def test_what_is_removed_is_held_no_longer() -> None:
    """Removing takes out what was added, in any spelling, and nothing beside it; what is not there is ignored."""
    networks = Networks(["10.0.0.0/8", "10.1.2.3", "2001:db8::1", "unix"])
    networks.remove("10.0.0.0/8", "2001:DB8:0::1", "unix", "192.0.2.1")
    assert list(networks) == ["10.1.2.3"]


def test_what_stays_in_a_wider_network_cannot_be_removed() -> None:
    """Taking an address out of a network that holds it is refused, since it would go on to be held."""
    networks = Networks(["10.0.0.0/8", "10.1.2.3"])
    for text in ("10.1.2.3", "10.9.0.0/16"):
        with pytest.raises(ValueError, match=r"lies in 10\.0\.0\.0/8"):
            networks.remove(text)
    assert list(networks) == ["10.0.0.0/8", "10.1.2.3"]
