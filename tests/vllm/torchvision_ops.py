"""PyPI's torchvision beside a torch for CPUs: declare the operators without which its Python part does not import.

It lies in site-packages beside `torchvision_ops.pth`, which imports it in every process. It costs nothing until
somebody imports torchvision. No operator is implemented, and no image processor of the models here uses one.
"""

from __future__ import annotations

import importlib.abc
import sys
from typing import Any


class _Declare(importlib.abc.MetaPathFinder):
    """A finder that finds nothing, and declares the operators if torchvision is about to be imported."""

    library: Any = None

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            _Declare.library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                self.library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, _Declare())
