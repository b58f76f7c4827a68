"""The coordinator: knows who is here, who is let in, and who drafts for whom. Holds no model files."""
