"""The example of a detector with heads of each board's own, in real processes, and its measure."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "detector"
MODULES = "detector", "pictures"
LEFT, RIGHT, NOWHERE = [0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [40.0, 40.0, 48.0, 48.0]
HALF_OF_LEFT = [0.0, 0.0, 10.0, 5.0]


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    import detector

    yield detector
    for name in MODULES:
        sys.modules.pop(name, None)


def found(*boxes: tuple[list[float], int, float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    places, labels, scores = zip(*boxes, strict=True)
    return torch.tensor(places), torch.tensor(labels), torch.tensor(scores)


def truth(*boxes: tuple[list[float], int]) -> tuple[torch.Tensor, torch.Tensor]:
    places, labels = zip(*boxes, strict=True)
    return torch.tensor(places), torch.tensor(labels)


def test_precision_of_known_boxes(detector: ModuleType) -> None:
    there = [truth((LEFT, 0), (RIGHT, 0)), truth((LEFT, 1), (NOWHERE, -1))]  # -1 is no object

    def score(*of_pictures: object) -> float:
        measured: float = detector.mean_average_precision(of_pictures, there)
        return measured

    right = found((LEFT, 1, 0.6))
    assert score(found((LEFT, 0, 0.9), (RIGHT, 0, 0.8)), right) == 1
    assert score(found((LEFT, 0, 0.9), (RIGHT, 1, 0.5)), right) == pytest.approx(0.75)  # one is not found
    assert score(found((LEFT, 0, 0.9), (LEFT, 0, 0.8), (RIGHT, 0, 0.7)), right) == pytest.approx((1 + 2 / 3 + 2) / 4)
    assert score(found((NOWHERE, 0, 0.9), (LEFT, 0, 0.8), (RIGHT, 0, 0.7)), right) == pytest.approx((2 / 3 + 1) / 2)
    assert score(found((HALF_OF_LEFT, 0, 0.9), (RIGHT, 0, 0.8)), found((RIGHT, 1, 0.9))) == pytest.approx(0.5)
    assert score(found((LEFT, 1, 0.9)), found((RIGHT, 1, 0.9))) == 0


def test_one_box_is_kept_of_those_that_overlap(detector: ModuleType) -> None:
    boxes = torch.tensor([LEFT, [0.0, 0.0, 10.0, 9.0], RIGHT, NOWHERE])
    logits = torch.tensor([[2.0, -9], [3.0, -9], [-9, 1.0], [-9, -9]])  # the last is nothing
    kept, labels, scores = detector.found_in(logits, boxes)
    assert kept.tolist() == boxes[[1, 2]].tolist()
    assert labels.tolist() == [0, 1]
    assert scores.tolist() == pytest.approx(torch.tensor([3.0, 1.0]).sigmoid().tolist())


def test_scripts_are_short() -> None:
    assert all(len(script.read_text().splitlines()) < 120 for script in EXAMPLE.glob("*.py"))


@pytest.mark.slow
def test_boards_find_their_objects_while_a_camera_answers(tmp_path: Path) -> None:
    training = [sys.executable, "-m", "edgenode", "launch", "--nodes", "4", "--out", str(tmp_path), "train.py"]
    file = tmp_path / "node-0" / "model.safetensors"
    camera = [sys.executable, "camera.py", str(file), "--board", "0", "--pictures", "12"]
    with (tmp_path / "camera.txt").open("w") as answers:
        beside = subprocess.Popen(camera, cwd=EXAMPLE, stdout=answers, stderr=subprocess.STDOUT)
        try:
            command = [*training, "--", "--board", "{index}"]
            done = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, timeout=500, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            assert beside.wait(60) == 0, (tmp_path / "camera.txt").read_text()
        finally:
            beside.kill()
    precisions = [float(share) for share in re.findall(r"mAP ([\d.]+)%", done.stdout)]
    assert len(precisions) == 4
    assert min(precisions) >= 60
    assert sum(precisions) / 4 >= 70
    seen = [line for line in (tmp_path / "camera.txt").read_text().splitlines() if line.startswith("round ")]
    rounds = [int(line.split()[1].rstrip(":")) for line in seen]
    assert len(seen) == 12
    assert rounds == sorted(rounds)
    assert rounds[0] < 100, "the camera answered before the end"
    assert any("%" in line for line in seen), seen
