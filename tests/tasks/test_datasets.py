"""Data sets from the disk: their content, and the errors when files are missing or damaged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoints
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgenode.entry_points import Group
from edgenode.errors import ConfigError
from edgenode.tasks import datasets, imagefolder
from edgenode.tasks.image_task import ImageTask
from edgenode.tasks.task import NodeInfo
from tests.distributions import forget, install


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder for each test, instead of the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _name: folder)
    return folder


# digits ------------------------------------------------------------------------------------------------


def test_packaged_digits_are_scikit_learns_to_the_bit() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    with np.load(datasets._DIGITS) as arrays:
        assert arrays["images"].astype(np.float64).tobytes() == bunch.images.tobytes()
        assert arrays["labels"].astype(np.int64).tobytes() == bunch.target.tobytes()


def test_digits_are_split_by_class() -> None:
    found = datasets.load("digits")
    with np.load(datasets._DIGITS) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    assert found.train_images.shape == (1442, 1, 8, 8) and found.train_images.dtype == torch.uint8
    assert found.test_images.shape == (355, 1, 8, 8)
    assert (found.num_classes, found.channels, found.image_size) == (10, 1, 8)
    shares = found.test_labels.bincount().numpy() / np.bincount(labels)
    assert ((shares > 0.19) & (shares < 0.21)).all()
    everything = torch.cat([found.train_images, found.test_images]).flatten(1).tolist()
    assert sorted(everything) == sorted(images.reshape(-1, 64).tolist())
    assert found.mean == pytest.approx((found.train_images.double().mean().item(),), rel=1e-12)
    assert found.std == pytest.approx((found.train_images.double().std(correction=0).item(),), rel=1e-12)


def test_second_load_shares_the_first() -> None:
    found = datasets.load("digits")
    assert datasets.load("digits") is found


# missing files ---------------------------------------------------------------------------------------


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        datasets.load("imagefolder", tmp_path / "nowhere")


def test_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        datasets.load("imagefolder", tmp_path)


def test_folder_must_be_given() -> None:
    with pytest.raises(ConfigError, match=r"'imagefolder' needs its folder: set task\.data_dir"):
        datasets.load("imagefolder")


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'digit' is unknown: did you mean 'digits'"):
        datasets.load("digit")


def test_data_set_of_the_laboratory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgenode.entry_points.entry_points", lambda group: EntryPoints(()))
    monkeypatch.setattr(datasets, "DATASETS", Group("edgenode.datasets", Callable, {}))
    with pytest.raises(
        ConfigError, match=r"^dataset 'cifar10': it is part of edgenode-lab, .*: pip install edgenode-lab$"
    ):
        datasets.refuse_unknown("cifar10")


# image folder ------------------------------------------------------------------------------------------


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 9x9 colour images: three each to train on, one each to test."""
    random = np.random.RandomState(0)
    for part, count in (("train", 3), ("test", 1)):
        for name in ("cat", "dog"):
            for number in range(count):
                save(
                    tmp_path / "data" / part / name / f"{number}.png",
                    random.randint(0, 256, (9, 9, 3), np.uint8),
                )
    return tmp_path / "data"


def test_imagefolder_reads_pixels_and_labels_in_order(folder: Path) -> None:
    (folder / "train" / "cat" / "notes.txt").write_text("not an image")
    (folder / "train" / ".hidden").mkdir()
    found = datasets.load("imagefolder", folder)
    assert found.train_images.shape == (6, 3, 9, 9) and found.train_images.dtype == torch.uint8
    assert found.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.test_labels.tolist() == [0, 1]
    pixels = np.asarray(Image.open(folder / "train" / "dog" / "1.png"))
    assert np.array_equal(found.train_images[4].numpy(), pixels.transpose(2, 0, 1))


