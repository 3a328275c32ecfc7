import json

import pytest
from typer.testing import CliRunner

from experiments.benchmarks import encryption as benchmark


def test_rows_hold_costs_of_rounds_that_were_right(tmp_path):
    out = tmp_path / "encryption.json"
    benchmark.main(clients=1, repeats=1, largest=1000, out=out)
    rows = {row["defense"]: row for row in json.loads(out.read_text())["rows"]}
    assert set(rows) == set(benchmark.DEFENSES)
    assert rows["secret sharing"]["expansion"] == pytest.approx(1, rel=0.02)
    # A CKKS ciphertext has 2,048 slots, however few are used; 1,001 values take 18 or so of Paillier's.
    assert 20 < rows["ckks"]["expansion"] < 25
    assert 2 < rows["paillier 2048"]["expansion"] < 3
    for row in rows.values():
        assert row["bytes_a_client"] == sum(n for flow, n in row["bytes"].items() if ": client to" in flow)
        assert set(row["cpu_seconds"]) == {"before", "input", "after"}
        assert set(row["seconds"]) in ({"keys", "encrypt", "decrypt"}, {"share", "publish"})


def test_command_line():
    import typer

    app = typer.Typer()
    app.command()(benchmark.main)
    assert CliRunner().invoke(app, ["--largest", "10"]).exit_code == 2
