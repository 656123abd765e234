"""Preference pairs: all forms render as a conversation does, errors name file and line, groups against brute force."""

from __future__ import annotations

import functools
import json
import re

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.conversation import from_plain
from megaphi.data.packed.preference_pairs import PreferencePair, group_single_tokens, read_pairs, shared_prefix
from megaphi.errors import InputError
from megaphi.tokenizer.chat_format import render_conversation
from megaphi.tokenizer.phi4 import load_tokenizer

tokenizer = functools.cache(lambda: load_tokenizer(2_048))


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def read(*paths, sequence_length=1_000, append_eos=False, max_completion_tokens=None, too_long="error", **more):
    return read_pairs(
        [str(path) for path in paths],
        tokenizer(),
        sequence_length=sequence_length,
        append_eos=append_eos,
        max_completion_tokens=max_completion_tokens,
        too_long=too_long,
        **more,
    )


def plain(pairs):
    return [(pair.prompt.tolist(), pair.chosen.tolist(), pair.rejected.tolist()) for pair in pairs]


def pair_of(prompt, chosen, rejected):
    return PreferencePair(
        prompt=np.array(prompt, np.int32),
        chosen=np.array(chosen, np.int32),
        rejected=np.array(rejected, np.int32),
    )


def said(role, content):
    return {"role": role, "content": content}


SYSTEM, USER = said("system", "Be brief."), said("user", "hi")
GOOD, BAD = said("assistant", "hello"), said("assistant", "hell no")
EARLIER = [said("user", "so?"), said("assistant", "so")]

