# %% [markdown]
# # Compare methods on your own questions
#
# Your questions are a folder of pictures with one `.jsonl` file. Here we make such a folder from generated scenes; put your own in its place.

# %%
import json
import tempfile
from pathlib import Path

import greedyprune as gp

folder = Path(tempfile.mkdtemp()) / "my-questions"
folder.mkdir()
with (folder / "questions.jsonl").open("w") as file:
    for number, (image, question) in enumerate(gp.testbed.sample(60, seed=1, tasks=("color", "ocr", "count"))):
        image.save(folder / f"{number}.png")
        line = {"image": f"{number}.png", "question": question.text, "answer": question.answer, "task": question.task}
        file.write(json.dumps(line) + "\n")
print((folder / "questions.jsonl").read_text().splitlines()[0])

# %% [markdown]
# All methods answer the very same questions. `random` and `grid` read nothing: a method that does not beat them is not worth its time.

# %%
from greedyprune.eval import Engine, Job, configurations, evaluate, rows
from greedyprune.eval.folder import Folder

engine = Engine(*gp.testbed.load())
budgets = {"1/4": gp.Ratio(1 / 4), "1/9": gp.Ratio(1 / 9)}
configs = configurations(["soft_greedyprune", "divprune", "random", "grid"], budgets)
answers = evaluate(engine, Job(Folder(folder).items(), configs), Path(tempfile.mkdtemp()))
table = rows(answers)

# %%
print(f"{'method':18}{'kept':6}{'right':8}difference to all tokens (95 %)")
for row in table:
    if row["task"] == "mean":
        low, high = row["dense_low"], row["dense_high"]
        between = "" if row["method"] == "dense" else f"{100 * low:+.1f} to {100 * high:+.1f} points"
        print(f"{row['method']:18}{row['budget']:6}{100 * row['accuracy']:<8.1f}{between}")

# %% [markdown]
# 60 questions are few: look at the intervals. By kind of question:

# %%
for row in table:
    if row["task"] != "mean" and row["budget"] in ("all", "1/9") and row["method"] in ("dense", "soft_greedyprune"):
        print(f"{row['method']:18}{row['task']:8}{row['correct']} of {row['n']}")

# %% [markdown]
# The same from the command line, with a report as one HTML file:
#
# ```bash
# greedyprune eval --data my-questions --model ./my-llava --methods soft_greedyprune,divprune,random,grid --keep 1/4,1/9 --report report.html
# ```
