"""A grid of texts, from the file to the report: in the words of texts, with pictures that need no images."""

import pytest
import yaml

from fedpriv.experiment import conclusion
from fedpriv.experiment.arm import arms
from fedpriv.experiment.drawings import drawings
from fedpriv.experiment.report import write_report
from fedpriv.experiment.table import gather
from tests.experiment.conftest import finish

GRID = {
    "name": "texts",
    "setting": {
        "data": "sentences(length=6,vocabulary=40)",
        "model": "bag_of_embeddings(width=4,hidden=[4])",
        "attack": "token_set",
        "exposure": {"images": 4},
    },
    "grid": {
        "protection": {"none": {"defense": "none"}, "frozen": {"defense": "freeze(layers=[embedding])"}},
        "exposure.batch": [1, 2],
    },
}


@pytest.mark.slow
def test_texts_from_the_file_to_the_report(tmp_path):
    path = tmp_path / "texts.yaml"
    path.write_text(yaml.safe_dump(GRID))
    experiment, store = finish(path, tmp_path / "r")
    made = arms(gather(experiment, store))
    free = [a for a in made if a.labels["protection"] == "none"]
    for arm in free:
        assert arm.goal.unit == "text"
        row = arm.row()
        assert row["set_accuracy_mean"] == 1.0  # the rows of a table of embeddings tell all tokens
        assert not any(key.startswith(("psnr", "ssim")) for key in row)
    frozen = [a for a in made if a.labels["protection"] == "frozen"]
    assert all(a.refused and not a.results[0].scores for a in frozen)  # no row moves
    figures = {d.stem: d for d in drawings(experiment, made)}
    assert {"reconstructions", "success_over_batch", "rouge_l_over_batch"} <= set(figures)
    shown = [t.get_text() for t in figures["reconstructions"].draw().texts]
    assert "Original" in shown
    assert figures["rouge_l_over_batch"].draw().axes[0].get_ylabel() == "ROUGE-L"
    said = " ".join(conclusion.sentences(experiment, made))
    assert "of 4 texts" in said
    assert "PSNR" not in said
    page = write_report(experiment, store, ["fedpriv"]).read_text()
    for words in ("Token set", "ROUGE-2", "Tokens in place", "longest common subsequence"):
        assert words in page
    assert "PSNR" not in page
