"""No model anywhere: choose among plain tensors, then cut whatever else has those rows."""

import torch

import greedyprune as gp

torch.manual_seed(0)
n, d = 576, 64  # the visual tokens of one image, on a grid of 24 x 24
features = torch.randn(n, d)
text = torch.randn(20, d)  # the prompt's text at the same layer, the last prompt token last
positions = torch.arange(35, 35 + n)

keep = gp.select(gp.GreedyPrune(tau=0.25), gp.Cues(features, text=text, grid=(1, 24, 24)), gp.Ratio(1 / 9))

features, positions = keep(features), keep(positions)
print(f"{keep.n} -> {keep.k} tokens, features {tuple(features.shape)}, positions {positions[:4].tolist()} ...")
print(f"taken first: {keep.order[:4].tolist()}; by the method's own rule: {int(keep.before_fallback)} of {keep.k}")

similar = torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=-1).fill_diagonal_(-1)
print(f"largest cosine between two kept tokens: {similar.max():.3f}")
