"""File names of a model folder, apart from the code that reads it, so that looking for models loads no torch."""

WEIGHTS = "weights.safetensors"
PLAN = "plan.json"
TASK = "task.json"
TRAINING = "training.json"
METRICS = "metrics.json"
CARD = "card.md"
