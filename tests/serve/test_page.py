"""The page for people, in headless Chromium: what it shows, an image dropped into it, and the keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from serve_helpers import Served, expected, hash_again, images, make_version, server

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.lookups import Lookup, Lookups
from tfhalf.artifacts.record import Manifest

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


FLOAT, INT = TensorProto.FLOAT, TensorProto.INT32
RENTS = {
    "inputs": [
        {"name": "numbers", "dtype": "float32", "shape": ["batch", 2]},
        {"name": "town", "dtype": "int32", "shape": ["batch", 1]},
    ],
    "outputs": [
        {"name": name, "dtype": "float32", "shape": ["batch", 1 + (name == "tags")]} for name in ("rent", "tags")
    ],
    "columns": {"numbers": ["age", "size"], "town": ["town"]},
    "tasks": {
        "rent": {"name": "regression", "mean": [0.0], "std": [1.0], "unit": "EUR", "columns": ["rent"]},
        "tags": {"name": "multilabel", "classes": 2, "class_names": ["<b>", "new"]},
    },
    "training": {"test_metrics": {"rent_rmse": 1234.5, "rent_mae": 3.0, "tags_f1": 0.5}},
    "data": {
        "source": "csv:x",
        "sizes": {"test": 1},
        "preprocess": {
            "inputs": {"numbers": {"mean": [3.0, 1234.5], "std": [1.0, 1.0], "missing": True}, "town": None}
        },
    },
}
WALLS = {
    "inputs": [{"name": "image", "dtype": "float32", "shape": ["batch", 8, 8, 1]}],
    "outputs": [{"name": "probabilities", "dtype": "float32", "shape": ["batch", 8, 8, 2], "classes": True}],
    "tasks": {"probabilities": {"name": "segmentation", "classes": 2, "class_names": ["cell", "wall"]}},
}


PLOTS = {
    "inputs": [
        {"name": "numbers", "dtype": "float32", "shape": ["batch", 2]},
        {"name": "view", "dtype": "float32", "shape": ["batch", 8, 8, 1]},
        {"name": "town", "dtype": "int32", "shape": ["batch", 1]},
    ],
    "outputs": [
        {"name": "price", "dtype": "float32", "shape": ["batch", 1]},
        {"name": "scores", "dtype": "float32", "shape": ["batch", 8, 8, 1]},
    ],
    "columns": {"numbers": ["width", "depth"], "town": ["town"]},
    "tasks": {"price": {"name": "regression", "mean": [0.0], "std": [1.0], "unit": "EUR", "columns": ["price"]}},
}
TAGS = {
    "inputs": [{"name": "note", "dtype": "int32", "shape": ["batch", 5]}],
    "outputs": [{"name": "probabilities", "dtype": "float32", "shape": ["batch", 5, 2], "classes": True}],
    "tasks": {"probabilities": {"name": "sequence", "classes": 2, "class_names": ["other", "<town>"]}},
}


def plots() -> onnx.ModelProto:
    """A price of the view's mean + 10 depth + 1000 town; and the view again."""
    nodes = [
        helper.make_node("Flatten", ["view"], ["pixels"]),
        helper.make_node("MatMul", ["pixels", "mean"], ["light"]),
        helper.make_node("MatMul", ["numbers", "depths"], ["depth"]),
        helper.make_node("Cast", ["town"], ["number"], to=FLOAT),
        helper.make_node("Mul", ["number", "thousand"], ["more"]),
        helper.make_node("Sum", ["light", "depth", "more"], ["price"]),
        helper.make_node("Identity", ["view"], ["scores"]),
    ]
    constants = {"mean": [[1 / 64]] * 64, "depths": [[0.0], [10.0]], "thousand": [[1000.0]]}
    view = ["batch", 8, 8, 1]
    inputs = [("numbers", FLOAT, ["batch", 2]), ("view", FLOAT, view), ("town", INT, ["batch", 1])]
    return graph(nodes, inputs, {"price": ["batch", 1], "scores": view}, constants)


def tags() -> onnx.ModelProto:
    """The second class, 0.75 or so, for words that are known."""
    nodes = [
        helper.make_node("Cast", ["note"], ["numbers"], to=FLOAT),
        helper.make_node("Sub", ["numbers", "one"], ["above"]),
        helper.make_node("Clip", ["above", "low", "high"], ["known"]),
        helper.make_node("Unsqueeze", ["known", "axis"], ["second"]),
        helper.make_node("Sub", ["one", "second"], ["first"]),
        helper.make_node("Concat", ["first", "second"], ["probabilities"], axis=2),
    ]
    constants = {"one": 1.0, "low": 0.25, "high": 0.75}
    model = graph(nodes, [("note", INT, ["batch", 5])], {"probabilities": ["batch", 5, 2]}, constants)
    model.graph.initializer.append(numpy_helper.from_array(np.array([2]), "axis"))
    return model


