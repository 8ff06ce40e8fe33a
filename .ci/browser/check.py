"""Uses the question page and the Swagger UI in headless Chromium.

    python check.py target/debug/ragway target/browser

Ends with an error at the first thing that does not work. Screenshots are left in `screenshots`.
"""

import json
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from server import Backend, ragway

# The machine may be busy.
expect.set_options(timeout=60_000)
FARES = "# Fares\n\nA bicycle costs 3 euros each way. Children under six travel free."
TIMES = "# Timetable\n\nThe first ferry leaves Nordby at 06:40. The last one leaves at 22:15."
HOSTILE = "<img src=x onerror=document.title='run'>"
QUESTION = "What does it cost to take a bicycle?"
ANSWER = ["A bicycle costs 3 euros each way [1]. ", "Children under six travel free [1]."]


def main(binary: Path, place: Path) -> None:
    backend = Backend()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with ragway(binary, place, backend) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for check in (uploads, answers, stops, hostile, narrow, chinese, colours, tokens, swagger):
            backend.sentences, backend.waits = ANSWER, False
            Checked(browser, url, backend, place / "screenshots").run(check)
        browser.close()


class Checked:
    """A fresh page, of which nothing may be refused by its policy or fail in its scripts."""

    def __init__(self, browser: Browser, url: str, backend: Backend, shots: Path) -> None:
        self.browser, self.url, self.backend, self.shots = browser, url, backend, shots
        self.faults: list[str] = []
        self.requests: list = []

    def open(self, path: str = "/", **context: object) -> Page:
        page = self.browser.new_context(**context).new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda message: self.hear(message.text))
        page.on("request", lambda request: self.requests.append(request))
        page.goto(self.url + path)
        return page

    def hear(self, text: str) -> None:
        if "Content Security Policy" in text:
            self.faults.append(text)

    def shot(self, page: Page, name: str) -> None:
        page.screenshot(path=self.shots / f"{name}.png", full_page=True)

    def run(self, check) -> None:
        check(self)
        assert not self.faults, (check.__name__, self.faults)
        foreign = [request.url for request in self.requests if not request.url.startswith((self.url, "data:"))]
        assert not foreign, foreign
        for context in self.browser.contexts:
            context.close()
        print(f"ok  {check.__doc__}", flush=True)


def ask(page: Page, question: str) -> None:
    page.fill("#question", question)
    page.keyboard.press("Control+Enter")


