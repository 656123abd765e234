"""IFEval's 25 checkers, which are lm-eval's, made to work offline and to give the same result twice.

lm-eval downloads NLTK's data when its checkers are imported; here the data must be there before. It draws a random
letter where an instruction counts a character that is no letter, as `#`, or an argument that is missing, and the checks
of languages depend on the state of a random generator: here that character is counted, such a record is refused, and
the generator has a fixed seed.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

from megaphi.errors import InputError

Check = Callable[[str], bool]
NEEDED = ("lm_eval", "nltk", "langdetect", "immutabledict")
LETTERS = "keywords:letter_frequency"
DATA = "tokenizers/punkt_tab/english"


@cache
def instruction_classes() -> Mapping[str, Any]:
    """lm-eval's classes by the ids of instructions.

    Raises:
        InputError: lm-eval or NLTK's data for sentences is not there.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(f"IFEval's checkers need {missing[0]}, which is not installed: pip install 'megaphi[eval]'")
    nltk: Any = importlib.import_module("nltk")
    try:
        nltk.data.find(DATA)
    except LookupError:
        raise InputError(
            "IFEval counts sentences by NLTK's data `punkt_tab`, which is not here and is not downloaded: run "
            "`python -m nltk.downloader punkt_tab` where there is a network, and name its folder in NLTK_DATA"
        ) from None
    languages: Any = importlib.import_module("langdetect")
    languages.DetectorFactory.seed = 0
    registry: Any = importlib.import_module("lm_eval.tasks.ifeval.instructions_registry")
    return registry.INSTRUCTION_DICT


def make_check(name: str, arguments: Mapping[str, Any], prompt: str) -> Check:
    """A function that says whether a response follows the instruction `name`.

    Raises:
        InputError: no such instruction, or arguments that it does not take.
    """
    classes = instruction_classes()
    if name not in classes:
        raise InputError(f"there is no instruction {name!r}")
    instruction = classes[name](name)
    lacking = [one for one in instruction.get_instruction_args_keys() if one not in arguments and one != "prompt"]
    if lacking:  # lm-eval would draw it at random
        raise InputError(f"the instruction {name!r} lacks its argument {lacking[0]!r}")
    try:
        instruction.build_description(**arguments)
        if "prompt" in (instruction.get_instruction_args() or {}):
            instruction.build_description(prompt=prompt)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise InputError(f"the instruction {name!r} does not take {dict(arguments)}: {error}") from None
    if name == LETTERS and not re.fullmatch("[a-zA-Z]", str(arguments.get("letter", "a"))):
        return _character_check(arguments)
    return lambda text: bool(instruction.check_following(text))


def _character_check(arguments: Mapping[str, Any]) -> Check:
    """The frequency of any character, by the rule for letters."""
    character, wanted = str(arguments["letter"]).lower(), arguments.get("let_frequency")
    if len(character) != 1 or not isinstance(wanted, int):
        raise InputError(
            f"the instruction {LETTERS!r} does not take {dict(arguments)}: one character and its frequency"
        )
    if arguments.get("let_relation") == "less than":
        return lambda text: text.lower().count(character) < wanted
    return lambda text: text.lower().count(character) >= wanted