def test_only_a_changed_folder_is_decoded_again(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    original = imagefolder.pixels_of
    monkeypatch.setattr(imagefolder, "pixels_of", lambda path, size: decoded.append(path) or original(path, size))
    first = imagefolder.read(folder)[0][0].clone()
    assert len(list(cache.iterdir())) == 1
    decoded.clear()
    assert torch.equal(imagefolder.read(folder)[0][0], first)
    assert decoded == []
    white = folder / "train" / "cat" / "0.png"
    save(white, np.full((9, 9, 3), 255, np.uint8))
    os.utime(white, ns=(1, 1))
    assert (imagefolder.read(folder)[0][0][0] == 255).all()
    assert len(list(cache.iterdir())) == 1


def test_unusable_cache_only_costs_time(folder: Path, cache: Path) -> None:
    expected = imagefolder.read(folder)[0][0].clone()
    copy = next(cache.iterdir())
    copy.write_bytes(b"torn")
    assert torch.equal(imagefolder.read(folder)[0][0], expected)
    copy.unlink()
    cache.rmdir()
    cache.write_text("a file where the folder should be")
    assert torch.equal(imagefolder.read(folder)[0][0], expected)


def test_grey_images_have_one_channel_unless_one_is_colour(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for value, name in enumerate("ab"):
            save(tmp_path / part / name / "0.png", np.full((5, 5), 100 + value, np.uint8))
    images = imagefolder.read(tmp_path)[0][0]
    assert images.shape == (2, 1, 5, 5)
    assert images[:, 0, 0, 0].tolist() == [100, 101]
    save(tmp_path / "test" / "b" / "1.png", np.zeros((5, 5, 3), np.uint8))
    assert imagefolder.read(tmp_path)[0][0].shape == (2, 3, 5, 5)


@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_unreadable_image_is_named(folder: Path, content: bytes) -> None:
    (folder / "test" / "dog" / "0.png").write_bytes(content)
    with pytest.raises(ConfigError, match=r"test/dog/0\.png is not a readable image"):
        datasets.load("imagefolder", folder)


def test_truncated_image_is_named(folder: Path) -> None:
    path = folder / "train" / "cat" / "2.png"
    path.write_bytes(path.read_bytes()[:-120])
    with pytest.raises(ConfigError, match=r"train/cat/2\.png is not a readable image"):
        datasets.load("imagefolder", folder)


@pytest.mark.parametrize(("shape", "message"), [((9, 5, 3), "is 5x9"), ((7, 7, 3), "is 7x7, but")])
def test_image_of_another_shape_is_named(folder: Path, shape: tuple[int, int, int], message: str) -> None:
    save(folder / "train" / "dog" / "1.png", np.zeros(shape, np.uint8))
    with pytest.raises(ConfigError, match=rf"train/dog/1\.png {message}"):
        datasets.load("imagefolder", folder)


def test_class_only_in_test_is_named(folder: Path) -> None:
    save(folder / "test" / "emu" / "0.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"test/emu is a class that train/ does not have"):
        datasets.load("imagefolder", folder)


def test_class_without_an_image_is_named(folder: Path) -> None:
    (folder / "train" / "emu").mkdir()
    with pytest.raises(ConfigError, match=r"train/emu contains no image"):
        datasets.load("imagefolder", folder)


def test_named_classes_keep_their_labels_on_every_node(folder: Path) -> None:
    """A node may lack images of a class. Its labels still mean the same as on the other nodes."""
    found = datasets.load("imagefolder", folder, ["owl", "dog", "cat"])
    assert (found.classes, found.num_classes) == (("cat", "dog", "owl"), 3)
    assert found.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(ConfigError, match=r"train/dog is a class that task\.classes does not name$"):
        datasets.load("imagefolder", folder, ["cat", "owl"])
    for picture in (folder / "train" / "cat").iterdir():
        picture.unlink()
    (_, labels), _, (listing, _) = imagefolder.read(folder, ["dog", "cat"])
    assert (labels.tolist(), listing.classes) == ([1, 1, 1], ("cat", "dog"))


def test_folder_without_test_images_has_none(folder: Path) -> None:
    shutil.rmtree(folder / "test")
    found = datasets.load("imagefolder", folder)
    assert (len(found.train_labels), len(found.test_labels)) == (6, 0)
    task = ImageTask("imagefolder")
    assert task.test_data(NodeInfo("n0", folder)) is None


def test_photos_of_any_shape_are_scaled_and_cropped(folder: Path) -> None:
    wide = np.zeros((60, 100, 3), np.uint8)
    wide[:, 20:80] = 200  # what remains of the middle
    save(folder / "train" / "cat" / "wide.jpg", wide)
    tall = Image.fromarray(np.full((90, 30, 3), 50, np.uint8))
    tall.paste((250, 250, 250), (0, 60, 30, 90))  # the bottom, which a phone held upright stores at the right
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show
    tall.save(folder / "train" / "cat" / "upright.jpg", exif=exif)
    found = datasets.load("imagefolder", folder, image_size=12)
    assert found.train_images.shape == (8, 3, 12, 12)
    by_name = dict(zip(sorted(["0", "1", "2", "upright", "wide"]), found.train_images, strict=False))
    assert by_name["wide"].float().mean() > 190
    assert by_name["upright"].float().mean() < 70  # its middle, and neither end
    assert datasets.load("imagefolder", folder, image_size=9).image_size == 9  # the decoded copy is of another size


def test_own_photos_are_normalised_alike_on_every_node(folder: Path) -> None:
    task = ImageTask("imagefolder", common_moments=True)
    task.train_data(NodeInfo("n0", folder))
    assert task.dataset.mean == pytest.approx((123.675, 116.28, 103.53))
    grey = datasets.with_common_moments(datasets.load("digits"))
    assert (grey.mean, grey.std) == (pytest.approx((114.495,)), pytest.approx((57.63,)))


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    save(tmp_path / "train" / "only" / "0.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ConfigError, match="has 1 class folders"):
        datasets.load("imagefolder", tmp_path)


# --- data sets of packages

SOURCE = """
import torch
from edgenode.tasks.datasets import from_images

def pair(count, last=2):
    return torch.zeros(count, 1, 8, 8), torch.arange(count) % (last + 1)

def thirds(data_dir):
    return from_images(pair(6), pair(3), 3)

def wrong_label(data_dir):
    return from_images(pair(6, last=3), pair(3), 3)

def wrong_shape(data_dir):
    return from_images((pair(6)[0], pair(5)[1]), pair(3), 3)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    points = {name: f"acme_data:{name}" for name in ("thirds", "wrong_label", "wrong_shape", "absent")}
    install(tmp_path, monkeypatch, {"edgenode.datasets": points}, SOURCE, "acme_data")
    yield
    forget(datasets.DATASETS)


@pytest.mark.usefixtures("package")
def test_data_set_of_a_package_is_read_by_its_name() -> None:
    found = datasets.load("thirds")
    assert (len(found.train_labels), found.num_classes, found.mean) == (6, 3, (0.0,))
    assert datasets.DATASETS.names()[:2] == datasets.DATASETS.own
    assert {"absent", "thirds", "wrong_label", "wrong_shape"} < set(datasets.DATASETS.names())


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("wrong_label", "a label is not from 0 to 2"),
        ("wrong_shape", r"images and int64 labels are \[6, 1, 8, 8\] and \[5\]"),
        ("absent", "acme 1.0 cannot be imported: AttributeError"),
    ],
)
def test_data_set_of_a_package_that_cannot_be_used_is_named(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"dataset '{name}': {reason}"):
        datasets.load(name)
