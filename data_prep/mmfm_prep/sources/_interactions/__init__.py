"""Events (who chose what, when) ▶ histories of people, and the tables that they come in."""
