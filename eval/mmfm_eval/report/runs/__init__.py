"""The pages that runs write of themselves; a module's `Config` is the section `report` of a recipe.

It has `write(folder)`, which makes report.html of what the run left in its folder; `lines(folder)`,
what the terminal shows at the end; and `mistakes`, how many of each task an evaluation keeps.
"""
