"""The paper's tables beside this project's own figures; see tools/reproduce.py."""
