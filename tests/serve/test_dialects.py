"""TensorFlow Serving's REST dialect, images, the page, and the OpenAPI document; without sockets."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from serve_helpers import client, expected, images, make_version, run, tensor

from tfhalf.data.image_formats import FORMATS
from tfhalf.serve.settings import Limits, Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    make_version(tmp_path, "net", 3)
    return Settings((tmp_path,), poll_seconds=0, limits=Limits(max_pixels=10_000))


def ask(settings: Settings, path: str, method: str = "POST", **request: Any) -> httpx.Response:
    async def work() -> httpx.Response:
        async with client(settings) as c:
            return await c.request(method, path, **request)

    return run(work)


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(file, kind)
    return file.getvalue()


# --- TensorFlow Serving -----------------------------------------------------------------------------------------------

PREDICT = "/v1/models/net:predict"


def test_row_form(settings: Settings) -> None:
    x = images(3)
    for instances in (x.tolist(), [{"image": row.tolist()} for row in x]):
        answer = ask(settings, PREDICT, json={"signature_name": "serving_default", "instances": instances})
        assert answer.status_code == 200, answer.text
        rows = answer.json()["predictions"]
        assert [sorted(row) for row in rows] == [["logits", "probabilities"]] * 3
        np.testing.assert_allclose([row["probabilities"] for row in rows], expected(x), atol=2e-3)


def test_column_form(settings: Settings) -> None:
    x = images(3)
    for inputs in (x.tolist(), {"image": x.tolist()}):
        answer = ask(settings, "/v1/models/net/versions/3:predict", json={"inputs": inputs})
        outputs = answer.json()["outputs"]
        np.testing.assert_allclose(outputs["probabilities"], expected(x), atol=2e-3)


def test_base64(settings: Settings) -> None:
    x = images(2)
    values = [{"b64": base64.b64encode(encoded(row)).decode()} for row in x]
    for body in (
        {"instances": values},
        {"instances": [{"image": value} for value in values]},
        {"inputs": values},
        {"inputs": {"image": values}},
    ):
        answer = ask(settings, PREDICT, json=body)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        rows = (
            told["outputs"]["probabilities"] if "outputs" in told else [p["probabilities"] for p in told["predictions"]]
        )
        np.testing.assert_allclose(rows, expected(x), atol=2e-3)


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"instances": [], "inputs": []},
        {"instances": []},
        {"instances": 3},
        {"inputs": {"x": [1]}},
        {"inputs": {}},
        {"instances": [1.0]},
        {"instances": [{"image": 1}, {"other": 1}]},
        {"instances": [{"b64": "!"}]},
        {"instances": [{"b64": "aGk="}]},
        {"instances": [{"b64": "aGk=", "x": 1}]},
        {"signature_name": "other", "instances": [1]},
    ],
)
def test_errors_have_its_shape(settings: Settings, body: Any) -> None:
    answer = ask(settings, PREDICT, json=body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]


def test_status_and_metadata(settings: Settings) -> None:
    row = {"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("/v1/models/net", "/v1/models/net/versions/3"):
        assert ask(settings, path, "GET").json() == {"model_version_status": [row]}
    told = ask(settings, "/v1/models/net/metadata", "GET").json()
    assert told["model_spec"] == {"name": "net", "signature_name": "", "version": "3"}
    signature = told["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"]["image"]["dtype"] == "DT_FLOAT"
    assert signature["inputs"]["image"]["tensor_shape"] == {
        "dim": [{"size": size, "name": ""} for size in ("-1", "4", "4", "3")],
        "unknown_rank": False,
    }
    for path in ("/v1/models/none", "/v1/models/net/versions/4", "/v1/models/none/metadata"):
        assert ask(settings, path, "GET").status_code == 404
    assert ask(settings, "/v1/models/net:classify", json={}).status_code == 400


# --- images -----------------------------------------------------------------------------------------------------------

CLASSIFY = "/v2/models/net/classify"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_as_the_body(settings: Settings, kind: str) -> None:
    x = np.full((1, 4, 4, 3), 200.0)
    content = encoded(x[0], kind)
    answer = ask(settings, f"{CLASSIFY}?top=2", content=content, headers={"content-type": f"image/{kind.lower()}"})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["model_name"], told["model_version"]) == ("net", "3")
    classes = told["predictions"][0]["classes"]
    order = np.argsort(-expected(x)[0])
    assert [row["index"] for row in classes] == order[:2].tolist()
    assert [row["label"] for row in classes] == [("cat", "dog", "frog")[k] for k in order[:2]]
    assert classes[0]["probability"] == pytest.approx(expected(x)[0].max(), abs=5e-3)


def test_files_of_a_form(settings: Settings) -> None:
    x = images(2)
    files = [("files", (f"{k}.png", encoded(row), "image/png")) for k, row in enumerate(x)]
    told = ask(settings, "/v2/models/net/versions/3/classify", files=files).json()
    assert [row["image"] for row in told["predictions"]] == ["0.png", "1.png"]
    best = [row["classes"][0]["index"] for row in told["predictions"]]
    assert best == expected(x).argmax(-1).tolist()


def test_images_as_bytes_of_the_protocol(settings: Settings) -> None:
    x = images(2)
    data = [base64.b64encode(encoded(row)).decode() for row in x]
    body = {"inputs": [{"name": "image", "shape": [2], "datatype": "BYTES", "data": data}]}
    told = ask(settings, "/v2/models/net/infer", json=body).json()
    np.testing.assert_allclose(np.reshape(told["outputs"][1]["data"], (2, 3)), expected(x), atol=2e-3)


def test_grey_and_turned_images_come_as_predict_has_them(settings: Settings, tmp_path: Path) -> None:
    from tfhalf.serve.models.images import decode_one
    from tfhalf.workflows.image_files import read_image

    image = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    for shape, center in (((4, 4, 3), None), ((8, 8, 1), None), ((8, 8, 3), 0.7)):
        got = decode_one((tmp_path / "turned.jpg").read_bytes(), shape, center, 10_000)
        predicted = read_image(tmp_path / "turned.jpg", shape, np.dtype("float32"), (0.0, 255.0), center)
        np.testing.assert_array_equal(got, predicted)


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "image/png", 400),
        (b"hello", "image/png", 400),
        (encoded(np.zeros((4, 4, 3)))[:40], "image/png", 400),
        (encoded(np.zeros((200, 200, 3))), "image/png", 413),
        (encoded(np.zeros((4, 4, 3)), "PCX"), "image/x-pcx", 415),
        (encoded(np.zeros((4, 4, 3)), "PCX"), "image/png", 400),
        (b"x", "multipart/form-data", 400),
        (b"x", "multipart/form-data; boundary=a", 400),
        (b"--a--\r\n", "multipart/form-data; boundary=a", 400),
    ],
)
def test_what_is_no_image(settings: Settings, content: bytes, kind: str, status: int) -> None:
    answer = ask(settings, CLASSIFY, content=content, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]


def test_top(settings: Settings) -> None:
    for top in ("0", "x", "-1", "1e3", ""):
        assert ask(settings, f"{CLASSIFY}?top={top}", content=b"x").status_code == 400


# --- the page and the document ----------------------------------------------------------------------------------------


def test_the_page_needs_nothing_from_elsewhere(settings: Settings) -> None:
    page = ask(settings, "/", "GET")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in ("/", "/page.css", "/page.js"):
        text = ask(settings, path, "GET").text
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text
        assert "innerHTML" not in text
    told = ask(settings, "/status", "GET").json()
    version = told["models"][0]["versions"][0]
    assert (version["state"], version["accuracy"], version["images"]) == ("ready", 0.93, True)


def test_every_route_is_in_the_document(settings: Settings) -> None:
    from starlette.routing import Route

    async def work() -> None:
        async with client(settings) as c:
            paths = (await c.get("/openapi.json")).json()["paths"]
            routes = [route for route in c.app.routes if isinstance(route, Route)]
            there = {(route.path, method) for route in routes for method in route.methods or () if method != "HEAD"}
            told = {(path, method.upper()) for path, methods in paths.items() for method in methods}
            rest = {path for path, _ in there - told}
            assert {path for path in rest if ":{verb}" not in path} == {"/v2/", "/answers.js", "/page.css", "/page.js"}
            assert told <= there
            answer = await c.post("/v2/models/net/infer", json={"inputs": [tensor(images(1))]})
            assert answer.status_code == 200

    run(work)
