"""The page of `llm serve` in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.llm.serve import world

ATTACK = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, vocabulary: Any) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    world.write(folder, vocabulary)
    with world.server(folder) as found:
        yield found


@pytest.fixture
def page(page: Any, address: str) -> Iterator[Any]:
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    yield page
    assert page.title() == "llm serve"


# A click in the page itself, with the next answer: a short one may be complete before a click from here arrives.
CLICK_AT_ONCE = """name => {
    window.clicked = new Promise(done => {
        new MutationObserver((_, observer) => {
            if (!document.querySelector('.writing:not(:empty)')) return;
            observer.disconnect();
            document.querySelector(`#chat [name=${name}]`).click();
            done();
        }).observe(document.body, {childList: true, subtree: true, characterData: true});
    });
}"""
CLICKED = "() => window.clicked"


@pytest.mark.slow
def test_chat_streams_remembers_and_stops(page: Any) -> None:
    send = "#chat form button:not([type]):enabled"
    page.select_option("#chat [name=model]", "two")
    page.fill("#chat textarea", ATTACK[:40])
    page.evaluate(CLICK_AT_ONCE, "stop")
    page.keyboard.press("Enter")
    page.evaluate(CLICKED)
    page.wait_for_selector(send)
    assert page.inner_text("#chat .note") == "stopped"
    page.fill("#chat textarea", "Hi")
    page.evaluate(CLICK_AT_ONCE, "reset")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.keyboard.press("Enter")
    assert [message["role"] for message in sent.value.post_data_json["messages"]] == ["user", "assistant", "user"]
    page.evaluate(CLICKED)
    page.wait_for_selector(send)
    assert page.locator(".said").count() == 0


def test_texts_of_users_and_models_are_never_html(page: Any) -> None:
    page.fill("#chat textarea", ATTACK)
    page.click("#chat form button")
    page.wait_for_selector(".said.user")
    assert page.inner_text(".said.user") == ATTACK
    page.click("#tab-classify")
    page.fill("#classify textarea", ATTACK)
    page.click("#classify form button")
    page.wait_for_selector(".importance span")
    assert "<b>spam</b>" in page.inner_text("#classify .candidates")
    page.click("#tab-next")
    page.fill("#next textarea", ATTACK)
    page.click("#next form button")
    page.wait_for_selector(".attention button")
    assert page.inner_text(".attention").replace("\n", "").endswith("</script>")
    assert page.locator("main img, main script, main b").count() == 0


def test_views_change_with_the_keyboard(page: Any) -> None:
    page.focus("#tab-chat")
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#next")
    assert not page.is_visible("#chat")
    page.focus("#next textarea")
    page.keyboard.press("Enter")
    page.wait_for_selector(".candidates button")
    text = page.input_value("#next textarea")
    page.focus(".candidates li:first-child button")
    page.keyboard.press("Enter")
    page.wait_for_function("text => document.querySelector('#next textarea').value.length > text.length", arg=text)


@pytest.mark.slow
def test_two_models_answer_side_by_side(page: Any) -> None:
    page.click("#tab-compare")
    page.click("#compare form button")
    page.wait_for_selector("article:nth-child(2) .answer:not(:empty)")
    assert [page.inner_text(f"article:nth-child({n}) h2") for n in (1, 2)] == ["one", "two"]
    page.wait_for_selector("#compare form button:not([type]):enabled")
    answers = [page.inner_text(f"article:nth-child({n}) .answer") for n in (1, 2)]
    assert answers[0] != answers[1]
