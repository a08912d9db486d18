"""What goes wrong around a running service, on purpose, and what callers may see while it does.

`table.py` names every fault with what it does and what it promises. A real service, a real redis-server and a proxy of
ours between them (`world.py`) go through each; `test_faults.py` in short, `python -m tests.faults` in full.
"""
