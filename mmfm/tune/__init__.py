"""The command `mmfm tune`: a search for the settings of a recipe, by optuna.

`space` reads what is searched, `study` keeps the trials of all processes apart, `trial` runs one
and follows its scores, `result` and `page` tell what was found.
"""
