# %% [markdown]
# # Write your own method
#
# A method is a frozen dataclass with a `select`. It sees one image's cues and no model. `Unusual` takes the tokens that are farthest from the
# mean of the image; `Careless` makes a mistake, to see what happens. Methods live in a module, so that other processes find them by name.

# %%
from pathlib import Path

Path("my_methods.py").write_text(
    '''
from dataclasses import dataclass

import torch

import greedyprune as gp
from greedyprune.keep import protected_first


@dataclass(frozen=True, kw_only=True)
class Unusual(gp.Method):
    """Top-k by the distance of a token's direction from the image's mean direction."""

    power: float = 1.0
    """The exponent of the distance."""

    def select(self, cues: gp.Cues, k: int) -> gp.Keep:
        rows = torch.nn.functional.normalize(cues.features.double(), dim=1)
        distance = (1 - rows @ torch.nn.functional.normalize(rows.mean(0), dim=0)).clamp(min=0) ** self.power
        order = protected_first(distance.argsort(descending=True, stable=True), cues.protect)[:k]
        return gp.Keep.from_order(order, distance[order], cues.n)


class Careless(Unusual):
    """Unusual, but it keeps one token too few."""

    def select(self, cues: gp.Cues, k: int) -> gp.Keep:
        return super().select(cues, k - 1)
'''
)
from my_methods import Careless, Unusual

Unusual()

# %% [markdown]
# The contract of methods, on made-up cues. A broken promise is an error that names it.

# %%
from greedyprune.testing import check_method

check_method(Unusual())
try:
    check_method(Careless())
except (AssertionError, ValueError) as error:
    print(error)

# %% [markdown]
# Use it like any other, and see what it keeps.

# %%
import greedyprune as gp

model, processor = gp.testbed.load()
image, question = gp.testbed.sample(1, seed=5, tasks=("color",))[0]
inputs = processor(images=image, text=gp.testbed.prompt(processor, question), return_tensors="pt")
with gp.prune(model, Unusual(), keep=16) as pruned:
    out = model.generate(**inputs, max_new_tokens=6, do_sample=False)
print(question.text, processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
pruned.selections[0].show(image)

# %% [markdown]
# Is it better than chance? 60 questions, a ninth of the tokens:

# %%
import tempfile

from greedyprune.eval import Engine, Job, Scenes, configurations, evaluate, rows

engine = Engine(model, processor)
configs = configurations([Unusual(), "soft_greedyprune", "random", "grid"], {"1/9": gp.Ratio(1 / 9)})
for row in rows(evaluate(engine, Job(Scenes(6).items(), configs), Path(tempfile.mkdtemp()))):
    if row["task"] == "mean":
        print(f"{row['method']:24}{row['budget']:5}{100 * row['accuracy']:.1f} %")

# %% [markdown]
# In a package, an entry point gives it a short name that all commands know ([own method](../docs/own-method.md)).
