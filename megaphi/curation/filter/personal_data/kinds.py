"""The kinds of personal data that are found: a pattern each, and a check that the pattern alone cannot make.

A number is only taken where its own check digits hold (cards, IBAN), where the rules of its issuer allow it (US social
security), or where it is written as such numbers are (telephone: with a plus, an area code in parentheses, or a word
in front). What has no check and no mark of its own, as a bare run of ten digits, is left: dates, ISBNs, tables and
constants look the same. Names, addresses of houses and user names are not found at all.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DataKind:
    """One kind of personal data."""

    pattern: re.Pattern[str]
    """Its group `value`, where it has one and that matches, is the datum; else all of it."""
    hint: re.Pattern[str]
    """Something cheap that every text with this kind has: most texts are done with it."""
    holds: Callable[[str, str], bool] = lambda value, before: True
    """Says if a match is one, from its text and the 80 characters before it: check digits, ranges, words."""


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def luhn(text: str) -> bool:
    """True if the last digit is the check digit of the others (ISO/IEC 7812-1, annex B); signs between are skipped."""
    digits = [int(digit) for digit in reversed(_digits(text))]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


CARD_LENGTHS: Mapping[str, tuple[int, ...]] = {
    "4": (16, 19),  # Visa
    **{str(prefix): (16,) for prefix in (*range(51, 56), *range(2221, 2721))},  # Mastercard
    "34": (15,),  # American Express
    "37": (15,),
    **{str(prefix): (14,) for prefix in (*range(300, 306), 36, 38, 39)},  # Diners Club
    "6011": (16,),  # Discover
    "65": (16,),
    **{str(prefix): (16,) for prefix in range(644, 650)},
    **{str(prefix): (16,) for prefix in range(3528, 3590)},  # JCB
    "62": (16, 17, 18, 19),  # UnionPay
}
"""First digits of an issuer -> how long its numbers are."""


_CARD_WORD = re.compile(
    r"card|visa|amex|kredit|karte|carte|tarjeta|cart[aã]o|\bcc\b|\bpan\b|カード|कार्ड", re.IGNORECASE
)


def is_card(value: str, before: str = "card") -> bool:
    """Issuer, length and check digit hold; digits without spaces need a word for a card in front."""
    digits = _digits(value)
    known = any(len(digits) in CARD_LENGTHS.get(digits[:size], ()) for size in (1, 2, 3, 4))
    grouped = digits != value or _CARD_WORD.search(before) is not None
    return known and grouped and len(set(digits)) > 1 and luhn(digits)


IBAN_LENGTHS: Mapping[str, int] = {
    name: int(length)
    for name, length in (
        entry.split(":")
        for entry in """
        AD:24 AE:23 AL:28 AT:20 AZ:28 BA:20 BE:16 BG:22 BH:22 BI:27 BR:29 BY:28 CH:21 CR:22 CY:28
        CZ:24 DE:22 DJ:27 DK:18 DO:28 EE:20 EG:29 ES:24 FI:18 FK:18 FO:18 FR:27 GB:22 GE:22 GI:23
        GL:18 GR:27 GT:28 HR:21 HU:28 IE:22 IL:23 IQ:23 IS:26 IT:27 JO:30 KW:30 KZ:20 LB:28 LC:32
        LI:21 LT:20 LU:20 LV:21 LY:25 MC:27 MD:24 ME:22 MK:19 MN:20 MR:27 MT:31 MU:30 NI:28 NL:18
        NO:15 OM:23 PK:24 PL:28 PS:29 PT:25 QA:29 RO:24 RS:22 RU:33 SA:24 SC:31 SD:18 SE:24 SI:19
        SK:24 SM:27 SO:23 ST:25 SV:28 TL:23 TN:24 TR:26 UA:29 VA:22 VG:24 XK:20""".split()
    )
}
"""Country -> characters of its IBAN, from SWIFT's registry."""


def is_iban(value: str, before: str = "") -> bool:
    """True if length and check digits hold (ISO 13616: modulo 97)."""
    plain = value.replace(" ", "")
    if len(plain) != IBAN_LENGTHS.get(plain[:2]):
        return False
    return int("".join(str(int(sign, 36)) for sign in plain[4:] + plain[:4])) % 97 == 1


