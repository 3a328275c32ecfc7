"""Tables: columns in, rows out."""

import importlib.resources
import lzma

import numpy as np
import pandas
import pytest

from fedpriv.base.errors import DataError, ParameterError
from fedpriv.data import load, make_partition
from fedpriv.data.kinds.columns import Categorical, Columns, Numeric
from fedpriv.data.table import from_frame, table

RNG = np.random.default_rng(0)
N = 50


def people(n=N):
    return pandas.DataFrame(
        {
            "age": RNG.integers(18, 90, n),
            "owner": [f"p{i % 7}" for i in range(n)],
            "height": RNG.normal(170, 8, n),
            "city": RNG.choice(["Graz", "Linz", "Wien"], n),
            "income": RNG.choice(["low", "high"], n),
        }
    )


def by_row(rows):
    return sorted(map(tuple, rows.round(3).to_numpy().tolist()))


@pytest.mark.parametrize("file", ["people.csv", "people.csv.xz", "people.npz"])
def test_every_row_comes_back_in_its_own_units(tmp_path, file):
    rows, path = people(), tmp_path / file
    if file.endswith("npz"):
        columns = {c: rows[c].to_numpy() for c in rows}
        np.savez(path, **{c: a.astype(str) if a.dtype == object else a for c, a in columns.items()})
    else:
        rows.to_csv(path, index=False)
    train, test = load(path)
    assert (len(train), len(test)) == (40, 10)
    assert train.class_names == ("high", "low")
    read = pandas.concat([s.kind.decode(s.x, s.y) for s in (train, test)])
    assert by_row(read[list(rows)]) == by_row(rows)


def test_numbers_are_standardized_by_the_training_rows():
    train, test = from_frame(people(), "people")
    age = [f.name for f in train.kind.fields].index("age")
    np.testing.assert_allclose([train.x[:, age].mean(), train.x[:, age].std()], [0, 1], atol=1e-5)
    assert test.kind == train.kind
    assert train.kind.fields[age].integer
    assert train.input_shape == (1 + 7 + 1 + 3,)


def test_the_target_is_found_or_named_and_says_what_the_task_is():
    rows = people()
    assert from_frame(rows, "p")[0].num_classes == 2  # the last column
    train, _ = from_frame(rows, "p", target="height")
    assert train.num_classes == 0
    assert (train.y.dtype, train.kind.target.name) == (np.float32, "height")
    np.testing.assert_allclose([train.y.mean(), train.y.std()], [0, 1], atol=1e-5)
    assert from_frame(rows.rename(columns={"city": "Label"}), "p")[0].class_names == ("Graz", "Linz", "Wien")
    assert from_frame(rows.assign(target=np.arange(N) % 3), "p")[0].num_classes == 3  # few whole numbers are classes
    assert from_frame(rows.assign(target=np.arange(N)), "p")[0].num_classes == 0  # many are quantities
    assert from_frame(rows.assign(target=np.arange(N)), "p", categorical=("target",))[0].num_classes == N


def test_keys_are_owners_and_no_feature(tmp_path):
    people().to_csv(tmp_path / "p.csv", index=False)
    train, _ = load(f"table(path={tmp_path / 'p.csv'},keys=owner,test_fraction=0)")
    assert "owner" not in [f.name for f in train.kind.fields]
    parts = make_partition("natural", train, None, 0)
    assert len(parts) == 7
    for rows in parts.indices:
        assert len(set(train.keys[rows])) == 1


@pytest.mark.parametrize("share", [1, -1])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ParameterError, match=f"test_fraction={share}: give a share from 0 to below 1"):
        from_frame(people(), "people", test_fraction=share)


@pytest.mark.parametrize(
    ("change", "options", "error", "says"),
    [
        (lambda r: r, {"target": "incme"}, ParameterError, "Did you mean 'income'"),
        (lambda r: r, {"categorical": ("years",)}, ParameterError, "no column 'years'"),
        (lambda r: r.assign(height=[np.nan, *r.height[1:]]), {}, DataError, "'height' has 1 missing values.*row 1"),
        (lambda r: r.assign(height=[np.inf, *r.height[1:]]), {}, DataError, "'height' is infinite"),
        (lambda r: r.assign(income="low"), {}, DataError, "always 'low'"),
        (lambda r: r[["income"]], {}, DataError, "1 columns"),
        (lambda r: r[["owner", "income"]], {"keys": "owner"}, DataError, "no column is left"),
        (lambda r: r.iloc[:1], {}, DataError, "1 rows"),
        (lambda r: r.rename(columns={"city": "age"}), {}, DataError, "same name"),
    ],
)
def test_what_is_no_table_is_told_why(change, options, error, says):
    with pytest.raises(error, match=says):
        from_frame(change(people()), "p", **options)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "no CSV file that can be read"), (b"\xff\xfe\x00", "no CSV file"), (b"a,b\n1,2\n3,4,5\n", "no CSV file")],
)
def test_files_that_are_none_are_told_why(tmp_path, content, says):
    (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(DataError, match=says):
        load(tmp_path / "p.csv")
    (tmp_path / "q.csv.xz").write_bytes(lzma.compress(b"a,b\n1,2\n3,4\n")[:-9])
    with pytest.raises(DataError, match="no CSV file"):
        load(tmp_path / "q.csv.xz")
    np.savez(tmp_path / "r.npz", a=np.arange(3), b=np.arange(4))
    with pytest.raises(DataError, match="differ in length"):
        table(str(tmp_path / "r.npz"))


@pytest.mark.parametrize(
    ("name", "rows", "classes", "columns"),
    [
        ("clinic", (960, 240), ("no", "yes"), 8),
        ("diabetes", (354, 88), (), 10),
        ("anes96", (755, 189), ("Clinton", "Dole"), 9),
    ],
)
def test_the_samples(name, rows, classes, columns):
    train, test = load(name)
    assert (len(train), len(test)) == rows
    assert (train.class_names, len(train.kind.fields)) == (classes, columns)
    assert {type(f) for f in train.kind.fields} == {Numeric, Categorical}
    assert isinstance(train.kind, Columns)
    for part in (train, test):
        part.kind.checked(part.x, name)


def test_anes96_is_the_published_table():
    """Means and counts of statsmodels' copy, and the notice of its licence."""
    train, test = load("anes96")
    rows = pandas.concat([s.kind.decode(s.x, s.y) for s in (train, test)])
    numbers = ["population", "tv_news", "age", "income"]
    np.testing.assert_allclose(rows[numbers].mean(), [306.3814, 3.7278, 47.0434, 16.3316], atol=1e-3)
    assert (rows["vote"] == "Clinton").sum() == 551
    assert (rows["party"] == "strong Democrat").sum() == 200
    assert (rows["dole_leaning"] == "conservative").sum() == 460
    folder = importlib.resources.files("fedpriv.data") / "tables"
    assert "This is public domain." in (folder / "anes96.txt").read_text()
    assert len((folder / "anes96.csv.xz").read_bytes()) < 60_000


def test_diabetes_is_the_published_table():
    from sklearn.datasets import load_diabetes

    train, test = load("diabetes")
    ours = pandas.concat([s.kind.decode(s.x, s.y) for s in (train, test)]).astype(np.float64)
    theirs = load_diabetes(scaled=False, as_frame=True).frame
    a, b = (np.array(sorted(map(tuple, t.to_numpy().round(2).tolist()))) for t in (ours, theirs))
    np.testing.assert_allclose(a, b, atol=0.011)
