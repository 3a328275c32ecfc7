"""Makes `clinic.csv.xz`: `python make_clinic.py` in this folder."""

from pathlib import Path

import numpy as np
import pandas


def clinic(rows: int = 1200, seed: int = 20) -> pandas.DataFrame:
    """Fictitious patients, drawn with NumPy's legacy generator, whose streams never change."""
    rng = np.random.RandomState(seed)
    age = np.clip(np.rint(rng.normal(55, 17, rows)), 18, 95).astype(int)
    sex = rng.choice(["female", "male"], rows)
    smoker = rng.choice(["never", "former", "current"], rows, p=[0.5, 0.3, 0.2])
    region = rng.choice(["north", "east", "south", "west"], rows, p=[0.2, 0.25, 0.3, 0.25])
    ward = rng.choice(["cardiology", "surgery", "internal", "neurology", "orthopaedics"], rows)
    bmi = np.round(np.clip(rng.normal(26 + (smoker == "former") * 1.5, 4, rows), 15, 48), 1)
    pressure = np.clip(np.rint(rng.normal(105 + 0.4 * age, 12, rows)), 85, 210).astype(int)
    visits = rng.poisson(1 + (age > 65) + (smoker == "current"))
    logit = 0.06 * (age - 55) + 1.2 * (smoker == "current") + 0.12 * (bmi - 26) + 0.6 * (visits - 1.7)
    logit += 0.8 * (ward == "cardiology") - 0.8 * (ward == "orthopaedics") - 0.3
    readmitted = np.where(rng.random_sample(rows) < 1 / (1 + np.exp(-1.6 * logit)), "yes", "no")
    return pandas.DataFrame(
        {
            "age": age, "sex": sex, "smoker": smoker, "region": region, "ward": ward, "bmi": bmi,
            "pressure": pressure, "visits": visits, "readmitted": readmitted,
        }
    )  # fmt: skip


if __name__ == "__main__":
    clinic().to_csv(Path(__file__).with_name("clinic.csv.xz"), index=False, lineterminator="\n")
