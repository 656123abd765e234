"""Templates of strangers that would take all time or memory: each is one message, soon, and in little memory.

That published templates render as in transformers is tested where their tokenizers are (test_json_tokenizer.py).
"""

from __future__ import annotations

import resource
import time

import pytest

from megaphi.errors import InputError
from megaphi.tokenizer.chat_template import ChatTemplate
from megaphi.tokenizer.template_environment import LONGEST_SOURCE

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]
BIG = "{% set big = 'a' * 10000000 %}"
GROW = "{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x }}"


def grow(start: str, step: str) -> str:
    return GROW.replace("START", start).replace("STEP", step)


BOMBS = {
    "a long loop": "{% for a in range(10**9) %}{{ a }}{% endfor %}",
    "loops in loops": "".join(f"{{% for {name} in range(99999) %}}" for name in "abc") + "{% endfor %}" * 3,
    "a loop over letters": "{% for i in range(99999) %}{% for c in 'a' * 99999 %}{% endfor %}{% endfor %}",
    "a text times a number": "{{ 'a' * 10**10 }}",
    "a list times a number": "{{ [0] * 2**33 }}",
    "a power": "{{ 9 ** 9 ** 3 }}{{ (10 ** 900) ** 900 }}",
    "a width": "{{ '%1000000000d' % 1 }}",
    "a width as an argument": "{{ '%*d' % (1000000000, 1) }}",
    "a width of format": "{{ '{:>1000000000}'.format('a') }}",
    "a width within format": "{{ '{0:{1}}'.format('a', 1000000000) }}",
    "a filter's format": "{{ '%(a)1000000000d'|format(a=1) }}",
    "center": "{{ 'a'.center(1000000000) }}",
    "zfill": "{{ 'a'.zfill(1000000000) }}",
    "expandtabs": "{{ ('\\t' * 1000000).expandtabs(1000000) }}",
    "indent": "{{ ('a\\n' * 1000)|indent(1000000) }}",
    "tojson": "{{ messages|tojson(indent=100000000) }}",
    "batch": "{{ [1]|batch(1000000000, 0)|list }}",
    "replace": "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "the filter replace": "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}",
    "join": BIG + "{{ big.join(['a'] * 100000) }}",
    "join of one text": BIG + "{{ ([big] * 100000)|join }}",
    "doubling by ~": grow("'ab'", "ns.x ~ ns.x"),
    "doubling by +": grow("'ab'", "ns.x + ns.x"),
    "doubling a list": grow("[1]", "ns.x + ns.x"),
    "lists within lists": grow("[1]", "[ns.x, ns.x]"),
    "squaring": grow("10", "ns.x * ns.x"),
    "doubling in a block": grow("'ab'", "ns.x").replace(
        "{% set ns.x = ns.x %}", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"
    ),
    "macros that call twice": "{% macro m(n) %}{{ m(n - 1) ~ m(n - 1) }}{% endmacro %}{{ m(900) }}",
    "endless recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a long output": "{% for i in range(99999) %}{{ 'a' * 100000 }}{% endfor %}",
    "searching": BIG + "{% for i in range(99999) %}{% if 'b' in big %}{% endif %}{% endfor %}",
    "slices": BIG + "{% for i in range(99999) %}{% set y = big[1:] %}{% endfor %}",
    "upper": BIG + "{% for i in range(99999) %}{% set y = big.upper() %}{% endfor %}",
    "sum": "{{ ([[1] * 100000] * 1000)|sum(start=[])|length }}",
    "a long template": "{{ messages }}" * (LONGEST_SOURCE // 10),
    "deep brackets": "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_a_message(name: str) -> None:
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"^template does not take this conversation|^template is no template"):
        ChatTemplate(BOMBS[name], {}, where="template").render(TALK)
    assert time.process_time() - began < 8
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10  # kilobytes


def test_what_templates_do_is_within_the_bounds() -> None:
    source = (
        "{{ bos }}{% for m in messages %}{% if loop.index0 > 0 and m.role == 'user' %}{{ '\\n' }}{% endif %}"
        "{{ '<' ~ m['role'] ~ '>' + m.content|trim + '</s>' * 2 }}"
        "{% if loop.last %}{{ messages[1:]|length }}{% endif %}"
        "{% endfor %}{{ ('%05.1f' % 2.5) ~ '{:>4}'.format(7) ~ (messages|map(attribute='role')|join(',')) }}"
        "{{ messages[:1]|tojson(indent=2)|length }}{% for k, v in messages[0].items() %}{{ k }}{% endfor %}"
    )
    talk = [{"role": "user", "content": " Hi " * 200_000}, {"role": "assistant", "content": "Yes."}] * 3
    text = ChatTemplate(source, {"bos": "<s>"}, where="template").render(talk)
    body = ("Hi  " * 200_000).strip()
    assert text.startswith(f"<s><user>{body}</s></s><assistant>Yes.</s></s>\n<user>Hi")
    assert "</s></s>5002.5   7user,assistant,user,assistant,user,assistant8000" in text
    assert text.endswith("rolecontent")
