import numpy as np
import pytest
from PIL import Image

from fedpriv.base.errors import DataError, ParameterError
from fedpriv.data.image_folder import read_image_folder


def put(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


RED = np.full((32, 32, 3), (255, 0, 0), np.uint8)
GREY = np.full((20, 40), 100, np.uint8)


def test_classes_are_numbered_alphabetically_and_pixels_kept(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    put(tmp_path / "zebra" / "1.png", pixels)
    put(tmp_path / "ant" / "1.png", RED)
    put(tmp_path / "ant" / "2.PNG", RED)
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    train, test = read_image_folder(tmp_path, "toy")
    assert test is None
    assert train.class_names == ("ant", "zebra")
    assert train.y.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(train.x[2], pixels)
    assert train.x.dtype == np.uint8


def test_resizing_keeps_the_centre_square(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    put(tmp_path / "a" / "1.png", wide)
    train, _ = read_image_folder(tmp_path, "toy", image_size=8)
    assert train.x.shape == (1, 8, 8, 3)
    assert train.x.min() == 255


def test_grey_stays_grey_only_if_all_are(tmp_path):
    put(tmp_path / "a" / "1.png", GREY)
    put(tmp_path / "b" / "1.jpg", GREY)
    train, _ = read_image_folder(tmp_path, "toy", image_size=16)
    assert train.x.shape == (2, 16, 16, 1)
    assert abs(int(train.x[0, 0, 0, 0]) - 100) <= 1
    put(tmp_path / "b" / "2.png", RED)
    train, _ = read_image_folder(tmp_path, "toy", image_size=16)
    assert train.x.shape == (3, 16, 16, 3)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    put(tmp_path / "a" / "1.png", np.full((4, 4), 128 * 257, np.uint16))
    train, _ = read_image_folder(tmp_path, "toy", image_size=4)
    assert np.unique(train.x).tolist() == [128]


def test_transparent_pixels_become_white(tmp_path):
    put(tmp_path / "a" / "1.png", np.zeros((4, 4, 4), np.uint8))
    train, _ = read_image_folder(tmp_path, "toy", image_size=4)
    assert train.x.min() == 255


def test_exif_orientation_is_applied(tmp_path):
    half = np.zeros((16, 16, 3), np.uint8)
    half[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    put(tmp_path / "a" / "1.png", half, exif=exif)
    train, _ = read_image_folder(tmp_path, "toy", image_size=16)
    assert train.x[0, 0].max() == 0
    assert train.x[0, 15].min() == 255


def test_train_and_test_folders(tmp_path):
    for c in ("a", "b"):
        put(tmp_path / "train" / c / "1.png", RED)
    put(tmp_path / "test" / "b" / "1.png", RED)
    train, test = read_image_folder(tmp_path, "toy")
    assert train.y.tolist() == [0, 1]
    assert test.y.tolist() == [1]
    assert test.num_classes == 2
    put(tmp_path / "test" / "c" / "1.png", RED)
    with pytest.raises(DataError, match=r"test/c: no such class in .*train"):
        read_image_folder(tmp_path, "toy")


def test_a_class_may_be_called_train(tmp_path):
    put(tmp_path / "train" / "1.png", RED)
    put(tmp_path / "trout" / "1.png", RED)
    train, _ = read_image_folder(tmp_path, "toy")
    assert train.class_names == ("train", "trout")


def test_empty_folders(tmp_path):
    with pytest.raises(DataError, match="no class folders"):
        read_image_folder(tmp_path, "toy")
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"no images in its subfolders \(a\)"):
        read_image_folder(tmp_path, "toy")
    put(tmp_path / "b" / "1.png", RED)
    with pytest.raises(DataError, match=r"/a: an empty class folder"):
        read_image_folder(tmp_path, "toy")


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_unreadable_image_is_named(tmp_path, content):
    path = tmp_path / "a" / "broken.png"
    put(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:3000] if content is None else content)
    with pytest.raises(DataError, match=r"broken.png: no readable image"):
        read_image_folder(tmp_path, "toy")


def test_an_unknown_range_is_refused(tmp_path):
    put(tmp_path / "a" / "1.tiff", np.full((4, 4), 0.5, np.float32))
    with pytest.raises(DataError, match=r"1.tiff.*pixel mode F"):
        read_image_folder(tmp_path, "toy")


@pytest.mark.parametrize("size", [0, -1, 5000])
def test_an_impossible_size(tmp_path, size):
    with pytest.raises(ParameterError, match="image_size"):
        read_image_folder(tmp_path, "toy", image_size=size)
