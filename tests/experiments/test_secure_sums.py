"""The benchmark of secure sums: true sums, closed forms, and cells that are left out and say so."""

import json

import pytest

from experiments.benchmarks import secure_sums


@pytest.mark.parametrize("name", [n for n in secure_sums.PROTOCOLS if n != "Paillier"])
def test_a_cell_adds_up_and_counts(name):
    row = secure_sums.measured(name, 10, 200, 0.1)
    assert set(row["seconds"]) == set(secure_sums._protocol(name).phases) or "active" in name
    assert sum(v for k, v in row["bytes"].items() if " client " in k) == pytest.approx(
        10 * row["client_sends"], rel=1e-5
    )
    assert row["total_seconds"] == pytest.approx(sum(row["seconds"].values()), rel=1e-4)
    assert (row["over_cipher"] is None) == ("SecAgg" not in name or name == "LightSecAgg")


def test_masks_are_counted_as_they_are_made():
    """10 clients of 100 values, one goes: 9 put on 10 masks each; 9 own ones and 9 towards the gone come off."""
    protocol = secure_sums._protocol("SecAgg")
    assert secure_sums.mask_words(protocol, 10, 100, 0.1) == 100 * (9 * 10 + 9 + 9)


def test_expansion_is_near_the_papers():
    found = secure_sums.expansion(1 << 10, 1 << 20)
    assert found["bits"] == 26
    assert found["ours"] == pytest.approx(1.73, abs=0.06)


def test_large_cells_are_left_out_with_the_reason():
    assert "above the limit of 60 s" in secure_sums.left_out("SecAgg", 1000, 1_000_000, 0.1, 60)
    assert "GB of pieces" in secure_sums.left_out("LightSecAgg", 1000, 1_000_000, 0.1, 1e9)
    assert secure_sums.left_out("SecAgg+", 1000, 100_000, 0.1, 60) == ""


def test_the_command_writes_a_table_and_figures(tmp_path, monkeypatch):
    row = secure_sums.measured("SecAgg", 4, 50, 0.0)
    monkeypatch.setattr(secure_sums, "_cell", lambda name, n, d, share, limit: {
        "protocol": name, "clients": n, "parameters": d, "dropout": share, **row,
    })  # fmt: skip
    secure_sums.main("SecAgg;SecAgg+", "4,8", "50", "0", 60.0, tmp_path / "sums.json")
    saved = json.loads((tmp_path / "sums.json").read_text())
    assert len(saved["rows"]) == 4
    assert saved["provenance"]["command"].startswith("uv run python -m experiments.benchmarks.secure_sums")
    assert {p.name for p in tmp_path.iterdir()} == {
        "sums.json",
        "sums_total_seconds_50.png",
        "sums_client_sends_50.png",
    }
