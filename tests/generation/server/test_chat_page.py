"""The chat page in a real browser: a streamed answer, stopping, settings, errors, and text that is only ever text."""

from __future__ import annotations

import re

from megaphi.generation.server.chat_page import chat_page
from tests.generation.server.fake_generator import FakeGenerator
from tests.generation.server.served import served, tokenizer, wait_until

SOMETHING = re.compile(r"\w|<")
WORDS = tokenizer().encode(" <b>one</b> & two 🙂 <script>three")


def say(page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")


def test_an_answer_is_streamed_and_the_next_question_knows_it(page):
    generator = FakeGenerator(alphabet=WORDS, ends=False, seconds_per_step=0.2)  # until it has been looked at
    with served(generator) as (url, _):
        page.goto(url)
        page.get_by_text("tiny", exact=True).wait_for()
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Max tokens").fill("150")
        page.get_by_label("Temperature").fill("0")
        say(page, "hello <i>you</i>")
        assert page.locator(".user").inner_text() == "hello <i>you</i>"
        answer = page.locator(".assistant").first
        answer.filter(has_text=SOMETHING).wait_for()
        early = answer.text_content()
        say(page, "typed meanwhile")
        assert page.get_by_label("Message").input_value() == "typed meanwhile"  # and it is not sent
        assert page.locator(".user").count() == 1
        generator.seconds_per_step = 0.0
        page.get_by_role("button", name="Send").wait_for()
        late = answer.text_content()
        assert late.startswith(early)
        assert len(late) > len(early)
        assert page.locator("#talk b, #talk i, #talk script").count() == 0
        page.get_by_text("reached its length limit").wait_for()
        say(page, "and now?")
        page.locator(".assistant").nth(1).filter(has_text=SOMETHING).wait_for()
        page.get_by_role("button", name="Send").wait_for()
        assert page.locator(".assistant").nth(1).text_content() != late
        page.get_by_role("button", name="New chat").click()
        assert page.locator(".turn").count() == 0


def test_the_stop_button_stops_the_engine_and_keeps_the_text(page):
    generator = FakeGenerator(alphabet=WORDS, ends=False, seconds_per_step=0.03, context=4096)
    with served(generator) as (url, service):
        page.goto(url)
        say(page, "go on")
        answer = page.locator(".assistant")
        answer.filter(has_text=SOMETHING).wait_for()
        page.get_by_role("button", name="Stop").click()
        page.get_by_role("button", name="Send").wait_for()
        assert wait_until(lambda: generator.is_idle)
        assert service.load().running == 0
        assert answer.text_content()


def test_errors_are_told_and_can_be_tried_again(page):
    with served(FakeGenerator(alphabet=WORDS, ends=False), api_key="s3cret") as (url, _):
        page.goto(url)
        page.get_by_text("this server needs a key").wait_for()
        say(page, "hello")
        page.get_by_role("alert").filter(has_text="this server needs its key").wait_for()
        page.get_by_label("Key").fill("s3cret")
        page.get_by_label("Max tokens").fill("30")
        page.get_by_role("button", name="Try again").click()
        page.locator(".assistant").filter(has_text=SOMETHING).wait_for()
        assert page.get_by_role("alert").count() == 0
        page.get_by_role("button", name="Send").wait_for()
        page.get_by_label("Max tokens").fill("-5")
        say(page, "hello")
        page.get_by_role("alert").filter(has_text="max_tokens must be at least 1").wait_for()


def test_a_server_that_is_gone_is_told(page):
    with served(FakeGenerator()) as (url, _):
        page.goto(url)
        page.get_by_text("tiny", exact=True).wait_for()
    say(page, "hello")
    page.get_by_role("alert").wait_for()
    assert page.get_by_role("button", name="Send").is_visible()


def test_the_page_needs_nothing_from_elsewhere():
    page, headers = chat_page()
    for word in (
        b"innerHTML",
        b"outerHTML",
        b"insertAdjacentHTML",
        b"document.write",
        b"eval(",
        b"http://",
        b"https://",
    ):
        assert word not in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
