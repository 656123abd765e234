"""Exercises made of a page of documentation, as extraction gives it."""

from __future__ import annotations

from page_exercises import Block, PageExercises, exercises_on, read_page, sentences

from megaphi.curation.document import Document, Rejected

PAGE = """# scipy.frob

`scipy.frob(N, *, check=True)`

Frobnicate a matrix & return it. Every element of the matrix is frobnicated once and in order. Fast.

Parameters:

- **N** : int, optional
  How many times the matrix is to be frobnicated.
- **check: bool** : bool
  A name that is none, with an explanation behind it.
- **undocumented**

See also

- `scipy.frob2`
  The same in both directions,
  along an axis

$$x = 1$$

- first
- second *point*

Here is a use of it:

```
>>> frob(
...     1)

# 2
```

## Notes

The algorithm is by Frob. It needs memory for two copies.

## More

See the textbook. There is little else."""


def test_blocks_of_a_page():
    page = read_page(PAGE)
    assert page.title == "scipy.frob"
    assert list(page.blocks) == [
        Block("heading", "scipy.frob"),
        Block("paragraph", "`scipy.frob(N, *, check=True)`"),
        Block(
            "paragraph",
            "Frobnicate a matrix & return it. Every element of the matrix is frobnicated once and in order. Fast.",
        ),
        Block("paragraph", "Parameters:"),
        Block("term", "How many times the matrix is to be frobnicated.", "N", "int, optional"),
        Block("term", "A name that is none, with an explanation behind it.", "check: bool", "bool"),
        Block("item", "- **undocumented**"),
        Block("paragraph", "See also"),
        Block("term", "The same in both directions, along an axis", "scipy.frob2"),
        Block("paragraph", "$$x = 1$$"),
        Block("item", "- first"),
        Block("item", "- second *point*"),
        Block("paragraph", "Here is a use of it:"),
        Block("code", ">>> frob(\n...     1)\n\n# 2"),
        Block("heading", "Notes"),
        Block("paragraph", "The algorithm is by Frob. It needs memory for two copies."),
        Block("heading", "More"),
        Block("paragraph", "See the textbook. There is little else."),
    ]
    assert read_page("").blocks == ()


def test_a_page_as_exercises():
    sheet = exercises_on(read_page(PAGE))
    assert sheet == exercises_on(read_page(PAGE))
    assert "\nAnswer: Frobnicate a matrix & return it. Every element" in sheet
    assert "How many times the matrix is to be frobnicated. It is given as int, optional." in sheet
    assert "Answer: The same in both directions, along an axis.\n" in sheet
    assert "check: bool" not in sheet
    assert "Task: Here is a use of it.\nSolution:\n>>> frob(\n...     1)\n\n# 2" in sheet
    assert "_____" in sheet
    assert "Summarise scipy.frob in 2 sentences.\nSolution: The algorithm is by Frob. See the textbook." in sheet


def test_the_step_keeps_the_id_and_rejects_what_leaves_nothing_to_ask():
    document = Document(id="scipy/frob", source="s", place="p", text=PAGE, metadata={"split": "train"})
    step = PageExercises()
    rewritten = step.rewrite(document)
    assert isinstance(rewritten, Document)
    assert (rewritten.id, rewritten.metadata) == ("scipy/frob", {"split": "train"})
    short = step.rewrite(Document(id="t", source="s", place="p", text="# t\n\nShort."))
    assert isinstance(short, Rejected)
    assert short.reason == "nothing_to_ask"


def test_sentences_end_where_a_capital_follows():
    text = "See e.g. the docs. They (see 1.2) help! `x` too. *Done*. (Really.) Yes."
    found = ["See e.g. the docs.", "They (see 1.2) help!", "`x` too.", "*Done*.", "(Really.) Yes."]
    assert sentences(text) == found