def rents() -> onnx.ModelProto:
    """A rent of size + 100 town, 7 for a size that is not known; two labels, both of 0.75."""
    nodes = [
        helper.make_node("IsNaN", ["numbers"], ["unknown"]),
        helper.make_node("Where", ["unknown", "seven", "numbers"], ["known"]),
        helper.make_node("MatMul", ["known", "sizes"], ["size"]),
        helper.make_node("Cast", ["town"], ["number"], to=FLOAT),
        helper.make_node("Mul", ["number", "hundred"], ["more"]),
        helper.make_node("Add", ["size", "more"], ["rent"]),
        helper.make_node("Mul", ["numbers", "zero"], ["nothing"]),
        helper.make_node("IsNaN", ["nothing"], ["none"]),
        helper.make_node("Where", ["none", "share", "share"], ["tags"]),
    ]
    constants = {"seven": [[7.0]], "sizes": [[0.0], [1.0]], "hundred": [[100.0]], "zero": [[0.0]], "share": [[0.75]]}
    inputs = [("numbers", FLOAT, ["batch", 2]), ("town", INT, ["batch", 1])]
    return graph(nodes, inputs, {"rent": ["batch", 1], "tags": ["batch", 2]}, constants)


def walls() -> onnx.ModelProto:
    """A wall where an image is light."""
    nodes = [
        helper.make_node("Mul", ["image", "scale"], ["light"]),
        helper.make_node("Sub", ["one", "light"], ["dark"]),
        helper.make_node("Concat", ["dark", "light"], ["probabilities"], axis=3),
    ]
    shape = ["batch", 8, 8]
    return graph(
        nodes, [("image", FLOAT, [*shape, 1])], {"probabilities": [*shape, 2]}, {"scale": [1 / 255], "one": [1.0]}
    )


def graph(
    nodes: list[Any], inputs: list[tuple[str, int, list[Any]]], outputs: dict[str, list[Any]], constants: dict[str, Any]
) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()]
    starts = [helper.make_tensor_value_info(*row) for row in inputs]
    stored = [numpy_helper.from_array(np.array(values, np.float32), name) for name, values in constants.items()]
    whole = helper.make_graph(nodes, "test", starts, ends, stored)
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def add(
    exports: Path, name: str, model: onnx.ModelProto, facts: dict[str, Any], lookups: Lookups | None = None
) -> None:
    folder = exports / name / "1"
    folder.mkdir(parents=True)
    onnx.save(model, str(folder / "model.onnx"))
    (lookups or Lookups()).write(folder)
    compared = {"artifact": "onnx", "runtime": "onnxruntime 1.23.0, CPU", "samples": 1, "outputs": [], "seconds": 0.1}
    rest = {"name": name, "artifacts": [{"format": "onnx"}], "limits": {}, "reference": {}, "comparisons": [compared]}
    manifests.write(folder, Manifest.read({**rest, **facts}))
    hash_again(folder)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    exports = tmp_path_factory.mktemp("exports")
    make_version(exports, "net", 1)
    make_version(exports, "other", 3, seed=1)
    add(exports, "rents", rents(), RENTS, Lookups({"town": Lookup("category", ("", "Bonn", "Trier"))}))
    add(exports, "walls", walls(), WALLS)
    add(exports, "plots", plots(), PLOTS, Lookups({"town": Lookup("category", ("", "Bonn", "Trier"))}))
    words = Lookup("text", ("", "[UNK]", "bonn", "trier"), 5, ("From Bonn to Trier.",))
    add(exports, "tags", tags(), TAGS, Lookups({"note": words}))
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
    wait(browser, "return document.querySelectorAll('tbody tr').length === 6")
    wait(browser, "return !document.getElementById('drop').hidden")
    return browser


def wait(browser: Any, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, _SECONDS).until(lambda driver: driver.execute_script(script))


def text(browser: Any, selector: str) -> str:
    return str(browser.execute_script("return document.querySelector(arguments[0]).innerText", selector))


def test_it_shows_the_models(page: Any) -> None:
    told = text(page, "#list")
    for part in (
        "net",
        "other",
        "93.00 %",
        "rent_rmse 1,234 EUR, tags_f1 50.00 %",
        "image: FP32 [any, 4, 4, 3]",
        "onnxruntime",
        "2026-01-01",
    ):
        assert part in told, part
    assert [option.text for option in page.find_elements("css selector", "#model option")] == [
        "net", "other", "plots", "rents", "tags", "walls",
    ]  # fmt: skip
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