SAME_PAIR = [
    {"messages": [USER], "accepted": "hello", "rejected": "hell no"},
    {"prompt": "hi", "chosen": "hello", "rejected": "hell no"},
    {"prompt": [USER], "chosen": "hello", "rejected": "hell no"},
    {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    {"prompt": "hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    {"prompt": [USER], "chosen": [USER, GOOD], "rejected": "hell no", "messages": None},
    {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    {"chosen": [USER, GOOD], "rejected": [USER, BAD], "prompt": "hi"},
    {"conversations": [{"from": "human", "value": "hi"}], "chosen": {"from": "gpt", "value": "hello"}, "rejected": BAD},
]


def test_all_forms_of_a_pair_are_one_pair_rendered_as_a_conversation(tmp_path):
    pairs, report = read(write_lines(tmp_path / "a.jsonl", SAME_PAIR))
    assert len({pair.content_hash for pair in pairs}) == 1
    assert {ids.dtype for pair in pairs for ids in (pair.prompt, pair.chosen, pair.rejected)} == {np.dtype(np.int32)}
    (prompt, chosen, rejected) = plain(pairs)[0]
    assert tokenizer().decode(prompt) == "<|im_start|>user<|im_sep|>hi<|im_end|><|im_start|>assistant<|im_sep|>"
    assert tokenizer().decode(chosen) == "hello<|im_end|>"
    assert prompt + chosen == render_conversation(from_plain([USER, GOOD]), tokenizer()).ids
    assert prompt + rejected == render_conversation(from_plain([USER, BAD]), tokenizer()).ids
    assert report.lines() == ["9 records read, 9 kept"]


def test_turns_that_both_sides_add_to_the_prompt_belong_to_it(tmp_path):
    records = [
        {"messages": [SYSTEM, *EARLIER, USER], "accepted": "hello", "rejected": "hell no"},
        {"prompt": [SYSTEM], "chosen": [*EARLIER, USER, GOOD], "rejected": [*EARLIER, USER, BAD]},
        {"prompt": [SYSTEM], "chosen": [SYSTEM, *EARLIER, USER, GOOD], "rejected": [*EARLIER, USER, BAD]},
        {"prompt": "hi", "chosen": [SYSTEM, *EARLIER, USER, GOOD], "rejected": [SYSTEM, *EARLIER, USER, BAD]},
        {"chosen": [SYSTEM, *EARLIER, USER, GOOD], "rejected": [SYSTEM, *EARLIER, USER, BAD], "score": 1},
        {"system": "Be brief.", "chosen": [*EARLIER, USER, GOOD], "rejected": [*EARLIER, USER, BAD]},
    ]
    pairs, _ = read(write_lines(tmp_path / "a.jsonl", records))
    assert len({pair.content_hash for pair in pairs}) == 1
    whole = render_conversation(from_plain([SYSTEM, *EARLIER, USER, GOOD]), tokenizer()).ids
    assert [*pairs[0].prompt, *pairs[0].chosen] == whole


@pytest.mark.parametrize("append_eos", [False, True])
def test_token_ids_stand_as_they_are_unless_an_end_is_asked_for(tmp_path, append_eos):
    ids = {"prompt": [1, 2], "accepted": [3], "rejected": [4, 5]}
    records = [ids, {**ids, "append_eos": True}, {**ids, "append_eos": False}]
    end = [tokenizer().message_end]
    with_end, without = ([1, 2], [3, *end], [4, 5, *end]), ([1, 2], [3], [4, 5])
    pairs, _ = read(write_lines(tmp_path / "a.jsonl", records), append_eos=append_eos)
    assert plain(pairs) == [with_end if append_eos else without, with_end, without]


def test_parquet_equals_json_lines(tmp_path):
    messages = pyarrow.list_(pyarrow.struct({"role": pyarrow.string(), "content": pyarrow.string()}))
    schema = pyarrow.schema({"prompt": messages, "chosen": messages, "rejected": messages})
    records = [{"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}] * 3
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records, schema=schema), tmp_path / "a.parquet")
    assert plain(read(tmp_path / "a.parquet")[0]) == plain(read(write_lines(tmp_path / "a.jsonl", records))[0])
    ids = {"prompt": [[1, 2]], "accepted": [[3]], "rejected": [[3]]}
    pyarrow.parquet.write_table(pyarrow.table(ids), tmp_path / "ids.parquet")
    with pytest.raises(InputError, match=r"ids\.parquet: row 1: the chosen and the rejected side are the same"):
        read(tmp_path / "ids.parquet")


def test_both_sides_are_cut_and_what_is_then_equal_is_counted(tmp_path):
    records = [
        {"prompt": [1], "accepted": [2, 3, 4], "rejected": [2, 3]},
        {"prompt": [1], "accepted": [2, 3, 4, 5], "rejected": [2, 3, 4]},
        {"prompt": [1], "accepted": [5, 6, 7], "rejected": [2, 3, 4]},
    ]
    path = write_lines(tmp_path / "a.jsonl", records)
    end = tokenizer().message_end
    pairs, report = read(path, max_completion_tokens=3, append_eos=True)
    assert plain(pairs) == [([1], [2, 3, 4], [2, 3, end]), ([1], [5, 6, 7], [2, 3, 4])]
    assert report.lines() == [
        "3 records read, 2 kept",
        f"1 left out: both sides begin with the same max_completion_tokens=3 (first: {path}:2)",
    ]
    assert plain(read(path, max_completion_tokens=1)[0]) == [([1], [5], [2])]
    with pytest.raises(InputError, match="max_completion_tokens=0: must be at least 1"):
        read(path, max_completion_tokens=0)


def test_a_pair_needs_room_for_its_prompt_once_and_both_sides(tmp_path):
    path = write_lines(
        tmp_path / "a.jsonl",
        [
            {"prompt": [1, 2], "accepted": [2, 3], "rejected": [2]},
            {"prompt": [1, 2, 3], "accepted": [2, 3], "rejected": [2]},
        ],
    )
    assert [pair.tokens for pair in read(path, sequence_length=6)[0]] == [5, 6]
    pairs, report = read(path, sequence_length=5, too_long="skip")
    assert len(pairs) == 1
    assert report.lines()[1] == f"1 left out: longer than the sequence length of 5 tokens (first: {path}:2)"
    with pytest.raises(InputError, match=r"a\.jsonl:2: 6 tokens do not fit into a sequence length of 5"):
        read(path, sequence_length=5)


WRONG = [
    ("{", "not a JSON record"),
    ({"prompt": "x", "chosn": "y", "rejected": "z"}, r"unknown key 'chosn'\. Did you mean 'chosen'\?"),
    ({"prompt": "x", "chosen": "y"}, "a record with 'prompt', 'chosen' cannot be understood"),
    ({"messages": [USER], "accepted": "y", "rejected": "z", "append_eos": True}, "append_eos is ambiguous"),
    ({"prompt": "x", "chosen": "y", "rejected": "z", "accepted": "w"}, "is ambiguous: leave one of them out"),
    ({"chosen": "y", "rejected": "z"}, "are texts, and there is no 'prompt': what was asked is not known"),
    ({"chosen": [GOOD], "rejected": [BAD]}, "no message comes before the answers"),
    ({"chosen": [USER, GOOD], "rejected": [USER, BAD, USER, BAD]}, "must differ in their last message only"),
    ({"chosen": [USER, GOOD], "rejected": [USER, BAD], "tools": [{}]}, "the column 'tools' would change what is said"),
    ({"prompt": "x", "accepted": [1], "rejected": [2]}, "'prompt' must be a list of token ids, not text"),
    ({"prompt": [], "accepted": [1], "rejected": [2]}, "'prompt' is empty"),
    ({"prompt": [1], "accepted": [], "rejected": [2]}, "'accepted' is empty"),
    ({"prompt": [1], "accepted": [1], "rejected": [2_048]}, "'rejected' holds 2048 at position 0, which is outside"),
    ({"prompt": [1], "accepted": [1], "rejected": [1]}, "chosen and the rejected side are the same"),
    ({"prompt": [1], "accepted": [1], "rejected": [2], "append_eos": 1}, "'append_eos' must be true or false, not a"),
    ({"messages": [USER], "accepted": "y", "rejected": "y"}, "chosen and the rejected side are the same"),
    ({"messages": [USER], "accepted": "y", "rejected": " "}, "the rejected answer is empty"),
    ({"messages": [USER], "accepted": ["y"], "rejected": "z"}, "'accepted' must be a text, not a list"),
    ({"messages": [USER, GOOD], "accepted": "y", "rejected": "z"}, "messages 2 and 3 are both the assistant's"),
    ({"messages": [], "accepted": "y", "rejected": "z"}, "at least one message"),
    ({"prompt": 3, "chosen": "y", "rejected": "z"}, "'prompt' must be a text or a list of messages, not a number"),
    ({"prompt": "hi", "chosen": [USER], "rejected": "z"}, "'chosen' must end with a message of the assistant"),
    ({"prompt": "hi", "chosen": "y", "rejected": [BAD, USER]}, "'rejected' must end with a message of the assistant"),
    ({"prompt": "hi", "chosen": [{"role": "bot"}], "rejected": "z"}, "'chosen': message 1 has no 'content'"),
    ({"prompt": "so?", "chosen": [*EARLIER, USER, GOOD], "rejected": [BAD]}, "must differ in their last message only"),
    ({"prompt": "eh", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, "messages 1 and 2 are both the user's"),
]


@pytest.mark.parametrize(("record", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_an_error_names_file_and_line(tmp_path, record, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        json.dumps(SAME_PAIR[0]) + "\n" + (record if isinstance(record, str) else json.dumps(record)) + "\n"
    )
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}:2: .*{message}"):
        read(path)


def test_an_empty_file_is_an_error(tmp_path):
    (tmp_path / "pairs.jsonl").touch()
    with pytest.raises(InputError, match=r"pairs\.jsonl is empty"):
        read(tmp_path / "pairs.jsonl")


def test_the_hash_tells_where_each_list_ends():
    same = {pair_of([1, 2], [3], [4]).content_hash, pair_of([1, 2], [3], [4]).content_hash}
    others = {pair_of(*lists).content_hash for lists in ([[1], [2, 3], [4]], [[1, 2], [3, 4], [5]], [[1, 2], [4], [3]])}
    assert len(same) == 1
    assert len(same | others) == 4


IDS = st.lists(st.integers(0, 2), min_size=1, max_size=6)


@given(IDS, IDS, IDS)
def test_shared_prefix_is_the_longest_common_beginning(prompt, chosen, rejected):
    common = 0
    while chosen[: common + 1] == rejected[: common + 1] and common < min(len(chosen), len(rejected)):
        common += 1
    assert shared_prefix(pair_of(prompt, chosen, rejected)) == common


PROMPTS = st.lists(st.sampled_from([0, 1, 255, 256, 65_536]), min_size=1, max_size=5)


def fewest_groups(prompts):
    """As many as there are prompts that begin no other one."""
    distinct = {tuple(prompt) for prompt in prompts}
    return sum(all(other[: len(one)] != one for other in distinct - {one}) for one in distinct)


@given(st.lists(st.tuples(PROMPTS, st.booleans()), max_size=40))
@settings(max_examples=300)
def test_groups_hold_every_single_token_pair_once_and_are_the_fewest(cases):
    """Every fifth prompt goes on from the one before it, as the prompts of pivotal tokens do."""
    prompts = [prompt for prompt, _ in cases]
    for place in range(1, len(prompts), 2):
        prompts[place] = prompts[place - 1] + prompts[place]
    pairs = [
        pair_of(prompt, [number], [number + 1] if single else [7, 8])
        for number, (prompt, (_, single)) in enumerate(zip(prompts, cases, strict=True))
    ]
    singles = [number for number, (_, single) in enumerate(cases) if single]
    groups = group_single_tokens(pairs)
    assert sorted(member for group in groups for member in group.members.tolist()) == singles
    assert len(groups) == fewest_groups([prompts[number] for number in singles])
    assert [min(group.members) for group in groups] == sorted(min(group.members) for group in groups)
    for group in groups:
        assert group.places.tolist() == sorted(group.places.tolist())
        assert len(group.tokens) == group.places[-1] + 1
        for place, chosen, rejected, member in zip(
            group.places, group.chosen, group.rejected, group.members.tolist(), strict=True
        ):
            assert group.tokens[: place + 1].tolist() == prompts[member]
            assert ([chosen], [rejected]) == (pairs[member].chosen.tolist(), pairs[member].rejected.tolist())


def test_a_text_and_its_pivotal_tokens():
    text = [5, 6, 7, 8, 9]
    pairs = [
        pair_of(text[:3], [8], [1]),
        pair_of([5, 9], [1], [2]),
        pair_of(text, [3], [4]),
        pair_of(text[:3], [8, 9], [1]),
        pair_of(text[:3], [8], [2]),
    ]
    first, second = group_single_tokens(pairs)
    assert (first.tokens.tolist(), first.places.tolist(), first.members.tolist()) == (text, [2, 2, 4], [0, 4, 2])
    assert (first.chosen.tolist(), first.rejected.tolist()) == ([8, 8, 3], [1, 2, 4])
    assert (second.tokens.tolist(), second.members.tolist()) == ([5, 9], [1])