def uploads(checked: Checked) -> None:
    """an empty collection asks for documents; several files are added, each tells how it went"""
    page = checked.open()
    expect(page.locator("#upload-title")).to_have_text("No documents yet")
    file = lambda name, text: {"name": name, "mimeType": "text/markdown", "buffer": text.encode()}
    broken = {"name": "broken.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.4 nothing"}
    page.set_input_files("#files", [file("fares.md", FARES), broken, file("times.md", TIMES)])
    states = page.locator("#uploads .state")
    expect(states).to_have_text(["Added, 1 passage", "Not added", "Added, 1 passage"])
    expect(page.locator("#uploads .why")).to_contain_text("PDF")
    # Dropped on the page.
    page.evaluate(
        """text => {
            const data = new DataTransfer();
            data.items.add(new File([text], "fares.md", {type: "text/markdown"}));
            document.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        FARES,
    )
    expect(states).to_have_text(["Added, 1 passage", "Not added", "Added, 1 passage", "Already there"])
    checked.shot(page, "uploads")

    page.click("#new-collection")
    page.fill("#creation-name", "handbook")
    page.click("#creation-form button[type=submit]")
    expect(page.locator("#collection")).to_have_value("handbook")
    expect(page.locator("#upload-title")).to_have_text("No documents yet")
    page.reload()
    expect(page.locator("#collection")).to_have_value("handbook")


def answers(checked: Checked) -> None:
    """a streamed answer with citations that open the passage, by keyboard; copied and rated"""
    page = checked.open()
    page.locator("#collection").focus()
    page.keyboard.press("/")
    expect(page.locator("#question")).not_to_be_focused()
    page.locator("#add").focus()
    page.keyboard.press("/")
    expect(page.locator("#question")).to_be_focused()
    ask(page, QUESTION)
    expect(page.locator("#byline")).to_contain_text("Written by writer")
    expect(page.locator("#tried")).to_have_text("broken was tried before and failed")
    expect(page.locator("#answer")).to_contain_text("A bicycle costs 3 euros each way.")
    expect(page.locator("#spoken")).to_contain_text("Children under six travel free.")
    expect(page.locator("#cited .card")).to_have_count(1)
    expect(page.locator("#cited .score")).to_contain_text("%")
    checked.shot(page, "answer")

    marker = page.locator("#answer .marker").first
    marker.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#passage")).to_be_visible()
    expect(page.locator("#passage-title")).to_contain_text("Fares")
    marks = page.locator("#passage mark")
    expect(marks).to_have_text(["A bicycle costs 3 euros each way.", "Children under six travel free."])
    checked.shot(page, "passage")
    page.keyboard.press("Escape")
    expect(page.locator("#passage")).to_be_hidden()
    expect(marker).to_be_focused()

    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy")
    expect(page.locator("#said")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert "each way. [1]" in copied and copied.endswith("[1] Fares"), copied

    page.click("#down")
    expect(page.locator("#said")).to_have_text("Thank you")
    with page.expect_response("**/api/v1/feedback") as response:
        page.fill("#comment", "Too short.")
        page.click("#remark button")
    assert response.value.status == 200
    sent = json.loads(response.value.request.post_data)
    assert (sent["rating"], sent["comment"]) == ("down", "Too short."), sent
    expect(page.locator("#remark")).to_be_hidden()

    ask(page, "Who painted the ceiling of the Sistine Chapel?")
    expect(page.locator("#verdict")).to_have_text("Not in the documents")
    checked.shot(page, "abstained")


def stops(checked: Checked) -> None:
    """Escape stops the answer, and the backend's work with it"""
    page = checked.open()
    checked.backend.waits = True
    checked.backend.left.clear()
    ask(page, QUESTION)
    expect(page.locator("#stop")).to_be_visible()
    page.wait_for_timeout(1000)
    page.keyboard.press("Escape")
    expect(page.locator("#byline")).to_have_text("Stopped before the answer was complete.")
    expect(page.locator("#submit")).to_be_visible()
    assert checked.backend.left.wait(60), "the backend writes on"


def hostile(checked: Checked) -> None:
    """what documents and models say stays text"""
    page = checked.open()
    document = {"title": HOSTILE, "content": f"The harbour code is 4711 {HOSTILE}.", "source": "javascript:alert(1)"}
    stored = page.request.post(checked.url + "/api/v1/documents", data=document)
    assert stored.ok, stored.text()
    checked.backend.sentences = [f"The harbour code is 4711 {HOSTILE} [1]."]
    ask(page, "What is the harbour code?")
    expect(page.locator("#cited .title")).to_have_text(HOSTILE)
    expect(page.locator("#answer")).to_contain_text("The harbour code is 4711")
    page.locator("#answer .marker").first.click()
    expect(page.locator("#passage-title")).to_contain_text(HOSTILE)
    assert page.locator("main img, dialog img, main script").count() == 0
    assert page.locator("main a[href^='javascript'], dialog a[href^='javascript']").count() == 0
    assert page.title() != "run"


def narrow(checked: Checked) -> None:
    """at 360 pixels nothing is wider than the screen"""
    page = checked.open(viewport={"width": 360, "height": 740}, color_scheme="dark")
    wide = lambda: page.evaluate(
        """() => [...document.querySelectorAll("body *")].filter((node) => node.checkVisibility())
            .filter((node) => !node.closest(".scroll, .skip, .hidden") && node.getBoundingClientRect().right > innerWidth + 1)
            .map((node) => node.outerHTML.slice(0, 80))"""
    )
    assert not wide(), wide()
    page.click("#add")
    page.set_input_files("#files", {"name": "x" * 150, "mimeType": "text/plain", "buffer": b"Nothing of note. " * 9})
    expect(page.locator("#uploads .state")).to_contain_text("Added")
    page.check("#explain")
    ask(page, QUESTION)
    expect(page.locator("#how")).to_be_visible()
    assert not wide(), wide()
    checked.shot(page, "narrow")
    page.locator("#answer .marker").first.click()
    assert not wide(), wide()
    page.keyboard.press("Escape")
    page.click("#new-collection")
    assert not wide(), wide()


def chinese(checked: Checked) -> None:
    """Chinese by the browser's language, and by choice"""
    page = checked.open(locale="zh-CN", color_scheme="light")
    labels = lambda: page.locator("[data-t-label]").evaluate_all("nodes => nodes.map(({ariaLabel}) => ariaLabel)")
    expect(page.locator("h1")).to_have_text("向文档提问")
    expect(page.locator("#question")).to_have_attribute("placeholder", "请输入问题……")
    assert labels() == ["工具", "切换为深色", "回答得好", "回答得不好", "关闭"], labels()
    ask(page, QUESTION)
    expect(page.locator("#byline")).to_contain_text("由 writer 撰写")
    checked.shot(page, "chinese")
    page.click("#language")
    expect(page.locator("h1")).to_have_text("Ask the documents")
    expect(page.locator("#question")).to_have_attribute("placeholder", "Ask a question …")
    assert labels() == ["Tools", "Change to dark colours", "Good answer", "Bad answer", "Close"], labels()
    assert page.locator("#up").get_attribute("title") == "Good answer"
    page.reload()
    expect(page.locator("h1")).to_have_text("Ask the documents")
    assert page.locator("html").get_attribute("lang") == "en"


def colours(checked: Checked) -> None:
    """light and dark follow the system, and a choice outlives a reload"""
    page = checked.open(color_scheme="light")
    paper = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = paper()
    page.click("#theme")
    dark = paper()
    assert dark != light
    page.reload()
    assert paper() == dark
    page.emulate_media(color_scheme="dark")
    page.click("#theme")
    assert paper() == light


def tokens(checked: Checked) -> None:
    """a server that wants a token gets the one that is entered, in this tab only"""
    page = checked.open()

    def guarded(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer secret":
            route.continue_()
        else:
            route.fulfill(status=401, content_type="application/problem+json", body='{"title":"Unauthorized","status":401}')

    page.route("**/api/v1/**", guarded)
    ask(page, QUESTION)
    expect(page.locator("#access")).to_be_visible()
    page.fill("#token", "secret")
    page.keyboard.press("Enter")
    expect(page.locator("#access")).to_be_hidden()
    ask(page, QUESTION)
    expect(page.locator("#byline")).to_contain_text("Written by writer")
    assert page.evaluate("[sessionStorage['ragway.token'], JSON.stringify(localStorage).includes('secret')]") == ["secret", False]


def swagger(checked: Checked) -> None:
    """the Swagger UI sends what is tried, with the token"""
    page = checked.open("/docs/")
    page.click("button.authorize")
    page.fill(".auth-container input", "secret")
    page.click(".auth-btn-wrapper button.authorize")
    page.click(".btn-done")
    for path, method in (("/api/v1/collections", "GET"), ("/api/v1/search", "POST")):
        block = page.locator(f".opblock-{method.lower()}").filter(has=page.locator(f"[data-path='{path}']"))
        block.locator(".opblock-summary-control").click()
        with page.expect_response(lambda response: response.url == checked.url + path) as response:
            block.locator("button.execute").click()
        assert response.value.status == 200, response.value.text()
        assert response.value.request.headers["authorization"] == "Bearer secret"
        expect(block.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    checked.shot(page, "swagger")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
