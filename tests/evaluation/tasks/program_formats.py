"""Ways in which models write a program, and what each protocol makes of it: the function asked for is `add_one`.

Each format is (answer, what it shows, passes as published, passes corrected). `cut off` in the description means that
the answer reached its limit of tokens.
"""

from __future__ import annotations

PROMPT = 'from typing import List\n\n\ndef add_one(xs: List[int]) -> List[int]:\n    """Add one to each number."""\n'
TEST = "def check(candidate):\n    assert candidate([1, 2]) == [2, 3]\n    assert candidate([]) == []\n"
RECORD = {"task_id": "Test/0", "prompt": PROMPT, "test": TEST, "entry_point": "add_one", "canonical_solution": ""}
BODY = "    return [x + 1 for x in xs]\n"
HEAD = "def add_one(xs: List[int]) -> List[int]:\n"
FUNCTION = HEAD + BODY
WRONG = HEAD + "    return xs\n"
TWO_SPACES = "def add_one(xs):\n  return [x + 1 for x in xs]\n"
TABS = "def add_one(xs):\n\treturn [x + 1 for x in xs]\n"
HELPED = "def plus(x):\n    return x + 1\n\n\ndef add_one(xs):\n    return [plus(x) for x in xs]\n"
IMPORTED = "import operator\n\n\ndef add_one(xs):\n    return [operator.add(x, 1) for x in xs]\n"
DOCUMENTED = HEAD + '    """Add one."""\n' + BODY
ONE_LINE = "def add_one(xs): return [x + 1 for x in xs]\n"
LAMBDA = "add_one = lambda xs: [x + 1 for x in xs]\n"
INNER_FENCE = HEAD + '    """As\n    ```\n    add_one([1])\n    ```\n    """\n' + BODY


def block(code: str, mark: str = "python") -> str:
    return f"```{mark}\n{code}```"


FORMATS: tuple[tuple[str, str, bool, bool], ...] = (
    (block(FUNCTION), "the form that was asked for", True, True),
    (block(WRONG), "a wrong function", False, False),
    (f"Here it is:\n\n{block(FUNCTION)}\n\nIt adds one.", "words around the block", True, True),
    (FUNCTION, "no block", True, True),
    (f"Note:\nThis adds one.\n{FUNCTION}", "words before a function that is in no block", True, False),
    (BODY, "the body alone", False, True),
    (f"{FUNCTION}```\n\nIt adds one.", "a block closed that was never opened", False, True),
    (f"{BODY}```\n", "the body, and the end of a block", False, True),
    (f"Solution\n{block(BODY)}", "one word before the body in a block", False, True),
    (block(BODY), "the body alone in a block", False, True),
    (BODY.lstrip(), "the body without its indent", False, False),
    (block(PROMPT + BODY), "the prompt repeated", True, True),
    (block(FUNCTION, "Python"), "a capital letter in the mark", False, True),
    (block(FUNCTION, "py"), "another mark", False, True),
    (block(FUNCTION, "python3"), "a version in the mark", False, True),
    (block(FUNCTION, ""), "no mark", False, True),
    (block(FUNCTION, "python "), "a space behind the mark", False, True),
    (block(FUNCTION).replace("\n", "\r\n"), "line ends of Windows", False, True),
    (block(FUNCTION).replace("```", "~~~"), "a fence of tildes", False, True),
    (f"```python\n{FUNCTION}", "a block never closed, cut off", True, True),
    ("```python\ndef add_one(xs: List[int]) -> Li", "cut off in the head", False, False),
    (block(TWO_SPACES), "an indent of two spaces", False, True),
    (block(TABS), "an indent of one tab", False, True),
    (block(ONE_LINE), "a function of one line", False, True),
    (block(LAMBDA), "a lambda", False, True),
    (block(HELPED), "a helper before the function", False, True),
    (block(IMPORTED), "an import before the function", False, True),
    (block("from typing import List\n\n\n" + FUNCTION), "an import that the prompt has too", True, True),
    (block(DOCUMENTED), "the description repeated", True, True),
    (block(INNER_FENCE), "a fence within the description", False, True),
    (f"First a sketch:\n{block(WRONG)}\nBetter:\n{block(FUNCTION)}", "the right block last", False, True),
    (f"{block(FUNCTION)}\nA wrong one is:\n{block(WRONG)}", "the right block first", True, False),
    (f"{block(FUNCTION)}\nUse it so:\n{block('print(add_one([1]))' + chr(10))}", "a block that only calls", True, True),
    (f"Run\n{block('pip install x' + chr(10), 'bash')}\n{block(FUNCTION)}", "a block of a shell first", True, True),
    (block(FUNCTION + "\n\nprint(add_one([1, 2]))\n"), "a call below the function", True, True),
    (block(FUNCTION + "\n\nassert add_one([1]) == [3]\n"), "a wrong assertion below the function", False, False),
    (block(FUNCTION + "\n\nif __name__ == '__main__':\n    main()\n"), "a main part", True, True),
    (block("# For:\n    # all\n" + FUNCTION), "a remark that ends in a colon before four spaces", True, True),
    (block(FUNCTION.replace("add_one", "add")), "another name", True, False),
    ("I cannot write this function.", "a refusal", False, False),
    ("", "nothing", False, False),
    (block("class add_one:\n    pass\n"), "a class of that name", False, False),
    (block(HEAD + "    raise SystemExit(0)\n"), "an end of the process", False, False),
    (
        block(HEAD + "    class E(list):\n        __eq__ = lambda a, b: True\n    return E()\n"),
        "equal to all",
        False,
        False,
    ),
)
