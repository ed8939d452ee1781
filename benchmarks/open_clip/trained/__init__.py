"""mmfm's command beside open_clip's, each loading data as it does, on held-out drawings."""
