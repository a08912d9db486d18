"""The report of `python -m model.reproduce`: what was measured becomes one dict, and the dict becomes one page.

arguments.py which networks, whose scores; what is refused
work.py      the runs that are not done yet, and the report after each
runs.py      one run; variants.py what it is a run of
gather.py    finished runs → the dict that is written as report.json
probes.py    what is measured of one model beyond model/evaluate.py: attention, scoring times, AUC by history length
papers.py    the papers' own tables
plots.py     the dict → SVG
page.py      the dict → one HTML file, nothing to load from anywhere
told.py      the dict → a terminal's table, and a line for scripts
"""
