"""The measurement of label inference: small, to the end, with the files it promises."""

from __future__ import annotations

import csv
import json

from fedpriv_experiments.label_inference import main, markdown


def test_a_small_run_writes_its_tables(tmp_path):
    main(
        data="fashion_small",
        models=["logistic"],
        batches=[1, 12],
        methods=["auto", "idlg", "gradinversion", "ilrg"],
        rounds=[0],
        steps=[1],
        trials=4,
        rate=0.1,
        training_rate=0.05,
        seed=3,
        out=tmp_path,
        name="small",
    )
    saved = json.loads((tmp_path / "small.json").read_text())
    rows = {(r["batch"], r["method"]): r for r in saved["rows"]}
    assert rows[1, "idlg"]["existence"] == rows[1, "auto"]["instances"] == 1.0
    assert rows[1, "auto"]["source"] == "idlg, bias"
    assert rows[12, "gradinversion"]["refused"] == 4
    assert "12 examples of 10 classes" in rows[12, "gradinversion"]["reason"]
    assert rows[12, "ilrg"]["instances_low"] <= rows[12, "ilrg"]["instances"] <= rows[12, "ilrg"]["instances_high"]
    assert saved["provenance"]["seed"] == 3
    assert saved["provenance"]["versions"]["tensorflow"].startswith("2.14")
    with open(tmp_path / "small.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(saved["rows"]) == 8
    table = (tmp_path / "small.md").read_text()
    assert table == markdown(saved["rows"]) + "\n"
    assert table.splitlines()[2].startswith("| logistic | untrained | 1 | 1 | 1.00 / 1.00 |")
