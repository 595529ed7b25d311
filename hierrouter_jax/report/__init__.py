"""What people look at: figures, tables and one self-contained page."""
