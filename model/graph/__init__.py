"""From a trained network to a bundle: the graph that is served, its int8 form, its smaller tables, what explains it.

In comes what knows both torch and ONNX; the service opens what comes out and imports none of it.
"""
