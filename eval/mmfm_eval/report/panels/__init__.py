"""The panels of a report page, one module each; a module's name is the ``type`` of a panel in YAML,
and its template lies beside it.
"""
