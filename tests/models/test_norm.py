"""The factors of a decoder's final norm, which `preprocess="rmsnorm"` puts on coordinates."""

from __future__ import annotations

import pytest
import torch

import tiny
from breadth import some
from greedyprune.models.parts import find_parts


@pytest.mark.parametrize("family", some(tiny.BUILDERS, "llava", "gemma3", "qwen2_5_vl"))
def test_they_are_what_the_norm_itself_does(family: str) -> None:
    """Gemma's norms multiply by 1 + weight."""
    parts = find_parts(tiny.tiny(family).model)
    norm = getattr(parts.text, parts.family.norm)
    before, seen = norm.weight.detach().clone(), list[object]()
    watch = norm.register_forward_hook(lambda *_: seen.append(_))
    try:
        torch.manual_seed(1)
        with torch.no_grad():
            norm.weight.copy_(torch.rand_like(norm.weight) + 0.5)
        factors = parts.norm
        assert not seen
        assert factors is not None
        x = torch.randn(5, norm.weight.shape[0])
        x -= x.mean(1, keepdim=True)  # some norms subtract it
        expected = norm(x[None].to(norm.weight.dtype))[0].float()
        if getattr(norm, "bias", None) is not None:
            expected = expected - norm.bias
        found = x * factors
        cosines = torch.nn.functional.cosine_similarity(found, expected)
        assert torch.allclose(cosines, torch.ones(5), atol=1e-5)
    finally:
        watch.remove()
        with torch.no_grad():
            norm.weight.copy_(before)
