"""The paper's tables with this project's own figures; see tools/reproduce.py."""
