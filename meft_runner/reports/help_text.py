"""The help text of `meft-tables`."""

TABLES_HELP = """\
meft-tables: tables, figures and a report, made from the records of complete runs alone.

  meft-tables output_dir=runs tables_dir=tables report=true

  output_dir=runs      the folder of the runs, as of meft-run
  tables_dir=DIR       writes every table (.md, .csv, .tex) and figure (.png, .svg) there; tables are printed too
  report=true          writes all of them as one page too, report.html (tables_dir=tables unless set)
  overwrite=true       replaces files in tables_dir that no earlier call has made, or that were edited since

Searches (meft-run -m hpo=optuna) have a table of their trials and a figure: the score by trial and by each setting.
A record that cannot be read is left out, and one line on standard error says why. In tables_dir only files
that an earlier call has made are replaced, and only those that are made anew; the others of an earlier call stay, and
are named. A file of yours that is in the way is refused before anything is written.
"""
