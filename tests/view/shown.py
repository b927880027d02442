"""A page that a browser shows: what can be read in it, and what can be pressed."""

from __future__ import annotations

from fusemap.census import SCHEMES

from ..support.browser import Browser

RIGHT, LEFT, HOME, END, TAB, ENTER = "\ue014", "\ue012", "\ue011", "\ue010", "\ue004", "\ue007"


class Page:
    """The page that is shown."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser

    def text(self, selector: str) -> str:
        return str(self.browser.script("return document.querySelector(arguments[0]).innerText", selector)).strip()

    def texts(self, selector: str) -> list[str]:
        found = self.browser.script(
            "return [...document.querySelectorAll(arguments[0])].filter(one => one.checkVisibility())"
            ".map(one => one.innerText.trim())", selector
        )  # fmt: skip
        return [str(text) for text in found]

    def attribute(self, selector: str, name: str) -> str:
        return str(self.browser.script("return document.querySelector(arguments[0]).getAttribute(arguments[1])",
                                       selector, name))  # fmt: skip

    def seen(self, selector: str) -> bool:
        return bool(self.browser.script("return document.querySelector(arguments[0]).checkVisibility()", selector))

    def click(self, selector: str) -> None:
        self.browser.script("document.querySelector(arguments[0]).click()", selector)

    def choose(self, scheme: str) -> None:
        self.browser.script(
            "const slider = document.getElementById('slider'); slider.value = arguments[0];"
            "slider.dispatchEvent(new Event('input', { bubbles: true }))", SCHEMES.index(scheme)
        )  # fmt: skip

    def search(self, words: str) -> None:
        self.browser.script(
            "const search = document.getElementById('search'); search.value = arguments[0];"
            "search.dispatchEvent(new Event('input', { bubbles: true }))", words
        )  # fmt: skip

    def focused(self) -> str:
        one = "const one = document.activeElement; return one.id || one.className || one.tagName"
        return str(self.browser.script(one))

    def width(self) -> int:
        return int(self.browser.script("return document.documentElement.scrollWidth"))

    def style(self, selector: str, name: str) -> str:
        return str(self.browser.script("return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]",
                                       selector, name))  # fmt: skip
