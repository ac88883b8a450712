# %% [markdown]
# # Serve
#
# One pruned model, many requests, each with a budget and a result of its own.

# %%
from threading import Thread

from transformers import TextIteratorStreamer

import greedyprune as gp

model, processor = gp.testbed.load()
image, question = gp.testbed.sample(1, seed=5, tasks=("color",))[0]
inputs = processor(images=image, text=gp.testbed.prompt(processor, question), return_tensors="pt")
pruned = gp.prune(model, keep=64)

# %% [markdown]
# A request says what it wishes, runs once, and knows its own report.

# %%
request = pruned.request(keep=16)
request.generate(**inputs, max_new_tokens=6)
request.report()

# %% [markdown]
# Four requests with four budgets at once, in threads. Nothing is kept per thread.

# %%
requests = [pruned.request(keep=keep) for keep in (8, 16, 32, "1/2")]
threads = [Thread(target=each.generate, kwargs={**inputs, "max_new_tokens": 6}) for each in requests]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
[each.selections[0].k for each in requests]

# %% [markdown]
# Streaming: the words come while the answer is made.

# %%
streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
request = pruned.request(keep=16)
thread = Thread(target=request.generate, kwargs={**inputs, "streamer": streamer, "max_new_tokens": 6})
thread.start()
print(question.text, *streamer)
thread.join()

# %% [markdown]
# A policy goes to a plain dict, as a server's JSON holds it. A stranger's dict is read with `own=False`, which imports nothing.

# %%
policy = gp.Policy.from_dict({"method": "divprune", "keep": "25%"}, own=False)
request = pruned.request(policy)
request.generate(**inputs, max_new_tokens=6)
request.report()

# %%
pruned.remove()

# %% [markdown]
# More: [serving](../docs/serving.md).
