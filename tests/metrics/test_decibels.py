"""Where images are taken together, a PSNR counts as at most the cap, and says so."""

import math

import numpy as np

from fedpriv.metrics.decibels import PSNR_CAP, capped, decibels
from fedpriv.report.page import Table


def test_an_exact_image_counts_as_the_cap():
    assert capped(np.array([0.0, 99.9, 102.7, math.inf])).tolist() == [0.0, 99.9, PSNR_CAP, PSNR_CAP]


def test_a_number_at_the_cap_is_a_lower_bound():
    assert decibels(31.44) == "31.4"
    assert decibels(100.0, " dB") == decibels(102.7, " dB") == decibels((100.0, 100.0), " dB") == "100 dB or more"
    assert decibels((28.0, 35.25)) == "28.0 to 35.2"
    assert decibels([96.04, 100.0]) == "96.0 or more"
    assert decibels(None) == "none"


def test_tables_write_numbers_over_images_so_and_single_images_as_they_are():
    row = {"psnr": 102.7, "psnr_mean": 100.0, "psnr_interval": (100.0, 100.0), "psnr_median": None}
    table = Table([row, {**row, "psnr_mean": 40.0, "psnr_interval": (30.0, 50.0)}])
    assert [table.cell(row, k)[0] for k in row] == ["102.7", "100 or more", "100 or more", "–"]
    assert table.cell(table.rows[1], "psnr_interval")[0] == "30.0 to 50.0"
    assert table.numeric("psnr_mean")
