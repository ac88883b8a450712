# %% [markdown]
# # First steps
#
# Prune a model, ask a question, look at what was kept. The bundled model needs no download; any LLaVA, Qwen-VL, InternVL ... from
# `from_pretrained()` works the same way ([own model](../docs/own-model.md)).

# %%
import greedyprune as gp

model, processor = gp.testbed.load()
image, question = gp.testbed.sample(1, seed=5, tasks=("color",))[0]
image

# %%
print(question.text, question.answer)
inputs = processor(images=image, text=gp.testbed.prompt(processor, question), return_tensors="pt")


def answer():
    out = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    return processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


answer()  # with all 144 visual tokens

# %% [markdown]
# Now with 16 of 144. Everything inside the `with` block is pruned; behind it, the model is as it was.

# %%
with gp.prune(model, keep=16) as pruned:
    print(answer())

# %% [markdown]
# A report counts, a selection shows which tokens stayed.

# %%
pruned.report()

# %%
pruned.selections[0]

# %%
pruned.selections[0].show(image, order=True)

# %% [markdown]
# The numbers are turns: the token of number 1 was taken first. Another budget, another method:

# %%
for keep in ("1/2", "1/4", "1/18"):
    for method in ("soft_greedyprune", "divprune", "random"):
        with gp.prune(model, method, keep=keep):
            print(f"{keep:5} {method:17} {answer()}")

# %% [markdown]
# What a method does stands in its card:

# %%
gp.SoftGreedyPrune()

# %% [markdown]
# If a handle is lost, as happens when a cell runs twice, `gp.remove(model)` makes the model whole again.
#
# Next: [choose a method and a budget](../docs/choose.md).
