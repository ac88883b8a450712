"""Six lines: load a model, prune it, ask a question. The bundled model needs no download."""

import greedyprune as gp

model, processor = gp.testbed.load()
image, question = gp.testbed.sample(1)[0]
inputs = processor(images=image, text=gp.testbed.prompt(processor, question), return_tensors="pt")

with gp.prune(model, gp.GreedyPrune(), keep=16) as pruned:
    out = model.generate(**inputs, do_sample=False)

answer = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
print(f"{question.text} {answer} (right answer: {question.answer})")
print(pruned.report())