def choose(page: Any, name: str, shown: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(page.find_element("id", "model")).select_by_value(name)
    wait(page, f"return !document.getElementById('{shown}').hidden")


def test_a_row_of_a_table_is_answered(page: Any) -> None:
    choose(page, "rents", "row")
    labels = [label.text for label in page.find_elements("css selector", "#fields label")]
    assert labels == ["age", "size", "town"]
    assert page.find_element("id", "field-1").get_attribute("value") == "1234"
    options = [option.text for option in page.find_elements("css selector", "#field-2 option")]
    assert options == ["Bonn", "Trier", "(not known)"]
    page.find_element("css selector", "#row button").click()
    wait(page, "return document.querySelectorAll('#answers .value').length === 1")
    assert text(page, "#answers .value").strip() == "rent: 1,334 EUR"
    headings = [heading.text for heading in page.find_elements("css selector", "#answers h3")]
    assert headings == ["rent", "tags"]
    tags = [item.text for item in page.find_elements("css selector", "#answers li.applies")]
    assert tags == ["<b>: 75.00 %", "new: 75.00 %"]  # text, not markup; and 150 % together


def test_a_cell_may_be_empty_and_a_category_not_known(page: Any) -> None:
    choose(page, "rents", "row")
    page.find_element("id", "field-1").clear()
    page.find_element("css selector", "#field-2 option:last-child").click()
    page.find_element("css selector", "#row button").click()
    wait(page, "return document.querySelectorAll('#answers .value').length === 1")
    assert text(page, "#answers .value").strip() == "rent: 7 EUR"


def test_a_mask_is_laid_over_its_image(page: Any, tmp_path: Path) -> None:
    light = np.zeros((8, 8), np.uint8)
    light[:, 6:] = 255
    Image.fromarray(light).save(tmp_path / "cells.png")
    choose(page, "walls", "drop")
    page.find_element("id", "file").send_keys(str(tmp_path / "cells.png"))
    wait(page, "return document.querySelectorAll('#answers .mask li').length === 2")
    legend = [item.text for item in page.find_elements("css selector", "#answers .mask li")]
    assert legend == ["cell: 75.00 %", "wall: 25.00 %"]

    def pixel(share: float) -> list[int]:
        script = """const canvas = document.querySelector('#answers canvas');
            const at = Math.floor(canvas.width * arguments[0]);
            return [...canvas.getContext('2d').getImageData(at, 100, 1, 1).data]"""
        return list(page.execute_script(script, share))

    opacity = """const slider = document.querySelector('#answers input[type=range]');
        slider.value = arguments[0]; slider.dispatchEvent(new Event('input'));"""
    page.execute_script(opacity, 100)
    assert (pixel(0.1), pixel(0.9)) == ([0, 114, 178, 255], [230, 159, 0, 255])
    page.execute_script(opacity, 0)
    assert (pixel(0.1), pixel(0.9)) == ([0, 0, 0, 255], [255, 255, 255, 255])


def test_an_image_and_a_row_are_answered_together(page: Any, tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16, 3), 40, np.uint8)).save(tmp_path / "view.png")
    choose(page, "plots", "row")
    labels = [label.text for label in page.find_elements("css selector", "#fields label")]
    assert labels == ["width", "depth", "view", "town"]
    assert not page.find_element("id", "drop").is_displayed()
    button = page.find_element("css selector", "#row button")
    button.click()
    assert not page.execute_script("return document.getElementById('row').checkValidity()")  # without the image
    assert page.find_elements("css selector", "#answers > *") == []
    page.find_element("id", "field-1").clear()
    page.find_element("id", "field-1").send_keys("5")
    page.find_element("id", "field-2").send_keys(str(tmp_path / "view.png"))
    button.click()
    wait(page, "return document.querySelectorAll('#answers .value').length === 1")
    assert text(page, "#answers .value").strip() == "price: 1,090 EUR"
    assert page.find_element("css selector", "#answers img").get_attribute("alt") == "view.png"
    assert text(page, "#answers .shape") == "[8, 8, 1]"
    assert text(page, "#answers .array").startswith("40.000  40.000")
    assert text(page, "#answers .array").endswith("40 more")
    (tmp_path / "not.png").write_bytes(b"no image")
    page.find_element("id", "field-2").send_keys(str(tmp_path / "not.png"))
    button.click()
    wait(page, "return document.querySelectorAll('#answers .bad').length === 1")
    assert "an image cannot be read" in text(page, "#answers .bad")


def test_each_step_of_a_sequence_has_its_label(page: Any) -> None:
    choose(page, "tags", "row")
    note = page.find_element("id", "field-0")
    assert note.get_attribute("value") == "From Bonn to Trier."
    page.find_element("css selector", "#row button").click()
    wait(page, "return document.querySelectorAll('#answers .steps span').length === 5")
    steps = page.find_elements("css selector", "#answers .steps span")
    assert [step.text for step in steps] == ["other", "<town>", "other", "<town>", "other"]  # text, not markup
    assert [step.get_attribute("title") for step in steps] == ["75.00 %"] * 5


def test_all_of_it_is_reached_by_the_keyboard(page: Any) -> None:
    reached = []
    for _ in range(9):
        webdriver.ActionChains(page).send_keys(webdriver.Keys.TAB).perform()
        reached.append(page.execute_script("return document.activeElement.id || document.activeElement.className"))
    assert reached == ["skip", "model", "file", *["scroll"] * 6]


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
