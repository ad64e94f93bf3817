"""The index of exports: redeploys, broken versions, pins, labels."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serve_helpers import Counting, client, expected, images, lines, make_version, run, tensor

from tfhalf.errors import ArtifactError, InputError, RequestError, ShortfallError
from tfhalf.serve.models import repository as repositories
from tfhalf.serve.models import scan
from tfhalf.serve.models.model import Model
from tfhalf.serve.settings import Label, Settings, parse_labels, parse_pins


def settings(path: Path, **more: object) -> Settings:
    return Settings((path,), poll_seconds=0, **more)  # type: ignore[arg-type]


def test_a_new_version_takes_over_and_the_old_one_drains(tmp_path: Path) -> None:
    make_version(tmp_path, "net", 1, seed=1)

    async def work() -> None:
        async with client(settings(tmp_path)) as c:
            x = images(1)
            body = {"inputs": [tensor(x)]}
            assert (await c.post("/v2/models/net/infer", json=body)).json()["model_version"] == "1"
            make_version(tmp_path, "net", 2, seed=2)
            await c.app.state.engine.repository.refresh()
            told = (await c.post("/v2/models/net/infer", json=body)).json()
            assert told["model_version"] == "2"
            np.testing.assert_allclose(told["outputs"][1]["data"], expected(x, 2)[0], atol=2e-3)
            assert (await c.post("/v2/models/net/versions/1/infer", json=body)).status_code == 404
            await asyncio.sleep(0.1)
            assert "version_retired" in {line["event"] for line in lines(c)}

    run(work)


def test_a_broken_version_never_takes_the_old_one_down(tmp_path: Path) -> None:
    make_version(tmp_path, "net", 1)

    async def work() -> None:
        async with client(settings(tmp_path)) as c:
            repository = c.app.state.engine.repository
            broken = make_version(tmp_path, "net", 2, seed=2)
            whole = (broken / "model.onnx").read_bytes()
            (broken / "model.onnx").write_bytes(whole[:-1] + b"\0")
            await repository.refresh()
            body = {"inputs": [tensor(images(1))]}
            assert (await c.post("/v2/models/net/infer", json=body)).json()["model_version"] == "1"
            assert (await c.get("/v2/health/ready")).status_code == 200
            told = (await c.get("/v2/models/net")).json()
            assert "is not the file that was published" in told["parameters"]["failures"]["2"]
            assert (await c.post("/v2/models/net/versions/2/infer", json=body)).status_code == 503
            status = (await c.get("/v1/models/net")).json()["model_version_status"]
            assert [(row["version"], row["state"]) for row in status] == [("2", "END"), ("1", "AVAILABLE")]
            failures = [line for line in lines(c) if line["event"] == "version_failed"]
            await repository.refresh()
            assert len([line for line in lines(c) if line["event"] == "version_failed"]) == len(failures) == 1
            (broken / "model.onnx").write_bytes(whole)  # as when a copy was still going on
            await repository.refresh()
            assert (await c.post("/v2/models/net/infer", json=body)).json()["model_version"] == "2"
            assert (await c.get("/v2/models/net")).json()["parameters"]["failures"] == {}

    run(work)


def test_a_version_that_is_taken_away_gives_way_to_the_one_before(tmp_path: Path) -> None:
    for number in (1, 2):
        make_version(tmp_path, "net", number)

    async def work() -> None:
        async with client(settings(tmp_path)) as c:
            body = {"inputs": [tensor(images(1))]}
            shutil.rmtree(tmp_path / "net" / "2")
            await c.app.state.engine.repository.refresh()
            assert (await c.post("/v2/models/net/infer", json=body)).json()["model_version"] == "1"
            shutil.rmtree(tmp_path / "net")
            await c.app.state.engine.repository.refresh()
            assert (await c.post("/v2/models/net/infer", json=body)).json()["model_version"] == "1"

    run(work)


def test_no_request_is_lost_while_versions_change(tmp_path: Path) -> None:
    make_version(tmp_path, "net", 1, seed=1)

    async def work() -> None:
        async with client(settings(tmp_path)) as c:
            repository, seen = c.app.state.engine.repository, Counter[str]()
            done = asyncio.Event()

            async def load(k: int) -> None:
                x = images(1 + k % 3, seed=k)
                while not done.is_set():
                    answer = await c.post("/v2/models/net/infer", json={"inputs": [tensor(x)]})
                    assert answer.status_code == 200, answer.text
                    told = answer.json()
                    want = expected(x, int(told["model_version"])).reshape(-1)
                    np.testing.assert_allclose(told["outputs"][1]["data"], want, atol=2e-3)
                    seen[told["model_version"]] += 1

            async def deploy() -> None:
                for number in range(2, 12):
                    make_version(tmp_path, "net", number, seed=number)
                    await repository.refresh()
                    await asyncio.sleep(0.01)
                done.set()

            await asyncio.gather(deploy(), *(load(k) for k in range(6)))
            assert len(seen) > 5

    run(work)


def test_the_poll_notices(tmp_path: Path) -> None:
    make_version(tmp_path, "net", 1)

    async def work() -> None:
        async with client(Settings((tmp_path,), poll_seconds=0.02)) as c:
            make_version(tmp_path, "other", 1)
            make_version(tmp_path, "net", 2)
            for name, number in (("other", "1"), ("net", "2")):
                for _ in range(3000):
                    told = (await c.get(f"/v2/models/{name}")).json()
                    if told.get("versions") == [number]:
                        break
                    await asyncio.sleep(0.02)
                assert told["versions"] == [number]

    run(work)


def test_where_the_newest_is_broken_at_start_the_one_before_serves(tmp_path: Path) -> None:
    make_version(tmp_path, "net", 1)
    (make_version(tmp_path, "net", 2) / "manifest.json").write_text("{")

    async def work() -> None:
        async with client(settings(tmp_path)) as c:
            told = (await c.get("/v2/models/net")).json()
            assert told["versions"] == ["1"]
            assert "not readable JSON" in told["parameters"]["failures"]["2"]

    run(work)


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    import onnx
    from serve_helpers import hash_again, onnx_model

    version = make_version(tmp_path, "net", 1)
    model = onnx_model()
    kernel = model.graph.initializer[0]
    kernel.ClearField("raw_data")
    kernel.data_location = onnx.TensorProto.EXTERNAL
    kernel.external_data.add(key="location", value="../../../etc/passwd")
    (version / "model.onnx").write_bytes(model.SerializeToString())
    hash_again(version)

    async def work() -> None:
        async with client(settings(tmp_path)):
            pass

    with pytest.raises(ShortfallError, match=r"keeps weights in .*only model\.onnx\.data beside it"):
        run(work)


def make_unreadable(exports: Path) -> None:
    """Models that sort before and after ``net``, each with something that cannot be read; and version 9 of it."""
    for name in ("aaa", "mmm", "zzz"):
        version = make_version(exports, name, 1)
        (version / "manifest.json").unlink()
    os.mkfifo(exports / "aaa" / "1" / "manifest.json")
    (exports / "mmm" / "1" / "manifest.json").symlink_to("/dev/zero")
    (exports / "zzz" / "1" / "manifest.json").symlink_to("manifest.json")
    (exports / "bbb").symlink_to("bbb")
    (exports / "ccc").mkdir()
    (exports / "ccc" / "1").symlink_to("1")
    for number, target in enumerate(("link", "nothing", "/dev/tty"), 6):
        (make_version(exports, "net", number) / "link").symlink_to(target)
    os.mkfifo(make_version(exports, "net", 9) / "pipe")


def test_what_cannot_be_read_keeps_nothing_from_being_served(tmp_path: Path) -> None:
    """Pipes, devices and links that lead nowhere: each is refused at once, at the start and while it serves."""
    make_version(tmp_path, "net", 1)
    make_unreadable(tmp_path)

    async def work() -> None:
        began = time.monotonic()
        async with client(settings(tmp_path), opener=Counting().open) as c:
            repository = c.app.state.engine.repository
            assert (await c.get("/v2/models/net")).json()["versions"] == ["1"]
            for name in ("aaa", "mmm", "zzz"):
                assert (await c.get(f"/v2/models/{name}")).json()["parameters"]["failures"]
            make_version(tmp_path, "net", 20)
            make_version(tmp_path, "other", 1)
            await repository.refresh()
            assert (await c.get("/v2/models/net")).json()["versions"] == ["20"]
            assert (await c.get("/v2/models/other")).json()["versions"] == ["1"]
            assert not [line for line in lines(c) if "trace" in line]
        assert time.monotonic() - began < 30

    run(work)


@pytest.mark.parametrize("where", ["scan.below", "scan.fingerprint", "read", "load"])
def test_a_file_system_that_hangs_holds_up_its_model_alone(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_version(tmp_path, "hung", 1)
    make_version(tmp_path, "net", 1)
    answers = threading.Event()
    real = {"scan.below": scan.below, "scan.fingerprint": scan.fingerprint}.get(
        where, getattr(repositories, where, None)
    )

    def hang(*arguments: Any) -> Any:
        if any(isinstance(part, Path) and "hung" in str(part.relative_to(tmp_path)) for part in arguments):
            assert answers.wait(60)
        return real(*arguments)

    monkeypatch.setattr(f"tfhalf.serve.models.repository.{where}", hang)
    for name in ("_LIST_SECONDS", "_READ_SECONDS", "_OPEN_SECONDS"):
        monkeypatch.setattr(f"tfhalf.serve.models.repository.{name}", 0.1)

    async def work() -> None:
        async with client(settings(tmp_path), opener=Counting().open) as c:
            repository = c.app.state.engine.repository
            assert (await c.get("/v2/models/net/ready")).status_code == 200
            assert (await c.get("/v2/models/hung/ready")).status_code in (400, 404)
            for number in (2, 3):
                make_version(tmp_path, "net", number)
                for _ in range(100):  # a machine under load takes longer over it, too, and then tries again
                    await repository.refresh()
                    if (told := (await c.get("/v2/models/net")).json()["versions"]) == [str(number)]:
                        break
                assert told == [str(number)]
            late = [str(line.get("error")) for line in lines(c) if "within" in str(line.get("error"))]
            assert len([error for error in late if "hung" in error]) == 1  # it is not started again and again
            answers.set()
            for _ in range(100):
                await asyncio.sleep(0.1)
                await repository.refresh()
                if (ready := (await c.get("/v2/models/hung/ready")).status_code) == 200:
                    break
            assert ready == 200

    run(work)


def test_labels_and_their_shares(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        make_version(tmp_path, "net", number)
    labels = parse_labels(["net:stable=1", "net:canary=3@25"])

    async def work() -> None:
        async with client(settings(tmp_path, labels=labels), opener=Counting().open) as c:
            body = {"inputs": [tensor(images(1))]}
            got = Counter(
                [(await c.post("/v2/models/net/infer", json=body)).json()["model_version"] for _ in range(40)]
            )
            assert got == {"1": 30, "3": 10}
            canary = (await c.post("/v2/models/net/versions/canary/infer", json=body)).json()
            assert canary["model_version"] == "3"
            predicted = await c.post("/v1/models/net/labels/stable:predict", json={"instances": images(1).tolist()})
            assert predicted.status_code == 200
            status = (await c.get("/v1/models/net/labels/stable")).json()["model_version_status"]
            assert [row["version"] for row in status] == ["1"]
            assert (await c.get("/v1/models/net/labels/none")).status_code == 404
            assert (await c.get("/v2/models/net")).json()["versions"] == ["1", "3"]

    run(work)


def test_pins_and_more_than_one_version(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        make_version(tmp_path, "net", number)

    async def served(**more: object) -> list[str]:
        async with client(settings(tmp_path, **more)) as c:
            versions: list[str] = (await c.get("/v2/models/net")).json()["versions"]
            return versions

    assert asyncio.run(served(pins=(("net", 2),))) == ["2"]
    assert asyncio.run(served(latest=2)) == ["2", "3"]
    assert asyncio.run(served(pins=(("net", 1),), labels=parse_labels(["net:old=2"]))) == ["1", "2"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"pins": (("net", 9),)}, "no version 9; it has 1"),
        ({"pins": (("nett", 1),)}, "no such model; there are net"),
        ({"labels": (Label("net", "stable", 7),)}, "no version 7"),
    ],
)
def test_pins_and_labels_must_be_there(tmp_path: Path, more: dict[str, object], message: str) -> None:
    make_version(tmp_path, "net", 1)

    async def work() -> None:
        async with client(settings(tmp_path, **more)):
            pass

    with pytest.raises(InputError, match=message):
        run(work)


def test_forms_of_labels_and_pins() -> None:
    assert parse_labels(["a:b=newest@12.5"]) == (Label("a", "b", None, 0.125),)
    assert parse_pins(["a=1", "a=2", "a=1"]) == (("a", 1), ("a", 2))
    for text in ("a", "a:b", "a:b=x", "a:b=1@", "a:b=1@101", "a:1=1", "a:b=1@1.2.3", ":b=1"):
        with pytest.raises(InputError, match="--label"):
            parse_labels([text])
    with pytest.raises(InputError, match="110 percent"):
        parse_labels(["a:b=1@60", "a:c=1@50"])
    with pytest.raises(InputError, match="already"):
        parse_labels(["a:b=1", "a:b=2"])
    with pytest.raises(InputError, match="--pin"):
        parse_pins(["a:1"])


def test_what_lies_in_the_folders(tmp_path: Path) -> None:
    make_version(tmp_path, "net", 1)
    version = make_version(tmp_path, "net", 20)
    (tmp_path / "net" / "01").mkdir()
    (tmp_path / "net" / "failed-3").mkdir()
    (tmp_path / "no version").mkdir()
    assert scan.scan([tmp_path]) == {"net": {1: tmp_path / "net" / "1", 20: version}}
    assert scan.scan([tmp_path / "net"]) == {"net": {1: tmp_path / "net" / "1", 20: version}}
    assert scan.scan([version]) == {"net": {20: version}}
    make_version(tmp_path / "b", "net", 1)
    with pytest.raises(InputError, match="holds too"):
        scan.scan([tmp_path, tmp_path / "b"])
    for path in (tmp_path / "nothing", tmp_path / "no version"):
        with pytest.raises(ArtifactError, match=str(path)):
            scan.check([path])


def test_an_unknown_version_is_told() -> None:
    model = Model("net", (), (), 1)
    with pytest.raises(RequestError, match="no version that answers") as error:
        model.choose(None)
    assert error.value.status == 503