_SOCIAL_SECURITY_WORD = re.compile(r"\bssn\b|social security", re.IGNORECASE)


def is_social_security(value: str, before: str = "") -> bool:
    """True if the US administration gives out such numbers (none of area 000, 666 and 9xx, group 00, serial 0000); with
    spaces, as in a table, only where a word says what it is.
    """
    area, group, serial = re.split("[- ]", value)
    given_out = area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"
    return given_out and ("-" in value or _SOCIAL_SECURITY_WORD.search(before) is not None)


_ADDRESS_WORD = re.compile(
    r"(?:\bip|\bipv4|address(?:es)?|host|server|adresse|direcci[oó]n|://|@)\W{0,3}(?:(?:is|was|=) ?)?$", re.I
)
_VERSION_WORD = re.compile(
    r"(?:\bv|version|versions|release|revision|build|section|chapter|kapitel|§)\.?\W{0,2}$", re.I
)
_IPV6 = [ipaddress.ip_network(network) for network in ("2000::/3", "fc00::/7", "fe80::/10")]


def is_address(value: str, before: str = "") -> bool:
    """True for an address of the internet protocol, false for the number of a version or section.

    Of IPv4 one of the four must have three digits, or a word for an address stands in front; IPv6 must be of a range
    that is in use (`dead::beef` is a name in C++).
    """
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    if address.version == 6:
        return any(address in network for network in _IPV6)
    if _VERSION_WORD.search(before):
        return False
    return max(address.packed) >= 100 or _ADDRESS_WORD.search(before) is not None


def is_global_address(value: str, before: str = "") -> bool:
    """An address that somebody can have: not private, local, of documentation, multicast or reserved."""
    if not is_address(value, before):
        return False
    address = ipaddress.ip_address(value)
    return address.is_global and not address.is_multicast


CALLING_CODES = frozenset(
    """
    1 7 20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66 81
    82 84 86 90 91 92 93 94 95 98 211 212 213 216 218 220 221 222 223 224 225 226 227 228 229 230 231 232 233
    234 235 236 237 238 239 240 241 242 243 244 245 246 248 249 250 251 252 253 254 255 256 257 258 260 261
    262 263 264 265 266 267 268 269 290 291 297 298 299 350 351 352 353 354 355 356 357 358 359 370 371 372
    373 374 375 376 377 378 380 381 382 383 385 386 387 389 420 421 423 500 501 502 503 504 505 506 507 508
    509 590 591 592 593 594 595 596 597 598 599 670 672 673 674 675 676 677 678 679 680 681 682 683 685 686
    687 688 689 690 691 692 800 808 850 852 853 855 856 880 886 960 961 962 963 964 965 966 967 968 970 971
    972 973 974 975 976 977 979 992 993 994 995 996 998""".split()
)
"""Country codes of ITU-T E.164."""


def is_telephone(value: str, before: str = "") -> bool:
    """A number with a plus has a country's code and 8 to 15 digits, in one piece 11 at least; others have 7 to 15."""
    digits = _digits(value)
    if not value.startswith("+"):
        return 7 <= len(digits) <= 15
    known = any(digits[:size] in CALLING_CODES for size in (1, 2, 3))
    if "." in value and (value.count(".") < 2 or max(map(len, value[1:].split("."))) > 4):  # a number with decimals
        return False
    return known and (11 if value[1:].isdigit() else 8) <= len(digits) <= 15


_RESERVED = re.compile(r"[@.]example(?:\.(?:com|org|net|edu))?$|\.(?:test|invalid|localhost|local)$", re.IGNORECASE)


def is_email(value: str, before: str = "") -> bool:
    """An address that somebody can have: not of a domain for documentation (RFC 2606)."""
    return ".." not in value and _RESERVED.search(value) is None


