"""A local web page on which the tokens of one model, or of two, are looked at: tools/inspector.py.

Everything but `layout` and `page`, which need Gradio, can be imported without it.
"""
