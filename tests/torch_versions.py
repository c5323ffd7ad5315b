"""Marks of tests that need a newer torch than the oldest that edgenode allows."""

from __future__ import annotations

import pytest
import torch

has_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9 has no Muon")
