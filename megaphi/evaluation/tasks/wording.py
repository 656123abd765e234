"""Templates of prompts: texts with `{name}` where something is put in, and the choice of worked examples.

Each task has its templates as a field `wording`, by name, so that a user who has the published sentences can give them
instead of ours. Everything but the known names stays as it is, braces of LaTeX and code too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from megaphi.conversation import Conversation, Message
from megaphi.errors import InputError
from megaphi.evaluation.task import Item

NEEDED = ("question", "first", "second")
"""Names without which a template would not ask what it is for."""


def filled(template: str, **values: str) -> str:
    """The template with each `{name}` of `values` replaced, in one pass: what is put in is never searched.

    Raises:
        InputError: the template has no place for what it is about.
    """
    missing = [name for name in values if name in NEEDED and f"{{{name}}}" not in template]
    if missing:
        raise InputError(f"a template has no {{{missing[0]}}}, so it would not ask about it: {template[:60]!r}")
    names = "|".join(map(re.escape, values))
    return re.sub(rf"\{{({names})\}}", lambda match: values[match[1]], template)


def conversation(wording: Mapping[str, str], user: str) -> Conversation:
    """One message of the user, after the system message `wording["system"]` if there is one."""
    system = wording.get("system", "")
    first = (Message("system", system),) if system else ()
    return Conversation((*first, Message("user", user)))


def chosen_shots(task: str, wanted: int, item: Item, shots: Sequence[Item], *, same_group: bool) -> list[Item]:
    """The first `wanted` worked examples, in their order.

    Args:
        same_group: whether only examples of the item's own group are shown.

    Raises:
        InputError: there are too few, or one of them asks the item's own question.
    """
    fitting = [one for one in shots if not same_group or one.group == item.group][:wanted]
    if len(fitting) < wanted:
        where = f" of {item.group!r}" if same_group else ""
        raise InputError(
            f"{task} shows {wanted} worked examples{where}, the shots files of the manifest have {len(fitting)}"
        )
    same = [one.name for one in fitting if one.name == item.name or one.question == item.question]
    if same:
        raise InputError(f"{task}: the worked example {same[0]!r} is the evaluated item {item.name!r} itself")
    return fitting
