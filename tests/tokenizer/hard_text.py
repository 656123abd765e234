"""Text on which tokenizers come apart, as a hypothesis strategy: fragments of many kinds, joined in any order.

Each kind aims at one place where two engines may disagree: the classes of characters (every plane, assigned or not),
case-insensitive contractions, runs of white space and of digits, line ends, long words, canonical forms, sequences that
only look like one character, merges of real words, and text that spells a special token or nearly does.
"""

from __future__ import annotations

import functools
import unicodedata

from hypothesis import strategies as st

from megaphi.tokenizer.rank_file import read_ranks
from megaphi.tokenizer.special_tokens import special_token_ids

CONTRACTIONS = (*"s t re ve m ll d S RE Ll ſ ſt K İ ı ß st".split(), "\u212a", "\ufb05")
"""Texts after an apostrophe: contractions in both cases, and letters whose other case is another letter."""
SPACES = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000" + "\u180e\u200b\u2060\ufeff\x1c\x1f"
"""All kinds of white space, then characters that some engines take for it."""
DIGITS = "0179٠٩۵०๗໓１²½ⅷⅯ一〇𝟗𐒠🄀"
SEQUENCES = (
    *"👩‍👩‍👧‍👦 🏳️‍🌈 🇨🇭🇯 👍🏽 1️⃣ ❤️ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𓀀𓁐 ǅ ﬀ שָׁלוֹם مرحبا، สวัสดีชาวโลก ປະເທດລາວ नमस्ते தமிழ் བཀྲ་ཤིས། ខ្មែរ မြန်မာ".split(),
    *"漢字かな交じり文。 𠮷野家 한국어 I'M o'clock it’s ''s ' \" #!/ -> :// \\n".split(),
    *(
        "e\u0301\u0327\u0323",
        "\u202eabc\u202c",
        "\u1112\u1161\u11ab",
        "\xc5",
        "\u212b",
        "\ufdfa",
        "\U000e0067\U000e007f",
    ),
    *("\x00", "\x00\x00", "\x1b[0m", "\x7f", "\r\n", "\r", "\n", "\r\n\r\n", "\n\r", "\ufffd", "\ufffe", "\U0010ffff"),
    "rock 'n' roll",
)
CASES = (str, str.upper, str.title, str.swapcase)


@functools.cache
def vocabulary() -> list[str]:
    """Every token that is text by itself."""
    decoded = ((token, token.decode(errors="ignore")) for token in read_ranks())
    return [text for token, text in decoded if text.encode() == token]


def spells_special() -> st.SearchStrategy[str]:
    """A special token as text, whole, cut or doubled."""
    names = st.sampled_from([*special_token_ids(), "<|dummy_88|>", "<|IM_END|>", "<|im_end |>", "<|endoftext|"])
    return st.one_of(names, names.map(lambda name: name[:-1]), names.map(lambda name: name[:2] + name))


def ordinary_fragment() -> st.SearchStrategy[str]:
    """Anything but special tokens."""
    characters = st.characters(exclude_categories=["Cs"])
    code_points = st.integers(0, 0x10FFFF).filter(lambda code: not 0xD800 <= code < 0xE000).map(chr)
    words = st.builds(lambda word, case: case(word), st.sampled_from(vocabulary()), st.sampled_from(CASES))
    return st.one_of(
        st.text(characters, max_size=8),
        st.lists(code_points, max_size=4).map("".join),
        st.builds("{}{}{}".format, st.sampled_from(["'", "’", "`", " '"]), st.sampled_from(CONTRACTIONS), characters),
        st.text(st.sampled_from(SPACES), min_size=1, max_size=12),
        st.builds(str.__mul__, st.sampled_from(SPACES), st.integers(1, 300)),
        st.text(st.sampled_from(DIGITS), min_size=1, max_size=12),
        st.builds(str.__mul__, characters, st.integers(1, 600)),
        st.builds(unicodedata.normalize, st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]), st.text(max_size=8)),
        st.sampled_from(SEQUENCES),
        words,
        st.lists(words, max_size=6).map("".join),
    )


def hard_text(*, with_special: bool = True) -> st.SearchStrategy[str]:
    """Up to eight fragments."""
    fragment = ordinary_fragment()
    if with_special:
        fragment = st.one_of(fragment, fragment, fragment, spells_special())
    return st.lists(fragment, max_size=8).map("".join)
