"""Masking does what its documentation says: each kind is found, and what only looks like one is left alone.

The values are examples of their issuers and standards: test cards, the IBAN registry, documentation of the vendors.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.curation.document import Document
from megaphi.curation.filter.personal_data.kinds import IBAN_LENGTHS, KINDS, is_iban, luhn
from megaphi.curation.filter.personal_data.mask import PersonalData
from megaphi.curation.step import StepContext
from megaphi.errors import InputError


def mask(text: str, **settings: Any) -> tuple[str, dict[str, int]]:
    context = StepContext(folder=Path(), open_sampler=lambda name: pytest.fail(name))
    found = PersonalData(**settings).open(context)(Document(id="1", source="s", place="p", text=text))
    assert isinstance(found, Document)
    return found.text, found.metadata.get("personal_data", {})


KEY = "-----BEGIN {0}PRIVATE KEY-----\nMIIEowIBAAKCAQEA75\nkfa4Lm=\n-----END {0}PRIVATE KEY-----"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"
FOUND = {
    "private_key": [KEY.format("RSA "), KEY.format(""), KEY.format("OPENSSH ")],
    "jwt": [JWT],
    "api_key": [
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_" + "a1B2" * 9,
        "glpat-abcDEF123456_-xyz789",
        "AIza" + "SyA-1_b" * 5,
        "sk-proj-" + "aB3" * 16,
        "sk_" + "live_" + "4eC39HqLyjWDarjtT1zdp7dc",
        "xoxb-" + "123456789012-abcdefABCDEF",
        "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH",
    ],
    "email": [
        "jane.doe+news@mail.acme.co.uk",
        "o'neil_1@acme.museum",
        "x@acme.de",
        "info@xn--mnchen-3ya.de",
        "a.b@acme.xn--p1ai",
    ],
    "iban": [
        "DE89370400440532013000",
        "GB29 NWBK 6016 1331 9268 19",
        "NO93 8601 1117 947",
        "MT84MALT011000012345MTLCAST001S",
    ],
    "card": [
        "4111 1111 1111 1111",
        "5555-5555-5555-4444",
        "3782 822463 10005",
        "6011 1111 1111 1117",
        "3530-1113-3330-0000",
    ],
    "social_security": ["219-09-9999", "899-12-0001"],
    "ip_address": ["93.184.216.34", "203.0.114.7", "2606:2800:220:1:248:1893:25c8:1946", "2a00:1450:4001:81b::200e"],
    "telephone": [
        "+49 30 901820",
        "+1 (415) 555-2671",
        "+442079460958",
        "(415) 555-2671",
        "+81-3-1234-5678",
        "+33 1 23 45 67 89",
        "+33.1.23.45.67.89",
    ],
}


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in FOUND.items() for value in values])
@pytest.mark.parametrize("around", ["{}", "Write to {} today.", "({})", "<{}>,", "«{}»; or", "name: {}\nnext"])
def test_each_kind_is_found(kind: str, value: str, around: str) -> None:
    text, counts = mask(around.format(value))
    assert (text, counts) == (around.format(f"[{kind.upper()}]"), {kind: 1})


LEFT = [
    "on 2024-11-29, 29.11.2024 or 11/29/2024 at 12:34:56, from 2019-2024",
    "ISBN 978-3-16-148410-0, 0-306-40615-2, ISSN 2049-3630, 9783161484100",
    "x = 4503599627370496 + 1234567890123456 and 0x5f3759df, 18446744073709551615",
    "pi = 3.14159265358979323846264338327950288, e = 2.718281828459045",
    "E = mc^2, +1 2 3, a[4] = +12345678, x +1 - 2, (1) 2, C(10, 3) = 120, 100 000 000",
    "| 415 555 2671 | 219 09 9999 | 4111 1111 1112 | 1 000 000 000 |",
    "version 1.2.3.4, v10.15.7.200, Chrome/96.0.4664.110, section 2.3.1.4, 1.2.3.4 and 8.8.8.8",
    "release 5.10.0.125 and libc6 2.31.13.200-1",
    "10.0.0.1, 192.168.1.100, 127.0.0.1, 192.0.2.55, 203.0.113.9, 224.0.0.251, 255.255.255.255",
    "fe80::1, ::1, 2001:db8::7, std::vector, dead::beef, a::b::c, 12:34:56:78, ff:00:12:ab:cd:ef",
    "@decorator, user@host, git@github.com:acme/repo.git, jane@example.com, W@x.dot(y), a @ b.c",
    "https://user@acme.org/path, pkg:npm/@types/node@18.0.1, foo@1.2.3",
    "DE89370400440532013001, GB29 NWBK 6016 1331 9268 18, AB12 3456 7890 1234, XX89370400440532013000",
    "4111 1111 1111 1112, 4111111111111111, 1234 5678 9012 3456, 0000 0000 0000 0000",
    "000-12-3456, 666-12-3456, 912-12-3456, 123-00-4567, 123-45-0000, 1-219-09-9999, 219-09-9999-1",
    "+999 123 456 789, (12) 345-6789, 415-555-2671, 4155552671, +12, +1 2 3 4",
    "sk-learn, sk-short, ghp_short, eyJ.eyJ.abc, -----BEGIN CERTIFICATE----- MIIE -----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
    "Decimal('+35236450.6'), m=+123.456789000, +1.234567890",
    "for i in range(10): y[i] = 30.5e+10 * 2**31 + 0.0001 # 2147483647",
]


@pytest.mark.parametrize("text", LEFT)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert mask(text) == (text, {})


@pytest.mark.parametrize(
    ("text", "kind", "masked"),
    [
        ("Visa card 4111111111111111 (expired)", "card", "Visa card [CARD] (expired)"),
        ("SSN: 219 09 9999", "social_security", "SSN: [SOCIAL_SECURITY]"),
        ("IP 8.8.8.8 and", "ip_address", "IP [IP_ADDRESS] and"),
        ("http://5.9.1.77:8080/x", "ip_address", "http://[IP_ADDRESS]:8080/x"),
        ("Tel.: 030 / 901820", "telephone", "Tel.: [TELEPHONE]"),
        ("Phone number: 415 555 2671.", "telephone", "Phone number: [TELEPHONE]."),
        ("Teléfono 91 123 45 67", "telephone", "Teléfono [TELEPHONE]"),
    ],
)
def test_a_word_in_front_says_what_a_number_is(text: str, kind: str, masked: str) -> None:
    assert mask(text) == (masked, {kind: 1})


def test_settings_choose_kinds_replacement_and_private_addresses() -> None:
    text = "jane@acme.org at 192.168.1.100 and 2001:db8::7, +49 30 901820"
    assert mask(text, kinds=("email",), replacement="<{kind}>")[0] == text.replace("jane@acme.org", "<EMAIL>")
    found, counts = mask(text, private_addresses=True, replacement=r"\1")
    assert found == r"\1 at \1 and \1, \1"
    assert counts == {"email": 1, "ip_address": 2, "telephone": 1}
    with pytest.raises(InputError, match="Did you mean 'email'"):
        mask(text, kinds=("e_mail",))


def test_each_kind_has_examples() -> None:
    assert set(FOUND) == set(KINDS)


@given(st.integers(10**14, 10**15 - 1), st.integers(0, 15), st.integers(1, 9))
def test_luhn_finds_every_wrong_digit(body: int, place: int, change: int) -> None:
    right = next(f"{body}{digit}" for digit in range(10) if luhn(f"{body}{digit}"))
    wrong = list(right)
    wrong[place] = str((int(wrong[place]) + change) % 10)
    assert not luhn("".join(wrong))


@given(st.sampled_from(sorted(IBAN_LENGTHS)), st.data())
def test_iban_finds_every_wrong_digit_and_letter(country: str, data: st.DataObject) -> None:
    signs = string.digits + string.ascii_uppercase
    body = data.draw(st.text(signs, min_size=IBAN_LENGTHS[country] - 4, max_size=IBAN_LENGTHS[country] - 4))
    number = int("".join(str(int(sign, 36)) for sign in f"{body}{country}00"))
    right = f"{country}{98 - number % 97:02d}{body}"
    assert is_iban(right)
    place = data.draw(st.integers(4, len(right) - 1))
    wrong = data.draw(
        st.sampled_from([sign for sign in signs if sign != right[place] and sign.isdigit() == right[place].isdigit()])
    )
    assert not is_iban(right[:place] + wrong + right[place + 1 :])


@given(st.text(st.sampled_from(string.printable + "@:./-+é東"), max_size=300))
def test_a_text_without_personal_data_is_returned_unchanged(text: str) -> None:
    found, counts = mask(text)
    assert (found == text) == (not counts)


@pytest.mark.parametrize(
    "text", ["a." * 200_000 + "@", "1 " * 200_000, "2001:" * 100_000, "+1 " * 100_000, "A1" * 200_000 + "@"]
)
@pytest.mark.timeout(20)
def test_long_runs_take_no_quadratic_time(text: str) -> None:
    assert mask(text)[1] == {}
