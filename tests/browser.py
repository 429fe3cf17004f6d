"""A real Chromium without a window, driven by Selenium, and a visitor of the inspector in it."""

import json
import shutil
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE = 180  # s; the machine may be busy
#: Address of the picture if it is loaded and no answer of the server is awaited.
SETTLED = """
const image = document.querySelector(`#${arguments[0]} img`);
const waiting = document.querySelector("#message .eta-bar, #message .progress-text");
return image && image.complete && image.naturalWidth && !waiting ? image.src : null;
"""


def new_browser(folder: Path, width: int = 1280, height: int = 1600) -> webdriver.Chrome:
    """A Chromium whose downloads go to `folder`; the test is skipped where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip(
            "no chromium with its driver (Debian: apt-get install chromium chromium-driver)"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "no-first-run",
        "disable-background-networking", "hide-scrollbars", f"window-size={width},{height}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = webdriver.ChromeService(driver)
    return webdriver.Chrome(options, service)


class Visitor:
    """Act on the page as a person does, and wait for the effect of each step."""

    def __init__(self, browser: webdriver.Chrome, url: str):
        self.browser = browser
        browser.get(url)
        self.until(lambda: "No photo yet" in self.text("message"))
        self.element("#upload input[type=file]")

    def until(self, condition, message=""):
        return WebDriverWait(self.browser, PATIENCE, 0.1).until(lambda _: condition(), message)

    def element(self, selector):
        """The first element for a selector; parts of the page come one after the other."""
        return self.until(lambda: self.browser.find_elements(By.CSS_SELECTOR, selector))[0]

    def text(self, name):
        """The text of the element with an id."""
        return self.browser.execute_script(
            "return document.getElementById(arguments[0])?.innerText ?? ''", name
        )

    def source(self, name):
        """Address of the picture in the component with an id; it changes with the picture."""
        return self.browser.execute_script(
            "return document.querySelector(`#${arguments[0]} img`)?.src ?? ''", name
        )

    def upload(self, file):
        self.element("#upload input[type=file]").send_keys(str(file))

    def drop(self, file):
        """Upload a file, and return the message once it names the file."""
        self.upload(file)
        self.until(lambda: self.text("message").startswith(f"Shown: {file.name}"))
        return self.text("message")

    def refused(self, act):
        """Do something that the page refuses, and return the reason that it shows."""
        act()
        reason = self.until(lambda: self.element(".toast-body").text)  # it fades in
        self.element(".toast-close").click()
        self.until(lambda: not self.browser.find_elements(By.CSS_SELECTOR, ".toast-body"))
        return reason

    def options(self, name):
        """The options of the open list with a name."""
        found = self.browser.find_elements(By.CSS_SELECTOR, 'ul[role="listbox"] [role="option"]')
        return [o for o in found if o.text.replace("✓", "").strip() == name]

    def settle(self, name):
        """Wait until a picture is the one to stay."""
        seen = [""]

        def settled():
            loaded = self.browser.execute_script(SETTLED, name)
            seen.append(loaded or "")
            return loaded and seen[-1] == seen[-2]

        self.until(settled)

    def click(self, name, across, down):
        """Click a picture at shares of its width and height, once it has settled."""
        self.settle(name)
        picture = self.element(f"#{name} img")
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", picture)
        size = picture.size
        dx, dy = (across - 0.5) * size["width"], (down - 0.5) * size["height"]
        ActionChains(self.browser).move_to_element_with_offset(picture, dx, dy).click().perform()

    def changes(self, name, act):
        """Do something and wait until the text of an element has changed; the new text."""
        before = self.text(name)
        act()
        self.until(lambda: self.text(name) not in ("", before), f"{name} stays {before!r}")
        return self.text(name)

    def asked(self) -> list[str]:
        """Addresses that the browser asked for since the last call, without those within a page."""
        events = [json.loads(e["message"])["message"] for e in self.browser.get_log("performance")]
        urls = [
            e["params"]["request"]["url"]
            for e in events
            if e["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]
