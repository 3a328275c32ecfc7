"""Makes `anes96.csv.xz` from statsmodels' copy: `python make_anes96.py PATH/statsmodels/datasets/anes96/anes96.csv`."""

import sys
from pathlib import Path

import pandas

PARTY = (
    "strong Democrat",
    "weak Democrat",
    "independent Democrat",
    "independent",
    "independent Republican",
    "weak Republican",
    "strong Republican",
)
EDUCATION = (
    "up to grade 8",
    "some high school",
    "high school",
    "some college",
    "college degree",
    "master's degree",
    "PhD",
)
LEANING = (
    "extremely liberal",
    "liberal",
    "slightly liberal",
    "moderate",
    "slightly conservative",
    "conservative",
    "extremely conservative",
)


def anes96(path: str) -> pandas.DataFrame:
    """The table with its codes in words; the columns and rows in their order."""
    coded = pandas.read_csv(path, sep=r"\s", engine="python")
    coded = coded.rename(columns=lambda name: name.strip("'"))

    def named(column: str, names: tuple[str, ...], first: int) -> pandas.Series:
        return coded[column].map(dict(enumerate(names, first)))

    return pandas.DataFrame(
        {
            "population": coded["popul"],
            "tv_news": coded["TVnews"],
            "own_leaning": named("selfLR", LEANING, 1),
            "clinton_leaning": named("ClinLR", LEANING, 1),
            "dole_leaning": named("DoleLR", LEANING, 1),
            "party": named("PID", PARTY, 0),
            "age": coded["age"],
            "education": named("educ", EDUCATION, 1),
            "income": coded["income"],
            "vote": named("vote", ("Clinton", "Dole"), 0),
        }
    )


if __name__ == "__main__":
    anes96(sys.argv[1]).to_csv(Path(__file__).with_name("anes96.csv.xz"), index=False, lineterminator="\n")
