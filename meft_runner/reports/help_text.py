"""The help text of `meft-tables`."""

TABLES_HELP = """\
meft-tables: tables, figures and a report, made from the records of complete runs alone.

  meft-tables output_dir=runs tables_dir=tables report=true

  output_dir=runs      the folder of the runs, as of meft-run
  tables_dir=DIR       writes every table (.md, .csv, .tex) and figure (.png, .svg) there; tables are printed too
  report=true          writes all of them as one page too, report.html (tables_dir=tables unless set)

Searches (meft-run -m hpo=optuna) have a table of their trials and a figure: the score by trial and by each setting.
A record that cannot be read is left out, and one line on standard error says why. In tables_dir only the files
that are made anew are replaced; those of an earlier call that these runs have nothing for stay, and are named.
"""
