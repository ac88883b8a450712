# %% [markdown]
# # Prune a video
#
# With a model that reads clips it is the same call; the whole clip is one selection:
#
# ```python
# with gp.prune(model, gp.EVS(), keep=gp.Ratio(0.25)) as pruned:
#     out = model.generate(**inputs, max_new_tokens=60)
# print(pruned.selections[0].grid)   # (t, h, w)
# ```
#
# This notebook needs no such model. It makes a clip of eight frames, lets the bundled vision tower encode each, and chooses among the tokens of
# all frames on plain tensors, as an engine with a forward of its own would.

# %%
import torch

import greedyprune as gp

model, processor = gp.testbed.load()
scene = gp.testbed.sample(1, seed=5, tasks=("color",))[0].image
frames = []
for time in range(8):
    frame = scene.copy()
    frame.paste("red", (20 * time, 10, 20 * time + 24, 34))  # a red square that moves to the right
    frames.append(frame)
gp.plots.side_by_side(frames, columns=4, width=150)

# %%
pixels = processor.image_processor(images=frames, return_tensors="pt")["pixel_values"]
with torch.inference_mode():
    tokens = torch.stack(list(model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output))
t, n, d = tokens.shape
cues = gp.Cues(tokens.reshape(t * n, d), grid=(t, 12, 12))
tokens.shape

# %% [markdown]
# EVS keeps the first frame and then what changes. Of 1,152 tokens a quarter stays: the first frame, and the places where the square was and is.

# %%
keep = gp.select(gp.EVS(), cues, gp.Ratio(1 / 4))


def drawn(keep):
    sheets = []
    for time, frame in enumerate(frames):
        mine = keep.rows[(keep.rows >= time * n) & (keep.rows < (time + 1) * n)] - time * n
        one = gp.Keep.from_order(mine, torch.zeros(len(mine)), n)
        sheets.append(gp.plots.overlay(frame, one, grid=(1, 12, 12), size=150))
    return gp.plots.side_by_side(sheets, [f"frame {time}" for time in range(t)], columns=4, width=150)


drawn(keep)

# %% [markdown]
# `gp.PerFrame` gives every frame its own budget instead, so that no frame is lost, and a picture that stands still is kept eight times:

# %%
drawn(gp.select("divprune", cues, gp.PerFrame(16)))

# %% [markdown]
# Which families read clips, and how positions in time are kept: [videos](../docs/video.md).
