"""Says what a board's camera sees, by the newest model of the training that goes on beside it."""

import argparse
import time

import torch
from detector import Detector, found_in
from pictures import BOARDS, pictures

import edgenode

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model", help="the model.safetensors of the board, or its state folder")
parser.add_argument("--board", type=int, default=0)
parser.add_argument("--pictures", type=int, default=20, help="how many to look at, one a second")
given = parser.parse_args()

torch.set_num_threads(1)  # leave the other cores to the training
names = BOARDS[given.board]
live = edgenode.LiveModel(given.model, Detector(len(names)), wait_s=300)
camera = pictures(given.board, names, given.pictures, seed=10**6 + 1)  # yours takes a photo in the loop below
for image, _, labels in camera:
    live.refresh()
    with torch.inference_mode():
        logits, boxes = live.model(image[None])
    seen = [
        f"{names[label]} {score:.0%} at {', '.join(f'{side:.0f}' for side in box.tolist())}"
        for box, label, score in zip(*found_in(logits[0], boxes[0]), strict=True)
        if score >= 0.5
    ]
    there = ", ".join(names[label] for label in labels.tolist() if label >= 0)
    print(f"round {live.round}: {'; '.join(seen) or 'nothing'} (in the picture: {there})", flush=True)
    time.sleep(1)
