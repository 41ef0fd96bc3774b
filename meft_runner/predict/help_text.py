"""The help text of `meft-predict`."""

PREDICT_HELP = """\
meft-predict: the answers of a trained run to new rows, and its scores where the rows have labels.

  meft-predict run=runs/NAME input=new.csv output=answers.jsonl
  meft-predict run=runs/NAME split=validation                     a split of the run's own task
  meft-predict run=runs/NAME task.data_dir=DIR split=test output=test.jsonl
  meft-predict run=runs/NAME prompt="Once upon a time"            a language model goes on, on the terminal

  run=DIR              the folder of a complete run: its record and its trained weights
  input=FILE           rows with the columns of the run's task, .jsonl, .json, .csv, .tsv or .parquet; labels may be
                       missing. CSV has lists and objects (choices, answers, messages) as JSON in a cell.
                       Of images, the column holds paths, which start at the file's folder
  output=FILE          the answers, a row for each row of the input in its order: .jsonl, .csv or .parquet; without it
                       the scores are printed alone
  overwrite=true       replaces an output that is there already
  batch_size=64        rows in one forward pass; as in the run's own scoring unless set
  max_new_tokens=64    longest text that is generated; the run's unless set
  precision=fp32       fp32, bf16 or fp16; the run's unless set
  backbone.path=DIR    where the pre-trained model is now; so for task.data_dir, task.train_file, task.eval_file and
                       task.chat_template

What is written, by the task:
  classes              label, probabilities          grades           grade
  question answering   answer, choice (from 0), log_likelihoods
  SQuAD                answer, n_best: text, score, probability of each
  texts (lm)           of a column prompt: generated; of a column text: log_likelihood, tokens, loss
  instruct, chat       generated; of conversations the answer to the last message of the user. Without an output
                       only runs with task.generate=true write, to score what they write
A column id or idx of the rows comes first. Values are taken as they are typed: no lists, no quotes but the shell's.
"""
