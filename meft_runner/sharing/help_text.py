"""The help text of `meft-share`."""

SHARE_HELP = """\
meft-share: the trained weights of a run on the model hub, with a model card.

  meft-share run=runs/NAME to=owner/name
  meft-share run=runs/NAME to=owner/name private=true

  run=DIR              the folder of a complete run
  to=OWNER/NAME        the repository, of you or of an organisation; it is made where it is missing
  private=true         a repository that is made is visible to its owner alone
  overwrite=true       replaces the files of what the repository holds already; its history keeps them

Pushed are the trained weights, their description and README.md, the model card, of the run's folder adapter/: edit the
card there before. Nothing names a folder of this machine. The token is that of `hf auth login`, or HF_TOKEN; it must be
one that may write, and is neither printed nor kept.
"""