_SIGN = r"[A-Za-z0-9]"
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_PHONE_WORD = (
    r"\b(?:tel|tele?phone|telefone?|tel[ée]fono|t[ée]l(?:[ée]phone)?|phone|fax|telefax|mobile|mobil|cell|handy"
    r"|m[óo]vil|celular|cellulare)"
)
KINDS: Mapping[str, DataKind] = {
    "private_key": DataKind(
        re.compile(
            r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----.{1,20000}?"
            r"-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----",
            re.DOTALL,
        ),
        re.compile("PRIVATE KEY"),
    ),
    "jwt": DataKind(
        re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"), re.compile(r"\beyJ")
    ),
    "api_key": DataKind(
        re.compile(
            r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"  # AWS
            r"|\bgh[pousr]_[A-Za-z0-9]{36,251}\b|\bgithub_pat_[A-Za-z0-9_]{60,90}\b"
            r"|\bglpat-[A-Za-z0-9_-]{20,}"  # GitLab
            r"|\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"  # Google
            r"|\bsk-ant-[A-Za-z0-9_-]{32,}|\bsk-(?:proj-)?[A-Za-z0-9_-]{32,}"
            r"|\b[rs]k_live_[A-Za-z0-9]{20,}"  # Stripe
            r"|\bxox[abprs]-[A-Za-z0-9-]{20,}"  # Slack
            r"|\bhf_[A-Za-z]{34}\b|\bnpm_[A-Za-z0-9]{36}\b|\bpypi-[A-Za-z0-9_-]{80,}"
            r"|\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"  # SendGrid
        ),
        re.compile(r"AKIA|ASIA|gh[pousr]_|github_pat_|glpat-|AIza|\bsk-|k_live_|xox|\bhf_|npm_|pypi-|SG\."),
    ),
    "email": DataKind(
        re.compile(
            rf"(?<![\w.+/:@-]){_SIGN}(?:[\w.+'-]{{0,62}}\w)?@(?:{_SIGN}(?:[A-Za-z0-9-]{{0,61}}{_SIGN})?\.){{1,8}}"
            r"(?:[A-Za-z]{2,24}|xn--[A-Za-z0-9-]{2,59})(?![\w@(/-])(?![.:]\w)"
        ),
        re.compile("@"),
        is_email,
    ),
    "iban": DataKind(
        re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
        re.compile(r"\b[A-Z]{2}\d\d"),
        is_iban,
    ),
    "card": DataKind(
        re.compile(
            r"(?<![\w.,+/-])(?:\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|3\d{3}([ -])\d{6}\2\d{4,5}|\d{14,19})"
            r"(?![\w/-])(?![.,]\d)(?![ -]\d)"
        ),
        re.compile(r"\d{4}"),
        is_card,
    ),
    "social_security": DataKind(
        re.compile(r"(?<![\w.+/-])(?<!\d )\d{3}([- ])\d{2}\1\d{4}(?![\w/-])(?![.,]\d)(?! \d)"),
        re.compile(r"\d{3}[- ]\d\d[- ]\d{4}"),
        is_social_security,
    ),
    "ip_address": DataKind(
        re.compile(
            rf"(?<![\w.:-])(?<![^/]/)(?:{_OCTET}\.){{3}}{_OCTET}(?![\w-])(?!\.\d)"
            r"|(?<![\w:.])[0-9A-Fa-f]{4}:[0-9A-Fa-f:]{2,34}(?!\w|[.:][\w:])"
        ),
        re.compile(r"\d\.\d{1,3}\.\d{1,3}\.\d|[0-9A-Fa-f]{4}:[0-9A-Fa-f:]"),
        is_global_address,
    ),
    "telephone": DataKind(
        re.compile(
            r"(?<![\w.+/-])\+[1-9]\d{0,2}(?:[ .-]?\(\d{1,4}\))?(?:[ .-]?\d{1,14}){1,6}(?![\w/-])(?![.,]\d)"
            r"|(?<![\w.+/)-])\(\d{3}\) ?\d{3}[ .-]\d{4}(?![\w/-])"
            rf"|(?i:{_PHONE_WORD})\b[.:]{{0,2}} ?(?:(?i:no|number|nr|nummer)[.:]?)? {{0,3}}"
            r"(?P<value>\+?\(?\d[\d ()./-]{5,20}\d)(?![\w/-])(?![.,]\d)"
        ),
        re.compile(rf"\+[1-9]|\(\d{{3}}\)|(?i:{_PHONE_WORD})\b[^\n]{{0,14}}\d"),
        is_telephone,
    ),
}
"""In the order in which they are looked for: a key holds what looks like numbers."""
