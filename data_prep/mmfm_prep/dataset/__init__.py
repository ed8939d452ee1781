"""What can be done with a dataset that is there: looked at, checked, counted, indexed."""
