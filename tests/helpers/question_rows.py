"""A row of each question-answering task with several answers."""

ARC = {
    "question": "What boils at 100 degrees?",
    "choices": {"text": ["iron", "water from a well", "a stone", "air"], "label": ["1", "2", "3", "4"]},
    "answerKey": "2",
}
PIQA = {"goal": "open a jar", "sol1": "turn the lid", "sol2": "turn the bottom of it", "label": 0}
SCIQ = {
    "question": "What do plants need?", "support": " Plants live on light.", "correct_answer": "light",
    "distractor1": "iron", "distractor2": "salt", "distractor3": "sugar and spice",
}  # fmt: skip
OPENBOOKQA = {"question_stem": "The sun is ", "choices": ARC["choices"], "answerKey": "2"}
ROWS = {"arc_easy": ARC, "arc_challenge": ARC, "piqa": PIQA, "sciq": SCIQ, "openbookqa": OPENBOOKQA}
