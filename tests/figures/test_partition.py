import numpy as np
import pytest

from fedpriv.data import Partition, dirichlet, iid, quantity_skew
from fedpriv.figures.partition import class_counts, partition_figure

LABELS = np.tile(np.arange(10), 100)


def test_class_counts():
    partition = Partition("toy", (np.array([0, 1, 10]), np.array([3])))
    assert class_counts(partition, LABELS).tolist() == [[2, 1, 0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]]


def drawn_totals(axes):
    return {c.get_label(): sum(bar.get_width() for bar in c) for c in axes.containers}


def test_few_clients_are_bars_whose_widths_are_the_counts():
    names = [f"name {c}" for c in range(10)]
    figure = partition_figure(dirichlet(LABELS, 10, 0.3, seed=1), LABELS, names)
    (axes,) = figure.axes
    assert drawn_totals(axes) == dict.fromkeys(names, 100)
    assert len({tuple(c.patches[0].get_facecolor()) for c in axes.containers}) == 10
    assert [t.get_text() for t in axes.get_legend().get_texts()] == names
    assert "dirichlet(clients=10, alpha=0.3)" in figure.get_suptitle()
    assert "examples a client: 100" in figure.get_suptitle()


@pytest.mark.parametrize("clients", [3, 100, 1000])
def test_the_legend_lies_off_the_data(tmp_path, clients):
    figure = partition_figure(quantity_skew(LABELS, clients, 0.5, seed=1), LABELS)
    figure.savefig(tmp_path / "f.png")
    (axes,) = figure.axes
    assert not axes.get_legend().get_window_extent().overlaps(axes.get_window_extent())
    assert (tmp_path / "f.png").stat().st_size > 5000
    low, high = sorted(axes.get_ylim())
    assert (low, high) == (-0.5, clients - 0.5)


def test_many_clients_are_silhouettes_with_the_same_area():
    figure = partition_figure(iid(LABELS, 100, seed=1), LABELS)
    (axes,) = figure.axes
    assert len(axes.collections) == 10
    for silhouette in axes.collections:
        x, y = silhouette.get_paths()[0].vertices.T
        area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
        assert area == pytest.approx(100)


def test_many_classes_are_a_heat_map():
    labels = np.tile(np.arange(30), 20)
    partition = dirichlet(labels, 12, 0.1, seed=1)
    figure = partition_figure(partition, labels)
    left, right = figure.axes[:2]
    np.testing.assert_array_equal(left.images[0].get_array().filled(0), class_counts(partition, labels))
    assert [bar.get_width() for bar in right.patches] == partition.sizes.tolist()


def test_too_few_names_are_not_used():
    figure = partition_figure(iid(LABELS, 5), LABELS, ["only one"])
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "class 0"
