"""SQuAD's scores, written a second time from what the published evaluate-v1.1.py and evaluate-v2.0.py compute.

The wording is ours and shares nothing with the package; scores are percentages, as the scripts print them.
"""

import re
import string


def evaluate_v1(rows, predictions):
    """Scores as evaluate-v1.1.py: {"exact_match", "f1"} of {id: answer}."""
    exact = f1 = 0.0
    for row in rows:
        golds, answer = row["answers"]["text"], predictions[row["id"]]
        exact += max(simplified(answer) == simplified(gold) for gold in golds)
        f1 += max(overlap_v1(answer, gold) for gold in golds)
    return {"exact_match": 100 * exact / len(rows), "f1": 100 * f1 / len(rows)}


def evaluate_v2(rows, predictions):
    """Scores as evaluate-v2.0.py, whose name for the first is "exact": golds that come to nothing do not count."""
    exact, f1 = [], []
    for row in rows:
        golds = [gold for gold in row["answers"]["text"] if simplified(gold) != ""]
        golds = golds if golds else [""]
        answer = predictions[row["id"]]
        exact.append(max(int(simplified(answer) == simplified(gold)) for gold in golds))
        f1.append(max(overlap_v2(answer, gold) for gold in golds))
    return {"exact_match": 100.0 * sum(exact) / len(rows), "f1": 100.0 * sum(f1) / len(rows)}


def simplified(text):
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(word for word in re.sub(r"\b(?:the|an|a)\b", " ", text).split())


def overlap_v1(answer, gold):
    answer_words, gold_words = simplified(answer).split(), simplified(gold).split()
    common = words_in_common(answer_words, gold_words)
    if common == 0:
        return 0.0
    precision, recall = common / len(answer_words), common / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def overlap_v2(answer, gold):
    if simplified(answer) == "" or simplified(gold) == "":
        return float(simplified(answer) == simplified(gold))
    return overlap_v1(answer, gold)


def words_in_common(words, others):
    left = list(others)
    for word in words:
        if word in left:
            left.remove(word)
    return len(others) - len(left)
