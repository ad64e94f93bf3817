"""The page for people, in headless Chromium: what it shows, an image dropped into it, and the keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serve_helpers import Served, expected, images, make_version, server

webdriver = pytest.importorskip("selenium.webdriver")
_BROWSER, _DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (_BROWSER and _DRIVER), reason="needs Chromium: apt-get install chromium chromium-driver"),
]
_ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --window-size=1000,900 "
    "--disable-background-networking --disable-component-update --disable-sync"
)
_SECONDS = 20


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    exports = tmp_path_factory.mktemp("exports")
    make_version(exports, "net", 1)
    make_version(exports, "other", 3, seed=1)
    with server(exports) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = _BROWSER
    for argument in [*_ARGUMENTS.split(), f"--user-data-dir={tmp_path_factory.mktemp('browser')}"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(_DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, served: Served) -> Any:
    """The page, once it has heard from the server."""
    browser.get(f"http://{served.address}/")
    wait(browser, "return document.getElementById('ready').textContent === 'ready'")
    wait(browser, "return document.querySelectorAll('tbody tr').length === 2")
    return browser


def wait(browser: Any, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, _SECONDS).until(lambda driver: driver.execute_script(script))


def text(browser: Any, selector: str) -> str:
    return str(browser.execute_script("return document.querySelector(arguments[0]).innerText", selector))


def test_it_shows_the_models(page: Any) -> None:
    told = text(page, "#list")
    for part in ("net", "other", "93.00 %", "image: FP32 [any, 4, 4, 3]", "onnxruntime", "2026-01-01"):
        assert part in told, part
    assert [option.text for option in page.find_elements("css selector", "#model option")] == ["net", "other"]
    assert not [line for line in page.get_log("browser") if line["level"] in ("SEVERE", "WARNING")]


def test_an_image_is_classified(page: Any, tmp_path: Path) -> None:
    x = images(1)[0].astype(np.uint8)
    Image.fromarray(x).save(tmp_path / "picture.png")
    page.find_element("id", "file").send_keys(str(tmp_path / "picture.png"))
    wait(page, "return document.querySelectorAll('#answers li').length === 3")
    probabilities = expected(x[None].astype(np.float32))[0]
    best = ("cat", "dog", "frog")[int(probabilities.argmax())]
    assert text(page, "#answers li").strip() == f"{best}: {probabilities.max() * 100:.2f} %"
    assert page.find_element("css selector", "#answers img").get_attribute("alt") == "picture.png"


def test_what_is_no_image_is_told(page: Any, tmp_path: Path) -> None:
    (tmp_path / "<i>not.png").write_bytes(b"no image")
    page.find_element("id", "file").send_keys(str(tmp_path / "<i>not.png"))
    wait(page, "return document.querySelectorAll('#answers .bad').length === 1")
    assert text(page, "#answers .bad").startswith("<i>not.png: ")  # text, not markup


def test_all_of_it_is_reached_by_the_keyboard(page: Any) -> None:
    reached = []
    for _ in range(5):
        webdriver.ActionChains(page).send_keys(webdriver.Keys.TAB).perform()
        reached.append(page.execute_script("return document.activeElement.id || document.activeElement.className"))
    assert reached == ["skip", "model", "file", "scroll", "scroll"]


def test_what_is_coloured_can_be_read(page: Any) -> None:
    """WCAG 2.2, success criterion 1.4.3: a contrast of 4.5 on white."""
    red, green, blue = (
        int(part) / 255
        for part in page.execute_script(
            "return getComputedStyle(document.getElementById('ready')).color.match(/\\d+/g).slice(0, 3)"
        )
    )
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert 1.05 / (luminance + 0.05) >= 4.5
