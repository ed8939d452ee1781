"""What people look at: the table on the terminal and the self-contained page."""
