"""What the project is measured with: generated scenes and the report of the paper's tables."""
