"""Four methods at the same budget on the same questions. The bundled model is evidence about itself only."""

import greedyprune as gp

METHODS = ("greedyprune", "saliency", "random", "grid")
model, processor = gp.testbed.load()
items = gp.testbed.sample(40, tasks=("count", "ocr"))  # the tasks that need several patches


def right_answers() -> int:
    """How many questions the model answers correctly as it is now."""
    right = 0
    for image, question in items:
        inputs = processor(images=image, text=gp.testbed.prompt(processor, question), return_tensors="pt")
        out = model.generate(**inputs, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        right += gp.testbed.correct(question, processor.decode(out, skip_special_tokens=True))
    return right


print(f"all 144 tokens        {right_answers()} of {len(items)}")
for method in METHODS:
    with gp.prune(model, method, keep=8):
        print(f"{method:12} 8 tokens  {right_answers()} of {len(items)}")
