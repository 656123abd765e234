"""page.html in a real browser: filters, every field of a response, hostile text as text, and 10,000 items at once."""

from __future__ import annotations

import time

from megaphi.evaluation.report import write_report
from tests.evaluation.made_evaluations import HOSTILE, changed, coins, evaluation, response, task


def opened(page, folder, *tasks, statuses=None):
    write_report(folder, evaluation(*tasks, model=f"runs/{HOSTILE}"), statuses=statuses)
    page.goto((folder / "page.html").as_uri())
    page.get_by_role("status").filter(has_text="responses").wait_for()
    return page


def count(page) -> str:
    return page.get_by_role("status").inner_text()


def test_filters_and_the_fields_of_a_response(page, tmp_path):
    rows = [response(f"q{n}", 1.0, group="physics") for n in range(5)]
    rows += [response("cut", 0.0, group="law", problem="truncated", finish="length", extracted="", text="so long")]
    rows += [response("half", 0.5, group="law", note="the judge said: half", details={"span": float("nan")})]
    opened(page, tmp_path, task("mmlu", rows), coins("gpqa", [1.0] * 3, seed=1, repeats=2))
    assert count(page) == "7 of 7 responses"
    assert page.locator("header tr").nth(1).inner_text().split("\t")[:3] == ["mmlu: accuracy", "7", "7"]
    page.get_by_label("Outcome").select_option("right")
    assert count(page) == "5 of 7 responses"
    page.get_by_label("Outcome").select_option("problem: truncated")
    assert count(page) == "1 of 7 responses"
    page.get_by_role("option").filter(has_text="cut").click()
    detail = page.locator("#detail")
    detail.get_by_text("so long").wait_for()
    for shown in ("truncated", "(nothing)", "right answer", "Answer with a letter.", "7 tokens, length"):
        assert shown in detail.inner_text().replace("RIGHT ANSWER", "right answer").replace(
            "TOKENS, LENGTH", "tokens, length"
        )
    page.get_by_label("Outcome").select_option("all")
    page.get_by_label("Group").select_option("law")
    page.get_by_label("Name or question").fill("HALF")
    assert count(page) == "1 of 7 responses"
    page.get_by_role("option").filter(has_text="half").click()
    detail.get_by_text("the judge said: half").wait_for()
    assert "nan" in detail.inner_text()
    page.get_by_label("Task").select_option("gpqa")
    page.get_by_role("status").filter(has_text="6 of 6").wait_for()


def test_what_a_model_wrote_is_only_ever_text(page, tmp_path):
    fields = dict.fromkeys(("question", "gold", "text", "extracted", "note", "group", "prompt"), HOSTILE)
    rows = [response(HOSTILE, 0.0, **(fields | {"details": {HOSTILE: HOSTILE}, "text": HOSTILE + "\ud800"}))]
    opened(page, tmp_path, task("mmlu", rows, switches={}, quirks={HOSTILE: 1.0}, quirk_intervals={}))
    page.locator(".row").click()
    page.locator("#detail").get_by_text("details").wait_for()
    assert page.locator("#detail pre").filter(has_text="<img src=x").count() >= 5
    assert page.locator("img").count() == 0
    assert page.title() != "owned"


def test_quirks_have_intervals_and_contaminated_items_a_table(page, tmp_path):
    rows = [response(f"q{n}", float(n < 6)) for n in range(10)]
    statuses = {"mmlu": {f"q{n}": "contaminated" if n < 4 else "clean" for n in range(10)}}
    opened(page, tmp_path, task("mmlu", rows), coins(HOSTILE, [1.0] * 3, seed=1), statuses=statuses)
    cells = [row.split("\t") for row in page.locator(".contamination tr").all_inner_texts()]
    assert cells[1:] == [
        ["mmlu", "contaminated", "4", "100.0 ± 24.5", "51.0 to 100.0"],
        ["mmlu", "clean", "6", "33.3 ± 30.2", "9.7 to 70.0"],
    ]
    assert page.get_by_text(f"Not scanned: {HOSTILE}.").count() == 1
    page.locator("summary").click()
    assert page.locator(".quirks tr").first.inner_text().split("\t")[:3] == [
        "mmlu: first-answer",
        "+1.25",
        "-0.5 to +3.0",
    ]
    opened(page, tmp_path, task("mmlu", rows))
    assert page.locator(".contamination").count() == 0


def test_ten_thousand_items_open_at_once(page, tmp_path):
    """The list has elements for what is seen; the last item's text is there when it is asked for."""
    big = changed(coins("mmlu", [0.5] * 10_000, seed=1), lambda n, one: {"text": f"{'long text ' * 100}{n}"})
    start = time.perf_counter()
    opened(page, tmp_path, big)
    assert time.perf_counter() - start < 20  # seconds, writing included; on this list they were 3
    assert count(page) == "10,000 of 10,000 responses"
    assert page.get_by_role("option").count() < 100
    page.locator("#list").evaluate("list => { list.scrollTop = list.scrollHeight }")
    page.get_by_role("option").filter(has_text="q09999").click()
    page.locator("#detail").get_by_text("long text 9999").wait_for()
    page.locator("#list").press("ArrowUp")
    page.locator("#detail").get_by_text("long text 9998").wait_for()
    assert (tmp_path / "page.html").stat().st_size < 5_000_000
