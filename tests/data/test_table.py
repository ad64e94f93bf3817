"""``csv:``: roles of columns, empty cells, targets of each kind, parts, and what is said of cells that do not fit."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tfhalf.config import Data
from tfhalf.data import Splits, load_splits, memory
from tfhalf.data.sources import cells
from tfhalf.errors import DataError

DATASETS = Path(os.environ.get("TFHALF_DATASETS", Path(__file__).parents[3] / "shared" / "datasets"))

PEOPLE = "age,city,income,sick\n" + "".join(
    f"{20 + n},{'Rome' if n % 2 else 'Oslo'},{1000.5 + n},{'yes' if n % 3 else 'no'}\n" for n in range(30)
)
SICK = {"sick": "target"}


def load(base: Path, source: str = "csv:a.csv", kind: Any = "classes", **rest: Any) -> Splits:
    return load_splits(Data(source=source, **rest), base=base, seed=0, kind=kind)


def write(base: Path, text: str | bytes, name: str = "a.csv") -> Path:
    (base / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return base


# --- inputs ----------------------------------------------------------------------------------------------------------


def test_numbers_and_categories_are_inputs_of_their_own(tmp_path):
    splits = load(write(tmp_path, PEOPLE), columns=SICK)
    assert list(splits.x_train) == ["numbers", "city"]
    numbers, city = splits.x_train.arrays.values()
    assert (numbers.dtype, numbers.shape[1:]) == (np.float32, (2,))
    assert (city.dtype, city.shape[1:]) == (np.int32, (1,))
    assert splits.columns == {"numbers": ("age", "income"), "city": ("city",)}
    assert splits.vocabularies == {"city": ("", "Oslo", "Rome")}
    assert np.array_equal(city[:, 0], 1 + (numbers[:, 0].astype(int) % 2))
    assert splits.class_names == ("no", "yes")
    assert np.array_equal(splits.y_train, (numbers[:, 0].astype(int) - 20) % 3 > 0)
    assert splits.targets == ("sick",)
    assert splits.sizes == {"train": 22, "validation": 2, "test": 6}


def test_numbers_alone_are_one_array(tmp_path):
    splits = load(write(tmp_path, PEOPLE), columns={**SICK, "city": "ignore"})
    assert splits.x_train.dtype == np.float32
    assert splits.input_shape == (2,)
    assert splits.columns == {"numbers": ("age", "income")}
    assert sorted([*splits.x_train[:, 0], *splits.x_val[:, 0], *splits.x_test[:, 0]]) == list(range(20, 50))


def test_one_text_column_alone_is_an_array_of_words(tmp_path):
    rows = "".join(f'{n % 2},"he said ""{n}"", then\nleft"\n' for n in range(10))
    splits = load(write(tmp_path, f"label,said\n{rows}"), columns={"label": "target", "said": "text"}, validation=0)
    said = [[splits.vocabularies["said"][number] for number in row] for row in splits.x_train]
    assert {tuple(row[:2] + row[3:]) for row in said} == {("he", "said", "then", "left")}
    assert splits.texts["said"].samples[0].endswith('", then\nleft')
    assert splits.columns == {"said": ("said",)}


def test_a_category_that_the_training_part_lacks_is_0(tmp_path):
    write(tmp_path, "c,y\nb,0\na,1\n,0\nb,1\n", "train.csv")
    write(tmp_path, "y,c\n0,a\n1,elk\n", "test.csv")
    splits = load(tmp_path, f"csv:{tmp_path}", columns={"y": "target"}, validation=0)
    assert splits.vocabularies == {"c": ("", "a", "b")}
    assert splits.x_train.arrays["c"].tolist() == [[2], [1], [0], [2]]
    assert splits.x_test.arrays["c"].tolist() == [[1], [0]]
    assert splits.y_test.tolist() == [0, 1]


def test_weights_are_a_column(tmp_path):
    splits = load(write(tmp_path, PEOPLE), columns={**SICK, "income": "weight", "city": "ignore"}, validation=0)
    assert np.array_equal(splits.w_train, splits.x_train[:, 0] + np.float32(980.5))
    with pytest.raises(DataError, match="several columns of role weight"):
        load(tmp_path, columns={**SICK, "income": "weight", "age": "weight"})


# --- empty cells -----------------------------------------------------------------------------------------------------

GAPS = "a,b,y\n1,,0\n2,5,1\n,7,0\n4,8,1\n5,9,0\n6,NA,1\n"


def test_an_empty_number_cell_is_refused_with_ways_out(tmp_path):
    with pytest.raises(DataError) as caught:
        load(write(tmp_path, GAPS), columns={"y": "target"})
    assert str(caught.value) == (
        "csv:a.csv: a.csv, line 4, column 'a' is empty; accepted: a value in each; fill it in, or set data.empty: "
        "mean, the mean of the column over the training part, or data.empty: drop, which leaves the row out"
    )


def test_empty_cells_may_stand_for_the_mean(tmp_path):
    said: list[str] = []
    data = Data(source="csv:a.csv", columns={"y": "target"}, empty="mean", validation=0, test=0.3)
    splits = load_splits(data, base=write(tmp_path, GAPS), seed=0, progress=said.append)
    assert "empty cells of a.csv, to be the mean of the training part: a 1, b 2" in said[1]
    every = np.concatenate([splits.x_train, splits.x_test])
    assert np.isnan(every).sum() == 3
    write(tmp_path, "a,b,y\n1,,0\n2,,1\n1,,1\n3,,0\n")
    with pytest.raises(DataError, match=r"column 'b' has no number.*set data.columns: \{b: ignore\}"):
        load(tmp_path, columns={"y": "target"}, empty="mean")


def test_rows_with_an_empty_cell_may_be_left_out(tmp_path):
    said: list[str] = []
    data = Data(source="csv:a.csv", columns={"y": "target"}, empty="drop", validation=0, test=0.3)
    splits = load_splits(data, base=write(tmp_path, GAPS), seed=0, progress=said.append)
    assert "3 of 6 rows of a.csv are left out" in said[1]
    assert sorted([*splits.x_train[:, 0], *splits.x_test[:, 0]]) == [2, 4, 5]
    with pytest.raises(DataError, match=r"none is left; data\.empty: mean"):
        load(write(tmp_path, "a,y\n,1\n,0\n"), columns={"y": "target"}, empty="drop")


def test_an_empty_target_has_no_mean(tmp_path):
    write(tmp_path, "a,y\n1,2.5\n2,\n3,4\n")
    with pytest.raises(
        DataError, match="line 3, column 'y' is empty; accepted: a value in each; fill it in, or set dat"
    ):
        load(tmp_path, kind="numbers", columns={"y": "target"}, empty="mean")
    assert sum(load(tmp_path, kind="numbers", columns={"y": "target"}, empty="drop", validation=0).sizes.values()) == 2


# --- targets ---------------------------------------------------------------------------------------------------------


def test_targets_of_each_kind(tmp_path):
    text = "x,p,q\n" + "".join(f"{n},{n % 2},{n % 3 % 2}\n" for n in range(12))
    both = {"p": "target", "q": "target"}
    write(tmp_path, text)
    numbers = load(tmp_path, kind="numbers", columns=both, validation=0)
    assert (numbers.y_train.dtype, numbers.y_train.shape[1:], numbers.num_classes) == (np.float32, (2,), 0)
    assert numbers.targets == ("p", "q")
    multi = load(tmp_path, kind="multi", columns=both, validation=0)
    assert (multi.y_train.dtype, multi.class_names, multi.num_classes) == (np.float32, ("p", "q"), 2)
    assert np.array_equal(multi.y_train[:, 0], multi.x_train[:, 0] % 2)
    steps = load(tmp_path, kind="steps", columns=both, validation=0)
    assert (steps.y_train.dtype, steps.num_classes) == (np.int32, 2)
    with pytest.raises(DataError, match="the targets are p, q; the pipeline's task takes one target column"):
        load(tmp_path, columns=both)
    with pytest.raises(DataError, match="takes images of masks, as masks:PATH has them"):
        load(tmp_path, kind="masks", columns=both)


def test_several_outputs_are_a_target_column_each(tmp_path):
    kinds = {"sick": "classes", "income": "numbers"}
    splits = load(write(tmp_path, PEOPLE), kind=kinds, columns={**SICK, "income": "target", "city": "ignore"})
    y = splits.y_train.arrays
    assert (y["sick"].dtype, y["income"].dtype, y["income"].shape) == (np.int32, np.float32, (22, 1))
    assert np.array_equal(y["income"], splits.x_train + np.float32(980.5))
    assert splits.output_classes == {"sick": ("no", "yes"), "income": ()}
    with pytest.raises(DataError, match="the targets are sick where the outputs to learn are sick, income; accepted"):
        load(tmp_path, kind=kinds, columns=SICK)


def test_true_and_false_are_labels(tmp_path):
    write(tmp_path, "x,p,q\n1,true,FALSE\n2,false,False\n3,True,true\n")
    splits = load(tmp_path, kind="multi", columns={"p": "target", "q": "target"}, validation=0, test=0.4)
    rows = {int(x): y.tolist() for x, y in zip([*splits.x_train[:, 0], *splits.x_test[:, 0]],
                                               [*splits.y_train, *splits.y_test], strict=True)}  # fmt: skip
    assert rows == {1: [1, 0], 2: [0, 0], 3: [1, 1]}


def test_labels_that_are_numbers_with_gaps_become_classes_of_these_names(tmp_path):
    write(tmp_path, "x,quality\n" + "".join(f"{n},{(3, 5, 10)[n % 3]}\n" for n in range(12)))
    splits = load(tmp_path, columns={"quality": "target"})
    assert splits.class_names == ("3", "5", "10")


def test_a_quantity_is_not_a_class(tmp_path):
    write(tmp_path, "x,price\n" + "".join(f"{n},{n * 1.5}\n" for n in range(200)))
    with pytest.raises(DataError, match=r"column 'price' is the target and holds 200 different numbers; too many"):
        load(tmp_path, columns={"price": "target"})


# --- parts -----------------------------------------------------------------------------------------------------------


def test_a_folder_of_parts(tmp_path):
    for name, count in (("train.tsv", 10), ("dev.tsv", 4), ("test.csv", 6)):
        mark = "," if name.endswith("csv") else "\t"
        write(tmp_path, f"x{mark}y\n" + "".join(f"{n}{mark}{n % 2}\n" for n in range(count)), name)
    write(tmp_path, "x,y\n", "more.csv")
    said: list[str] = []
    data = Data(source=f"csv:{tmp_path}", columns={"y": "target"})
    splits = load_splits(data, base=tmp_path, seed=0, progress=said.append)
    assert splits.sizes == {"train": 10, "validation": 4, "test": 6}
    assert "more.csv not read: the parts are train, dev (or val) and test" in said[0]
    write(tmp_path, "x\ty\n", "val.tsv")
    with pytest.raises(DataError, match=r"holds dev.tsv and val.tsv; one is accepted"):
        load_splits(data, base=tmp_path, seed=0)


def test_columns_of_parts_are_compared_by_name(tmp_path):
    write(tmp_path, "x,y\n1,0\n2,1\n3,0\n4,1\n", "train.csv")
    write(tmp_path, "x,label\n9,1\n", "dev.csv")
    said: list[str] = []
    data = Data(source=f"csv:{tmp_path}", columns={"y": "target"}, test=0.5)
    splits = load_splits(data, base=tmp_path, seed=0, progress=said.append)
    assert "dev.csv: column 'label' is read as 'y', which train.csv has" in said[0]
    assert (splits.x_val.tolist(), splits.y_val.tolist()) == ([[9]], [1])
    write(tmp_path, "z,x,y\n2,9,1\n", "dev.csv")
    splits = load_splits(data, base=tmp_path, seed=0, progress=said.append)
    assert f"csv:{tmp_path}: dev.csv: not read, since train.csv lacks them: z" in said
    assert (splits.x_val.tolist(), splits.y_val.tolist()) == ([[9]], [1])
    write(tmp_path, "x\n9\n", "dev.csv")
    with pytest.raises(
        DataError, match=r"column 'y' is in train.csv and not in dev.csv.*or take dev.csv out of the fo"
    ):
        load_splits(data, base=tmp_path, seed=0)
    write(tmp_path, "y\n1\n", "dev.csv")
    write(tmp_path, "x,y,z\n1,0,5\n2,1,5\n3,0,6\n4,1,6\n", "train.csv")
    data = Data(source=f"csv:{tmp_path}", columns={"y": "target", "x": "ignore"}, test=0.5)
    with pytest.raises(DataError, match=r"column 'z' is in train\.csv and not in dev\.csv"):
        load_splits(data, base=tmp_path, seed=0)
    write(tmp_path, "y,z\n1,7\n", "dev.csv")
    assert load_splits(data, base=tmp_path, seed=0).x_val.tolist() == [[7]]


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "\ufeffx,y\r\n1,a\r\n\r\n2,b\r\n"),
        ("a.csv", "x;y\n1;a\n2;b\n"),
        ("a.csv", "x\ty\n1\ta\n2\tb\n"),
        ("a.csv", 'x,"y"\n"1","a"\n2,b'),
        ("a.tsv", "x\ty\n1\ta\n2\tb\n"),
        ("a.csv", "x;y\r1;a\r2;b\r"),
        ("a.TSV", ' x\t"y"\n1\ta\n2\tb\n'),
    ],
)
def test_what_tables_look_like(tmp_path, name, content):
    table = cells.read(write(tmp_path, content, name) / name, "s")
    assert list(table.columns) == ["x", "y"]
    assert table.columns["x"] == ["1", "2"]
    assert table.columns["y"] == ["a", "b"]


def test_quotes_in_files_with_tabs_may_be_text(tmp_path):
    write(tmp_path, 'y\ttext\n0\t"good\n1\tbad"\n0\t"so" so\n', "a.tsv")
    assert cells.read(tmp_path / "a.tsv", "s").columns["text"] == ['"good', 'bad"', '"so" so']
    write(tmp_path, 'y\ttext\n0\t"a\tb"\n1\tc\n', "a.tsv")
    assert cells.read(tmp_path / "a.tsv", "s").columns["text"] == ["a\tb", "c"]


WRONG: dict[str, tuple[str | bytes, dict[str, Any], str]] = {
    "no target": ("x,y\n1,2\n", {}, r"no column is the target; .*data.columns: \{NAME: target\}, NAME one of x, y"),
    "another name": (
        "x,y\n1,2\n",
        {"columns": {"Y ": "target"}},
        "names 'Y ', which a.csv lacks; accepted: x, y; did you mean 'y'",
    ),
    "no input": ("x,y\n1,2\n", {"columns": {"y": "target", "x": "ignore"}}, "leaves no column to predict from"),
    "no header": ("1,2\n3,4\n", {}, r"the header row holds numbers \(1, 2\); add a row of column names"),
    "a nameless column": (",y\n0,1\n", {}, "the header has no name for column 1; name it"),
    "a name twice": ("x,y,x\n0,1,2\n", {}, "the header has 'x' twice"),
    "no rows": ("x,y\n", {}, "has no row below its header"),
    "nothing": ("", {}, "is empty; a header row"),
    "a short row": ("x,y\n1,2\n3\n", {}, "line 3 has 1 cells where the header has 2, separated by commas"),
    "a long row": ('x,y\n"1\n1",2\n3,4,5\n', {}, "line 4 has 3 cells"),
    "an open quote": ('x,y\n1,"2\n3,4\n', {}, "line 2: unexpected end of data; a cell in double quotes ends with one"),
    "text behind a quote": ('x,y\n1,"2"3\n', {}, "line 2: ',' expected after '\"'"),
    "a huge cell": ("x,y\n1," + "2" * 200_000 + "\n", {}, r"line 2: field larger than field limit \(131072\)"),
    "latin-1": ("x,y\n1,é\n".encode("latin-1"), {}, "line 2 is not UTF-8; .*iconv"),
    "utf-16": ("x,y\n1,2\n".encode("utf-16"), {}, "is UTF-16; accepted: UTF-8"),
    "a word as a number": (
        "x,y\n1,0\nmany,1\n",
        {"columns": {"x": "number", "y": "target"}},
        "line 3, column 'x' is 'many'; accepted: numbers",
    ),
    "infinite": ("x,y\n1,0\n-inf,1\n", {"columns": {"y": "target"}}, "line 3, column 'x' is -inf; accepted: numbers"),
    "too large": ("x,y\n1,0\n1e39,1\n", {"columns": {"y": "target"}}, "line 3, column 'x' is 1e"),
    "decimal commas": (
        "x;y\n" + "".join(f"{n},5;{n % 2}\n" for n in range(120)),
        {"columns": {"y": "target"}},
        r"line 2, column 'x' is '0,5', not a number with a decimal point, and too many cells differ.*\{x: text\}",
    ),
    "a category named as the numbers": (
        "numbers,a,y\nu,1,0\nv,2,1\n",
        {"columns": {"y": "target"}},
        "the column 'numbers' has the name of the input of all numbers; rename it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_in_a_table_is_named_in_one_line(tmp_path, case):
    content, data, message = WRONG[case]
    with pytest.raises(DataError, match=message) as caught:
        load(write(tmp_path, content), **data)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("csv:a.csv: ")


def test_paths_that_are_not_tables(tmp_path):
    write(tmp_path, "x", "a.txt")
    for source, message in (
        ("csv:b.csv", "does not exist"),
        ("csv:a.txt", "is neither"),
        ("csv:.", "holds no train.csv"),
    ):
        with pytest.raises(DataError, match=f"{message}; accepted: a .csv or .tsv file|{message}"):
            load(tmp_path, source)


def test_columns_are_for_tables(tmp_path):
    with pytest.raises(DataError, match=r"data.columns is set; it is for the cells of csv:PATH; remove data.columns"):
        load(tmp_path, "sklearn:digits", columns=SICK)
    with pytest.raises(DataError, match=r"data.empty is set"):
        load(tmp_path, "sklearn:digits", empty="mean")
    with pytest.raises(ValidationError):
        Data(source="csv:a.csv", columns={"x": "label"})


def test_a_table_too_large_for_the_memory_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10_000)
    with pytest.raises(DataError, match=r"needs about .* of memory.*split the file"):
        load(write(tmp_path, PEOPLE))


@given(rows=st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), min_size=1, max_size=8))
@settings(deadline=None)
def test_what_csv_writes_is_read_back(tmp_path_factory, rows):
    import csv

    path = tmp_path_factory.getbasetemp() / "written.csv"
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    table = cells.read(path, "s")
    kept = [tuple(cell.encode("utf-8", "replace").decode() for cell in row) for row in rows]
    assert list(zip(table.columns["a"], table.columns["b"], strict=True)) == kept


@given(
    header=st.sampled_from([b"", b"a,b\n"]), content=st.binary(max_size=200) | st.text('a1,;\t"\r\n').map(str.encode)
)
@settings(deadline=None)
def test_any_bytes_are_a_table_or_an_error_of_ours(tmp_path_factory, header, content):
    path = tmp_path_factory.getbasetemp() / "bytes.csv"
    path.write_bytes(header + content)
    with contextlib.suppress(DataError):
        table = cells.read(path, "s")
        assert {len(column) for column in table.columns.values()} == {len(table)}


# --- real tables -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (DATASETS / "housing").is_dir(), reason=f"{DATASETS} does not hold the data set housing")
def test_housing():
    began = time.process_time()
    splits = load(
        DATASETS, "csv:housing/housing.csv", "numbers", columns={"median_house_value": "target"}, empty="mean"
    )
    assert time.process_time() - began < 10  # it takes half a second
    assert sum(splits.sizes.values()) == 20_640
    assert splits.x_train.arrays["numbers"].shape[1:] == (8,)
    assert len(splits.vocabularies["ocean_proximity"]) == 6
    assert 14_999 <= splits.y_train.min() < splits.y_train.max() <= 500_001


@pytest.mark.skipif(not (DATASETS / "sst2").is_dir(), reason=f"{DATASETS} does not hold the data set sst2")
def test_sst2():
    splits = load(DATASETS, "csv:sst2", columns={"label": "target", "sentence": "text"})
    assert sum(splits.sizes.values()) == 67_349 + 872
    assert splits.sizes["validation"] == 872
    assert splits.class_names == ("0", "1")
    splits = load(DATASETS, "csv:sst2", columns={"label": "target", "sentence": "text"}, test="dev")
    assert splits.sizes == {"train": 60_614, "validation": 6_735, "test": 872}
