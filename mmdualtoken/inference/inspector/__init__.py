"""A local web page that shows the tokens of one model, or of two: tools/inspector.py."""
